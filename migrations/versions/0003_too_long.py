"""Over-long documents: what to do with them, and which vectors are of truncated ones (`cut`, later `truncated`).

And the partitions of a source whose rows were compared with the store."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, OID

revision = "0003"
down_revision = "0002"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    op.add_column(
        "generation", sa.Column("too_long", sa.Text, nullable=False, server_default="truncate"), schema=SCHEMA
    )
    op.add_column("generation", sa.Column("partitions", ARRAY(OID)), schema=SCHEMA)
    for store in _stores():
        op.add_column(store, sa.Column("cut", sa.Boolean, nullable=False, server_default=sa.false()), schema=SCHEMA)


def downgrade() -> None:
    for store in _stores():
        op.drop_column(store, "cut", schema=SCHEMA)
    op.drop_column("generation", "partitions", schema=SCHEMA)
    op.drop_column("generation", "too_long", schema=SCHEMA)


def _stores() -> list[str]:
    generation = sa.table("generation", sa.column("id"), schema=SCHEMA)
    return [f"store_{id_}" for (id_,) in op.get_bind().execute(sa.select(generation.c.id))]
