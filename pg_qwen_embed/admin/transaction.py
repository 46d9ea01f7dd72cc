"""Short transactions that take strong locks: each waits a moment for its locks, and is tried again."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.postgres import trust
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import statement

T = TypeVar("T")

LOCK_TIMEOUT = "2s"
ATTEMPTS = 5
# For locks that are taken while readers may wait for the first one. It is less than deadlock_timeout: of a reader of the
# view and us, the one that gives up is never the reader.
FURTHER_LOCKS = "400ms"


def in_short_transaction(connection: Connection, work: Callable[[], T], busy: str) -> T:
    """Run work in a transaction, again if it does not get its locks in time. After ATTEMPTS it raises UsageError(busy)."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with connection.transaction():
                connection.execute(statement("limit_lock_wait"), {"timeout": LOCK_TIMEOUT})
                return work()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == ATTEMPTS:
                raise UsageError(busy + _by_whom(connection)) from None
    raise AssertionError("unreachable")


def _by_whom(connection: Connection) -> str:
    """The sessions of strangers that hold a lock which commands wait for."""
    found = (one for one in trust.strangers(connection) if one.lock == Lock.OBJECTS)
    return "".join(f"; {one.sentence}; {one.advice}" for one in found)


def run(connection: Connection, commands: Iterable[sql.Composed]) -> None:
    """Execute statements of postgres/ddl.py in their order."""
    for command in commands:
        connection.execute(command, {})


def lock_embedding(connection: Connection, name: str) -> None:
    """Let one command at a time create or drop the objects of an embedding, until the transaction ends."""
    connection.execute(statement("lock_embedding"), {"lock": int(Lock.OBJECTS), "name": name})
