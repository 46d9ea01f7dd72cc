"""Documents divided into chunks, each with a vector of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    op.add_column("generation", sa.Column("chunk_tokens", sa.Integer), schema=SCHEMA)
    op.add_column(
        "generation", sa.Column("chunk_overlap", sa.Integer, nullable=False, server_default="0"), schema=SCHEMA
    )


def downgrade() -> None:
    op.drop_column("generation", "chunk_overlap", schema=SCHEMA)
    op.drop_column("generation", "chunk_tokens", schema=SCHEMA)
