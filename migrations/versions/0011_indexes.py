"""What is known of the index of a generation: whether it is wanted, and how widely a search must look in it.

A generation without a row has its index, and it was not measured. Applications read the width through a function: they
need no right to the registry."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import OID

from pg_qwen_embed.postgres import queries

revision = "0011"
down_revision = "0010"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    with queries.as_owner(op.get_bind().connection.driver_connection):
        _create()


def _create() -> None:
    op.create_table(
        "ann_index",
        sa.Column(
            "generation_id",
            sa.Integer,
            sa.ForeignKey(f"{SCHEMA}.generation.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("wanted", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("measured_index", OID),
        sa.Column("measured_at", sa.DateTime(timezone=True)),
        sa.Column("ef_search", sa.Integer),
        sa.Column("recall", sa.Double),
        sa.Column("queries", sa.Integer),
        sa.Column("looked_for", sa.Integer),
        sa.Column("not_found", sa.Integer),
        schema=SCHEMA,
        comment="One row per generation whose index was dropped or measured: how widely a search must look in it",
    )
    op.execute("""
        CREATE FUNCTION qwen_embed.ef_search(embedding text) RETURNS integer
        LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT coalesce(
                (SELECT coalesce(i.ef_search, CASE WHEN g.spec->>'index' LIKE 'ivfflat%' THEN 20 END)
                 FROM _qwen_embed.embedding e
                 JOIN _qwen_embed.generation g ON g.embedding_id = e.id AND g.state = 'live'
                 LEFT JOIN _qwen_embed.ann_index i ON i.generation_id = g.id
                 WHERE e.name = $1), 100)
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION qwen_embed.ef_search(text) IS 'How widely a search looks in the index of an embedding: "
        "hnsw.ef_search, or ivfflat.probes'"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION qwen_embed.ef_search(text)")
    op.drop_table("ann_index", schema=SCHEMA)
