"""Alembic's environment. `pg-qwen-embed init` runs it with a connection of its own (see postgres/migrate.py)."""

from alembic import context
from sqlalchemy import Connection, text

from pg_qwen_embed.postgres import trust
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA
from pg_qwen_embed.postgres.locks import MIGRATION
from pg_qwen_embed.postgres.revision import shown_by_the_tables
from pg_qwen_embed.postgres.schema import metadata


def run(connection: Connection) -> None:
    # First: every role that may connect can hold the lock. A session that waits holds up those behind it, too.
    connection.execute(text("SET LOCAL lock_timeout = '5s'"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION})"))  # one init at a time
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {INTERNAL_SCHEMA}"))  # Alembic's own table lives in it
    trust.require_none(connection.connection.driver_connection)  # the schema may be another role's
    context.configure(connection=connection, target_metadata=metadata, version_table_schema=INTERNAL_SCHEMA)
    _recognise(connection)
    with context.begin_transaction():
        context.run_migrations()


def _recognise(connection: Connection) -> None:
    """Record the revision of a database that was made from a dump of the schema alone: the tables are there, no record is."""
    migrations = context.get_context()
    if not migrations.get_current_heads():
        revision = connection.exec_driver_sql(shown_by_the_tables()).scalar()
        if revision:
            migrations.stamp(context.script, revision)


run(context.config.attributes["connection"])
