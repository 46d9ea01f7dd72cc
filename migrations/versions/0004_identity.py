"""The model identity recorded at `attach`: the version of the weights, and the length of the full vectors."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    op.add_column("generation", sa.Column("weight_version", sa.Text), schema=SCHEMA)
    op.add_column("generation", sa.Column("full_dimensions", sa.Integer), schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("generation", "full_dimensions", schema=SCHEMA)
    op.drop_column("generation", "weight_version", schema=SCHEMA)
