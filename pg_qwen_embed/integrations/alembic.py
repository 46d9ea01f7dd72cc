"""Alembic: a migration alters an embedded column in its own transaction.

    from pg_qwen_embed.integrations.alembic import altered

    def upgrade() -> None:
        with altered(op, "articles"):
            op.alter_column("articles", "body", type_=sa.String(2000))

What pins the columns is dropped before and created again afterwards (admin/alter.py): all of the migration is committed, or
nothing of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pg_qwen_embed.admin import alter
from pg_qwen_embed.domain.errors import UsageError


@contextmanager
def altered(op: Any, name: str) -> Iterator[None]:
    """Inside, every column of the table of the embedding `name` can be altered. op: alembic.op.

    Where there is no such embedding, as in a database that is just being made, there is nothing to suspend. The table stays
    locked (ACCESS EXCLUSIVE) until the migration is committed. Raises UsageError, SetupError."""
    connection = _driver_connection(op, name)
    if not alter.is_attached(connection, name):
        yield
        return
    with alter.suspended(connection, name):
        yield


def _driver_connection(op: Any, name: str) -> psycopg.Connection[Any]:
    if op.get_context().as_sql:
        raise UsageError(f"{name}: its migration must look at the database, so it cannot be printed as SQL (--sql)")
    bind = op.get_bind()
    connection = bind.connection.driver_connection
    if not isinstance(connection, psycopg.Connection):
        raise UsageError(
            f"{name}: the migration uses the driver {bind.dialect.driver}, and its embedding needs psycopg 3; "
            "run Alembic with a URL like postgresql+psycopg://host/database"
        )
    if connection.autocommit:
        raise UsageError(f"{name}: its table is altered in one transaction; leave autocommit out of this migration")
    return connection
