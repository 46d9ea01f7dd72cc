"""A chunked embedding; and one with a composite key, another schema, a name of its own and a template."""

import sqlalchemy as sa
from alembic import op

import pg_qwen_embed.alembic  # noqa: F401

revision = "0002"
down_revision = "0001"
MODEL = {"model": "Qwen/Qwen3-Embedding-0.6B", "dimensions": 128}


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS kitchen")
    op.create_table(
        "steps",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("recipe_id", sa.Integer, sa.ForeignKey("recipes.id"), nullable=False),
        sa.Column("text", sa.String, nullable=False),
    )
    op.attach_embedding("steps", text="text", chunk_tokens=16, **MODEL)
    op.create_table(
        "cooks",
        sa.Column("tenant", sa.Integer, primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("about", sa.String),
        schema="kitchen",
    )
    op.attach_embedding(
        "cooks", schema="kitchen", name="Cook's words", template="A cook: {about}", distance="l2", column="words_vector",
        view_names={"stale": "is_stale"}, **MODEL,
    )  # fmt: skip


def downgrade() -> None:
    op.detach_embedding("Cook's words")
    op.drop_table("cooks", schema="kitchen")
    op.detach_embedding("steps")
    op.drop_table("steps")
