"""The registry: embeddings, their generations, and how far each backfill is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REGCLASS

revision = "0001"
down_revision = None

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    op.execute("CREATE SCHEMA qwen_embed")
    op.execute("COMMENT ON SCHEMA qwen_embed IS 'pg_qwen_embed: one view per embedding; what applications query'")
    op.execute("COMMENT ON SCHEMA _qwen_embed IS 'pg_qwen_embed: its machinery; internal, may change between versions'")
    op.create_table(
        "embedding",
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("source", REGCLASS, nullable=False),
        sa.Column("key", ARRAY(sa.Text), nullable=False),
        sa.Column("column_name", sa.Text, nullable=False),
        sa.Column("instruction", sa.Text, nullable=False),
        sa.Column("prompt_style", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
        comment="One row per embedding: its source, and how queries are put to it",
    )
    op.create_table(
        "generation",
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column(
            "embedding_id",
            sa.Integer,
            sa.ForeignKey(f"{SCHEMA}.embedding.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("state", sa.Text, nullable=False, server_default="live"),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dimensions", sa.Integer, nullable=False),
        sa.Column("distance", sa.Text, nullable=False),
        sa.Column("template", JSONB, nullable=False),
        sa.Column("store", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint("state IN ('live', 'building', 'retired')", name="generation_state"),
        schema=SCHEMA,
        comment="One row per physical version of an embedding; its id names its outbox, store, failure table and triggers",
    )
    op.create_index(
        "generation_one_live",
        "generation",
        ["embedding_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_table(
        "backfill",
        sa.Column(
            "generation_id",
            sa.Integer,
            sa.ForeignKey(f"{SCHEMA}.generation.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("cursor", ARRAY(sa.Text)),
        sa.Column("rows_done", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rows_total", sa.BigInteger),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state IN ('none', 'pending', 'running', 'indexing', 'done')", name="backfill_state"),
        schema=SCHEMA,
        comment="How far the walk over a source has come: the key up to which every vector is written",
    )


def downgrade() -> None:
    for table in ("backfill", "generation", "embedding"):
        op.drop_table(table, schema=SCHEMA)
    op.execute("DROP SCHEMA qwen_embed")
