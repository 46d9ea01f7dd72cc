"""The properties of a generation as one JSON object; the store's column `cut` becomes `truncated`.

The comments in the database follow the glossary too (docs/words.md). A downgrade loses what the older columns cannot
hold: a comment on the generation."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    op.add_column("generation", sa.Column("spec", JSONB), schema=SCHEMA)
    op.execute("""
        UPDATE _qwen_embed.generation g SET spec = jsonb_build_object(
            'model', g.model, 'dimensions', g.dimensions, 'template', g.template, 'distance', g.distance,
            'store', g.store, 'too_long', g.too_long, 'weight_version', g.weight_version,
            'full_dimensions', g.full_dimensions, 'prompt_style', e.prompt_style,
            'chunking', CASE WHEN g.chunk_tokens IS NOT NULL
                             THEN jsonb_build_object('tokens', g.chunk_tokens, 'overlap', g.chunk_overlap) END)
        FROM _qwen_embed.embedding e WHERE e.id = g.embedding_id
    """)
    op.alter_column("generation", "spec", nullable=False, schema=SCHEMA)
    for name in ("model", "dimensions", "distance", "template", "store", "too_long", "weight_version",
                 "full_dimensions", "chunk_tokens", "chunk_overlap"):  # fmt: skip
        op.drop_column("generation", name, schema=SCHEMA)
    op.drop_column("embedding", "prompt_style", schema=SCHEMA)
    for store in _stores("cut"):
        op.alter_column(store, "cut", new_column_name="truncated", schema=SCHEMA)
    op.execute("COMMENT ON SCHEMA _qwen_embed IS 'pg_qwen_embed: its internal schema; it may change between versions'")
    op.create_table_comment(
        "backfill",
        "One row per generation: its backfill, and the key up to which every vector is written",
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.execute("COMMENT ON SCHEMA _qwen_embed IS 'pg_qwen_embed: its machinery; internal, may change between versions'")
    op.create_table_comment(
        "backfill",
        "How far the walk over a source has come: the key up to which every vector is written",
        schema=SCHEMA,
    )
    for store in _stores("truncated"):
        op.alter_column(store, "truncated", new_column_name="cut", schema=SCHEMA)
    for column in (
        sa.Column("model", sa.Text),
        sa.Column("dimensions", sa.Integer),
        sa.Column("distance", sa.Text),
        sa.Column("template", JSONB),
        sa.Column("store", sa.Text),
        sa.Column("too_long", sa.Text, nullable=False, server_default="truncate"),
        sa.Column("weight_version", sa.Text),
        sa.Column("full_dimensions", sa.Integer),
        sa.Column("chunk_tokens", sa.Integer),
        sa.Column("chunk_overlap", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("generation", column, schema=SCHEMA)
    op.execute("""
        UPDATE _qwen_embed.generation SET
            model = spec->>'model', dimensions = (spec->>'dimensions')::integer, distance = spec->>'distance',
            template = spec->'template', store = spec->>'store', too_long = spec->>'too_long',
            weight_version = spec->>'weight_version', full_dimensions = (spec->>'full_dimensions')::integer,
            chunk_tokens = (spec->'chunking'->>'tokens')::integer,
            chunk_overlap = coalesce((spec->'chunking'->>'overlap')::integer, 0)
    """)
    for name in ("model", "dimensions", "distance", "template", "store"):
        op.alter_column("generation", name, nullable=False, schema=SCHEMA)
    op.add_column("embedding", sa.Column("prompt_style", sa.Text), schema=SCHEMA)
    op.execute("""
        UPDATE _qwen_embed.embedding e SET prompt_style = g.spec->>'prompt_style'
        FROM _qwen_embed.generation g WHERE g.embedding_id = e.id AND g.state = 'live'
    """)
    op.alter_column("embedding", "prompt_style", nullable=False, schema=SCHEMA)
    op.drop_column("generation", "spec", schema=SCHEMA)


def _stores(column: str) -> list[str]:
    """The stores that have this column; the store of a chunked generation has not."""
    found = op.get_bind().execute(
        sa.text("""
            SELECT c.relname FROM _qwen_embed.generation g
            JOIN pg_class c ON c.relname = 'store_' || g.id AND c.relnamespace = '_qwen_embed'::regnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column AND NOT a.attisdropped
        """),
        {"column": column},
    )
    return [name for (name,) in found]
