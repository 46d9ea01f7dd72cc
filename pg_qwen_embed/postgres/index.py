"""The ANN index of a generation: built while the worker writes, and built again when a build was interrupted.

A build holds a lock on the table that lets rows be written, and waits for transactions that are older. A session that needs
a stronger lock (TRUNCATE, ALTER TABLE) waits for the build, and its transaction may be one that the build waits for:
PostgreSQL ends such a deadlock with an error for one of the two. So a build that somebody waits for gives way.

Whether there should be an index is decided by the worker (worker/index_policy.py)."""

import asyncio
import os
from contextlib import suppress

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.events import Events, IndexBuildAlone, IndexGaveWay
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

MEMORY = "256MB"  # maintenance_work_mem of the build; a graph beyond it is finished on disk, several times slower
PURPOSE = "nearest neighbours"  # its comment; an index that somebody else has made has none


class _GaveWay(Exception):
    """Somebody waited for a statement of ours, which was ended."""


async def ensure(url: str, target: Target, events: Events) -> bool:
    """Make sure that there is a valid HNSW index with fresh statistics; False if another session builds it, or waits for this.

    That can be the session of a killed worker, whose statement goes on. No writer waits for a lock of this. It opens a
    connection of its own, and another one while it builds. Raises DatabaseUnavailable, psycopg.Error."""
    names = Names(target)
    async with await _connected(url, target) as connection:
        state = await _state(connection, names.index)
        if state is IndexState.BUILDING:
            return False
        if state is not IndexState.VALID:
            try:
                async with await _connected(url, target) as watch:
                    await _build(connection, watch, names, events)
            except _GaveWay:
                events.emit(IndexGaveWay(target.name))
                return False
        await connection.execute(statement("analyze", table=names.indexed), {})
        return True


async def ensure_words(url: str, target: Target, events: Events) -> bool:
    """The same for the index of the words. Raises as `ensure`."""
    names = Names(target)
    if not names.has_words:
        return True
    async with await _connected(url, target) as connection:
        state = await _state(connection, names.words_index)
        if state is IndexState.BUILDING:
            return False
        if state is not IndexState.VALID:
            try:
                async with await _connected(url, target) as watch:
                    create = statement("create_words_index", names, index=sql.Identifier(names.words_index.name))
                    about = names.comment("searches by words")
                    await _create(connection, watch, names.words_index, create, about, _workers())
            except _GaveWay:
                events.emit(IndexGaveWay(target.name))
                return False
        return True


async def drop(url: str, target: Target) -> None:
    """Drop the index, unless somebody waits for this. No writer and no query does. Raises DatabaseUnavailable, psycopg.Error."""
    names = Names(target)
    async with await _connected(url, target) as connection, await _connected(url, target) as watch:
        await _configure(connection, workers=0)
        with suppress(_GaveWay):
            await _unless_awaited(connection, watch, statement("drop_index", index_in_schema=identifier(names.index)))


def index_text(names: Names) -> str:
    """The index as text, for to_regclass()."""
    return identifier(names.index).as_string(None)


def comment(names: Names) -> sql.Literal:
    """What an index that the worker has built says of itself."""
    return names.comment(PURPOSE)


async def _connected(url: str, target: Target) -> AsyncConnection:
    return await connect_async(url, f"pg_qwen_embed index: {target.name}"[:63])


async def _state(connection: AsyncConnection, index: QualifiedName) -> IndexState:
    values = {"index": identifier(index).as_string(None)}
    row = await (await connection.execute(statement("index_state"), values)).fetchone()
    return IndexState(row[0]) if row else IndexState.NONE


async def _build(connection: AsyncConnection, watch: AsyncConnection, names: Names, events: Events) -> None:
    create = statement(names.layout.create_index, names, index=sql.Identifier(names.index.name))
    try:
        await _create(connection, watch, names.index, create, comment(names), _workers())
    except psycopg.errors.DiskFull:
        # A parallel build keeps its graph in shared memory, and containers are given little of it (64 MB by default).
        events.emit(IndexBuildAlone(names.target.name, "little shared memory"))
        await _create(connection, watch, names.index, create, comment(names), 0)


def _workers() -> int:
    return max(1, min(4, (os.cpu_count() or 2)))


async def _create(
    connection: AsyncConnection, watch: AsyncConnection, index: QualifiedName, create: sql.Composed, about: sql.Literal,
    workers: int,
) -> None:  # fmt: skip
    in_schema = identifier(index)
    await _configure(connection, workers)
    await _unless_awaited(connection, watch, statement("drop_index", index_in_schema=in_schema))
    await _unless_awaited(connection, watch, create)
    await connection.execute(statement("comment_index", index_in_schema=in_schema, comment=about), {})


async def _configure(connection: AsyncConnection, workers: int) -> None:
    await connection.execute(statement("prepare_index_session"), {"memory": MEMORY, "workers": str(workers)})


async def _unless_awaited(connection: AsyncConnection, watch: AsyncConnection, query: sql.Composed) -> None:
    """Execute a statement, and end it when somebody else's session waits for it. Raises _GaveWay, psycopg.Error.

    It looks four times before PostgreSQL looks for a deadlock."""
    row = await (await watch.execute(statement("deadlock_timeout"))).fetchone()
    interval = row[0] / 4 if row else 0.25
    running = asyncio.create_task(connection.execute(query, {}))
    try:
        while not (await asyncio.wait({running}, timeout=interval))[0]:
            values = {"pid": connection.info.backend_pid}
            row = await (await watch.execute(statement("waits_for_session"), values)).fetchone()
            if row and row[0]:
                await connection.cancel_safe()
                with suppress(psycopg.errors.QueryCanceled):
                    await running
                    return  # it was done before
                raise _GaveWay
        await running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
