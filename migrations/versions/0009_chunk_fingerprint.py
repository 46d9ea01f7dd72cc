"""The fingerprint of each chunk's own text, so that a chunk that did not change keeps its vector.

Chunks that were written before have none, and are embedded again with the next change of their row."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    for store in _chunked_stores():
        op.add_column(store, sa.Column("chunk_fingerprint", sa.LargeBinary), schema=SCHEMA)


def downgrade() -> None:
    for store in _chunked_stores():
        op.drop_column(store, "chunk_fingerprint", schema=SCHEMA)


def _chunked_stores() -> list[str]:
    found = op.get_bind().execute(
        sa.text("""
            SELECT c.relname FROM _qwen_embed.generation g
            JOIN pg_class c ON c.relname = 'store_' || g.id AND c.relnamespace = '_qwen_embed'::regnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'chunks' AND NOT a.attisdropped
        """)
    )
    return [name for (name,) in found]
