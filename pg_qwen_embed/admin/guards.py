"""The row-level security of a generation's tables: whether it is as `attach` makes it, and how it is made again.

Its policies depend on the key and on the embedded columns of the source, so they give way while those are altered."""

from contextlib import suppress

import psycopg

from pg_qwen_embed.admin.transaction import run
from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.postgres import ddl
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.index_names import index_text
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


def unguarded(connection: Connection, target: Target) -> list[str]:
    """What is missing or not as created, for a person to read."""
    names = Names(target)
    columns = {column.number for column in (*target.source.key, *names.embedded)}
    tables = connection.execute(statement("look_at_guards", names), {"columns": sorted(columns)}).fetchall()
    return [f"the row-level security of {table}" for (table,) in tables]


def restore(connection: Connection, target: Target) -> list[str]:
    """Make it as `attach` does, where it is not. Returns what was made again."""
    found = unguarded(connection, target)
    if found:
        run(connection, ddl.unguard(target))
        run(connection, ddl.guard(target))
        run(connection, ddl.open_store(target))
    return found


def stop_writes(connection: Connection, *embeddings: Embedding) -> None:
    """Let the worker's writes end, and none begin until the transaction ends. To be called before the source is locked.

    A stranger who holds the lock keeps nobody back: then it is left to chance whether the store can be locked."""
    for target in (target for one in embeddings for target in one.targets):
        stop_writes_of(connection, target)


def stop_writes_of(connection: Connection, target: Target) -> None:
    """The same for one generation."""
    with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
        connection.execute(statement("stop_writes"), {"lock": int(Lock.STORE), "id": target.id})


def suspend(connection: Connection, target: Target) -> None:
    """Drop the policies, so that columns of the source can be altered.

    A worker that builds the index gives way. While somebody else builds one the store cannot be locked: the policy stays then,
    which is in the way of few statements.
    Raises psycopg.errors.LockNotAvailable if somebody else has the store."""
    try:
        with connection.transaction():
            run(connection, ddl.unguard(target))
    except psycopg.errors.LockNotAvailable:
        state = connection.execute(statement("index_state"), {"index": index_text(Names(target))}).fetchone()
        if state != (IndexState.BUILDING,):
            raise


def resume(connection: Connection, target: Target) -> None:
    """Create the policies again that are missing."""
    if unguarded(connection, target):
        run(connection, ddl.unguard(target))
        run(connection, ddl.guard(target))
