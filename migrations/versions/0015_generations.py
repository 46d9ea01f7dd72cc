"""Several generations of an embedding: one at most is being built, and embed_query sees when another one becomes live."""

import sqlalchemy as sa
from alembic import op

from pg_qwen_embed.postgres import queries

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_index(
        "generation_one_building",
        "generation",
        ["embedding_id"],
        unique=True,
        postgresql_where=sa.text("state = 'building'"),
        schema="_qwen_embed",
    )
    queries.follow_generations(op.get_bind().connection.driver_connection)


def downgrade() -> None:
    op.execute("DROP FUNCTION _qwen_embed.hold_view(text)")
    op.execute("DROP FUNCTION _qwen_embed.live_generation(text)")
    op.drop_index("generation_one_building", "generation", schema="_qwen_embed")
