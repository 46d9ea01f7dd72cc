"""Another instruction, and a longer title: the embedded column is altered in the same transaction."""

import sqlalchemy as sa
from alembic import op

import pg_qwen_embed.alembic  # noqa: F401

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.alter_embedding("recipes", instruction="Find a dish that fits")
    with op.embedding_suspended("recipes"):
        op.alter_column("recipes", "title", type_=sa.Text)


def downgrade() -> None:
    with op.embedding_suspended("recipes"):
        op.alter_column("recipes", "title", type_=sa.String(200))
    op.alter_embedding("recipes", instruction="Find a dish")
