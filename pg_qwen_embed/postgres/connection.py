"""Connections to PostgreSQL: named after their purpose, with session settings of our own.

A server that does not answer is one sentence, DatabaseUnavailable; a string that is no connection string is a UsageError."""

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg_pool import AsyncConnectionPool

from pg_qwen_embed.domain.errors import DatabaseUnavailable, UsageError
from pg_qwen_embed.domain.foreign import LINE, shown
from pg_qwen_embed.postgres.sql import statement

CONNECT_TIMEOUT = 10  # seconds
SEARCH_PATH = "pg_catalog, pg_temp"  # of our sessions
PREPARED_MAX = 500  # statements; each embedding has its own
SEND_BUFFER = 1 << 20  # bytes

STORAGE = ("md.c", "fd.c", "buffile.c")  # PostgreSQL's files that read and write files
MAX_IDLE = 10.0  # seconds until an unused connection is closed
POOL_TIMEOUT = 30.0  # seconds to wait for a free connection
RECONNECT_TIMEOUT = 10.0  # seconds of attempts with doubling pauses; the next request for a connection starts again

_FATAL = re.compile(r"FATAL:\s+(.*)")
# By a part of what the server says, in English; with other lc_messages the first remedy is the one that always holds.
_REMEDIES = {
    "does not exist": "check the name in PG_QWEN_EMBED_DATABASE_URL, or create it (CREATE DATABASE, CREATE ROLE)",
    "authentication failed": "check user and password in PG_QWEN_EMBED_DATABASE_URL",
    "no pg_hba.conf entry": "check host, user and database in PG_QWEN_EMBED_DATABASE_URL, or let pg_hba.conf allow them",
    "starting up": "wait until it has started",
    "shutting down": "wait until it has started again",
    "too many clients": "raise max_connections, or close other connections",
    "remaining connection slots": "raise max_connections, or close other connections",
}

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]
AsyncCursor = psycopg.AsyncCursor[Any]
Configure = Callable[[AsyncConnection], Awaitable[None]]


class Pool(AsyncConnectionPool[AsyncConnection]):
    """A pool that never loses a cancellation.

    The base class waits for a connection with asyncio.wait_for. Before Python 3.12 that loses a cancellation which arrives
    together with the connection (https://github.com/python/cpython/issues/86296): the task would go on, and its group would
    wait for it for ever."""

    async def getconn(self, timeout: float | None = None) -> AsyncConnection:  # noqa: ASYNC109  # the pool's own
        task = asyncio.current_task()
        told = task.cancelling() if task else 0
        connection = None
        try:
            connection = await super().getconn(timeout)
            return connection
        finally:
            if task and task.cancelling() > told:
                if connection is not None:
                    await self.putconn(connection)
                raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class BinaryValue:
    """A parameter that is already in PostgreSQL's binary format; a cast in the statement gives its type."""

    value: bytes


class _BinaryDumper(Dumper):
    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> bytes:
        value: bytes = obj.value
        return value


def take_binary_values(connection: Connection | AsyncConnection) -> None:
    connection.adapters.register_dumper(BinaryValue, _BinaryDumper)


def connect(url: str, purpose: str, *, autocommit: bool = True, tables_only: bool = False) -> Connection:
    """A connection named after its purpose in pg_stat_activity. Raises DatabaseUnavailable, UsageError.

    tables_only: a view in the place of a table is an error."""
    with _one_sentence(url):
        connection = psycopg.connect(conninfo(url, purpose), autocommit=autocommit)
        take_binary_values(connection)
        connection.execute(statement("configure_session"), {"pid": connection.info.backend_pid})
        if tables_only:
            connection.execute(statement("use_tables_only"), {"pid": connection.info.backend_pid})
        if not autocommit:
            connection.commit()
    return connection


@contextmanager
def own_search_path(connection: Connection) -> Iterator[None]:
    """Inside, names are looked up as a person of this role writes them. To be used in a transaction."""
    own, before = search_paths(connection)
    use_search_path(connection, own)
    yield
    use_search_path(connection, before)


def search_paths(connection: Connection) -> tuple[str, str]:
    """The path that this role has, and the one that is used now. They differ on a connection of ours only."""
    own, now = connection.execute(statement("search_paths")).fetchone() or ("", "")
    return own, now


def use_search_path(connection: Connection, path: str) -> None:
    """Until the transaction ends."""
    connection.execute(statement("use_search_path"), {"path": path})


async def connect_async(url: str, purpose: str, configure: Configure | None = None) -> AsyncConnection:
    """An autocommit connection, for the worker unless it is said what for. Raises DatabaseUnavailable, UsageError."""
    with _one_sentence(url):
        connection = await psycopg.AsyncConnection.connect(conninfo(url, purpose), autocommit=True)
        try:
            await (configure or configure_worker)(connection)
        except BaseException:  # a cancellation, for instance: nobody else could close it
            await connection.close()
            raise
    return connection


async def configure_client(connection: AsyncConnection) -> None:
    """For a client of an application. Behind a pooler, which is known by its made-up process id, nothing is prepared: the
    next transaction may be another session's."""
    take_binary_values(connection)
    cursor = await connection.execute(statement("configure_session"), {"pid": connection.info.backend_pid})
    (own_path, *_) = await cursor.fetchone() or (None,)
    if own_path is None:
        connection.prepare_threshold = None


def pool(url: str, purpose: str, *, least: int, most: int) -> Pool:
    """The worker's connections for one purpose: `least` stay open, up to `most` while they are needed."""
    return Pool(
        conninfo(url, purpose),
        kwargs={"autocommit": True},
        configure=configure_worker,
        min_size=least,
        max_size=most,
        max_idle=MAX_IDLE,
        timeout=POOL_TIMEOUT,
        reconnect_timeout=RECONNECT_TIMEOUT,
        open=False,
    )


async def configure_worker(connection: AsyncConnection) -> None:
    take_binary_values(connection)
    connection.prepare_threshold = 1
    connection.prepared_max = PREPARED_MAX
    await connection.execute(statement("configure_session"), {"pid": connection.info.backend_pid})
    await connection.execute(statement("configure_worker_session"))
    await connection.execute(statement("use_tables_only"), {"pid": connection.info.backend_pid})
    _widen(connection)


def _widen(connection: AsyncConnection) -> None:
    """Enlarge the send buffer of a Unix socket, as far as the system allows (net.core.wmem_max).

    The vectors of a write are a megabyte. The default buffer holds a fifth of that, and unlike TCP's it does not grow."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as own:
        if own.family == socket.AF_UNIX:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def conninfo(url: str, purpose: str) -> str:
    """The connection string with an application name, TCP keepalives and a connect timeout. Raises UsageError."""
    try:
        given = conninfo_to_dict(url)
        defaults: dict[str, str | int] = {"connect_timeout": CONNECT_TIMEOUT, "keepalives_idle": 10, "keepalives_interval": 5,
                    "keepalives_count": 3, "client_encoding": "utf8"}  # fmt: skip
        return make_conninfo(url, **{k: v for k, v in defaults.items() if k not in given}, application_name=purpose)
    except (psycopg.ProgrammingError, UnicodeDecodeError):  # %bb stands for a byte that is no character
        raise UsageError(
            "the database URL cannot be read; write it like postgresql://user@host:5432/database "
            "in PG_QWEN_EMBED_DATABASE_URL"
        ) from None


@contextmanager
def _one_sentence(url: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise lost(error) from None


def lost(error: psycopg.OperationalError) -> DatabaseUnavailable:
    """What is wrong, from libpq's message: a server that answers and rejects the connection is not a missing one."""
    reason = shown(str(error), LINE)
    rejected = _FATAL.search(reason)
    if rejected is None:
        return DatabaseUnavailable(
            f"PostgreSQL does not answer ({reason}); check PG_QWEN_EMBED_DATABASE_URL and that the server runs"
        )
    said = rejected[1]
    if said.startswith("terminating"):
        return DatabaseUnavailable(f"PostgreSQL ended the connection: {said}")
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in said), "check PG_QWEN_EMBED_DATABASE_URL")
    return DatabaseUnavailable(f"PostgreSQL rejects the connection: {said}; {remedy}")


def first_line(error: Exception) -> str:
    """The server's own sentence, without the statement around it."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or str(error).partition("\n")[0] or type(error).__name__


def sqlstate_of(error: Exception) -> str | None:
    """The SQLSTATE of an error; None for one of the connection. What psycopg itself rejects counts as a data exception.

    A file that cannot grow is an I/O error here: PostgreSQL knows ENOSPC, and calls a quota or a limit an internal error."""
    if isinstance(error, psycopg.DataError):
        return error.sqlstate or "22000"
    if isinstance(error, psycopg.InternalError) and error.sqlstate == "XX000" and error.diag.source_file in STORAGE:
        return "58030"
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def as_text(query: sql.Composable) -> str:
    """A statement as a person would paste it into psql."""
    text = query.as_string(None).replace("%%", "%")
    return text.split("*/ ", 1)[1] if text.startswith("/*") else text
