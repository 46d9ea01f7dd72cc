"""The fit of a generation's post-processing, and the pool of instructions.

The fit is kept with the generation: who may read the registry can search. It goes with a dump, and never changes."""

import sqlalchemy as sa
from alembic import op

from pg_qwen_embed.postgres import queries
from pg_qwen_embed.postgres.connection import as_text

revision = "0014"
down_revision = "0013"

SCHEMA = "_qwen_embed"


def upgrade() -> None:
    with queries.as_owner(op.get_bind().connection.driver_connection):
        op.create_table(
            "instruction",
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("instruction", sa.Text, nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
            schema=SCHEMA,
            comment="The instructions that were added to the pool; those that are shipped are in the package",
        )
        op.add_column("generation", sa.Column("fit", sa.LargeBinary), schema=SCHEMA)
        op.add_column("generation", sa.Column("fitted_on", sa.Integer), schema=SCHEMA)
        op.execute("ALTER TABLE _qwen_embed.generation ALTER COLUMN fit SET STORAGE EXTERNAL")  # numbers do not shrink
        for command in queries.create_embeddings():
            op.get_bind().connection.driver_connection.execute(as_text(command).encode())


def downgrade() -> None:
    op.drop_column("generation", "fitted_on", schema=SCHEMA)
    op.drop_column("generation", "fit", schema=SCHEMA)
    op.drop_table("instruction", schema=SCHEMA)
