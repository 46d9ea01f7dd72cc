"""A connection of another library, used in its own transaction: nothing is committed or rolled back here.

That library may have adapters of its own (Django reads jsonb as text), bind values in the client, and have prepared
statements. So a second psycopg connection is put around the same libpq connection; the library's own goes on
working. Inside, the session is as our own sessions are: search_path is pinned. Afterwards it is as before."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.postgres.connection import (
    SEARCH_PATH,
    AsyncConnection,
    Connection,
    search_paths,
    take_binary_values,
    use_search_path,
)
from pg_qwen_embed.postgres.sql import statement

C = TypeVar("C", Connection, AsyncConnection)


class Borrowed(psycopg.Connection[Any]):
    """The transaction belongs to others: its end is theirs, whoever is handed this connection."""

    def commit(self) -> None:
        """Nothing."""

    def rollback(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@contextmanager
def borrowed(theirs: psycopg.Connection[Any], *, pinned: bool = True) -> Iterator[Connection]:
    """A connection of ours in the transaction of theirs. Theirs may be used meanwhile, from the same thread.

    pinned: whether names are looked up as in our sessions. Raises UsageError if there is no transaction."""
    require_transaction(theirs)
    ours: Connection = _around(Borrowed, theirs)
    try:
        _, path = search_paths(ours)
        (timeout,) = ours.execute(statement("lock_timeout")).fetchone() or ("0",)
        use_search_path(ours, SEARCH_PATH if pinned else path)
        yield ours
        use_search_path(ours, path)  # after an error the caller's rollback does it
        ours.execute(statement("limit_lock_wait"), {"timeout": timeout})
    finally:
        del ours.pgconn  # it is not ours to be closed


@asynccontextmanager
async def borrowed_async(theirs: psycopg.Connection[Any]) -> AsyncIterator[AsyncConnection]:
    """The same for an event loop; theirs is not used meanwhile."""
    require_transaction(theirs)
    ours: AsyncConnection = _around(psycopg.AsyncConnection, theirs)
    try:
        cursor = await ours.execute(statement("search_paths"))
        _, path = await cursor.fetchone() or ("", "")
        await ours.execute(statement("use_search_path"), {"path": SEARCH_PATH})
        yield ours
        await ours.execute(statement("use_search_path"), {"path": path})
    finally:
        del ours.pgconn


def require_transaction(theirs: psycopg.Connection[Any]) -> None:
    """Raises UsageError if what is done on this connection would be committed at once."""
    if theirs.autocommit and theirs.info.transaction_status is not TransactionStatus.INTRANS:
        raise UsageError(
            "an embedding is created or altered in a transaction, and this connection commits each statement"
        )
    if theirs.info.transaction_status is TransactionStatus.IDLE:
        theirs.execute(statement("lock_timeout"))  # psycopg begins the transaction


def _around(kind: type[C], theirs: psycopg.Connection[Any]) -> C:
    handlers = theirs.pgconn.notice_handler, theirs.pgconn.notify_handler
    ours = kind(theirs.pgconn)
    theirs.pgconn.notice_handler, theirs.pgconn.notify_handler = handlers  # they were exchanged just now
    ours._autocommit = True  # a transaction that is open stays open: BEGIN is theirs
    ours.prepare_threshold = None  # names of prepared statements would meet theirs
    take_binary_values(ours)
    return ours


def source_as_written(connection: Connection, table: str) -> str:
    """A table as SQL writes it, with its schema: search_path is looked up before it is pinned."""
    row = connection.execute(statement("qualify_table"), {"table": table}).fetchone()
    return sql.Identifier(*row).as_string(None) if row else table
