"""The text of a query inside a SELECT: qwen_embed.embed_query, and how it asks a worker without a commit.

A database whose embedding has one of the names that the schema now uses itself is not upgraded."""

from typing import Any

import psycopg
import sqlalchemy as sa
from alembic import op

from pg_qwen_embed.domain.errors import SetupError
from pg_qwen_embed.domain.source import RESERVED_NAMES
from pg_qwen_embed.postgres import queries

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    taken = op.get_bind().execute(sa.text("SELECT name FROM _qwen_embed.embedding ORDER BY name")).scalars()
    for name in RESERVED_NAMES & set(taken):
        raise SetupError(
            f'an embedding is called "{name}", and qwen_embed.{name} belongs to pg_qwen_embed from this release on; '
            f"with the release before, run: pg-qwen-embed detach {name}, and attach again with --name"
        )
    connection: psycopg.Connection[Any] = op.get_bind().connection.driver_connection
    queries.install(connection)


def downgrade() -> None:
    op.execute("DROP VIEW IF EXISTS qwen_embed.embeddings")
    op.execute("DROP FUNCTION IF EXISTS _qwen_embed.progress(integer, oid, boolean)")
    op.execute("DROP FUNCTION IF EXISTS _qwen_embed.about_rows(oid, text)")
    op.execute("DROP FUNCTION IF EXISTS qwen_embed.embed_query(text, text)")  # without pgvector it is gone
    op.execute("DROP FUNCTION IF EXISTS _qwen_embed.query_vector(text, text, name)")
    op.execute("DROP FUNCTION _qwen_embed.ask_worker(text, integer, bytea, bytea, text)")
    op.execute("DROP FUNCTION _qwen_embed.await_queries(bigint[], double precision, double precision)")
    op.execute("DROP PROCEDURE _qwen_embed.answer_queries(integer, integer, bytea[], real[], integer[])")
    for table in ("query_error", "query_cache", "query_secret"):
        op.drop_table(table, schema="_qwen_embed")
