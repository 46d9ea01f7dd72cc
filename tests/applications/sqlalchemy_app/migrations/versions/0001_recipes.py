"""The tables, and an embedding of one that is created in the same transaction."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC

import pg_qwen_embed.alembic  # noqa: F401  # registers op.attach_embedding

revision = "0001"
down_revision = None
MODEL = {"model": "Qwen/Qwen3-Embedding-0.6B", "dimensions": 128}


def upgrade() -> None:
    op.create_table(
        "recipes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("likes", sa.Integer, nullable=False),
        sa.Column("taste", HALFVEC(3)),
    )
    op.attach_embedding("recipes", text="title", instruction="Find a dish", store="column", **MODEL)


def downgrade() -> None:
    op.detach_embedding("recipes")
    op.drop_table("recipes")
