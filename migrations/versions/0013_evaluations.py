"""What evaluations of an embedding found, so that they can be compared later: `evaluate NAME --history`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from pg_qwen_embed.postgres import queries

revision = "0013"
down_revision = "0012"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    with queries.as_owner(op.get_bind().connection.driver_connection):
        op.create_table(
            "evaluation",
            sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
            sa.Column(
                "embedding_id",
                sa.Integer,
                sa.ForeignKey(f"{SCHEMA}.embedding.id", ondelete="CASCADE"),
                nullable=False,
                index=True,
            ),
            sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
            sa.Column("result", JSONB, nullable=False),
            schema=SCHEMA,
            comment="What evaluations of an embedding found: figures, differences and a recommendation",
        )


def downgrade() -> None:
    op.drop_table("evaluation", schema=SCHEMA)
