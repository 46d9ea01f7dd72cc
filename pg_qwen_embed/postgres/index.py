"""The ANN index of a generation: built while the worker writes, and built again when a build was interrupted.

Whether there should be one is decided by the worker (worker/index_policy.py)."""

import os

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.events import Events, IndexBuildAlone
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.names import Names, identifier
from pg_qwen_embed.postgres.sql import statement

MEMORY = "256MB"  # maintenance_work_mem of the build; a graph beyond it is finished on disk, several times slower
PURPOSE = "nearest neighbours"  # its comment; an index that somebody else has made has none


async def ensure(url: str, target: Target, events: Events) -> bool:
    """Make sure that there is a valid HNSW index with fresh statistics; False while another session builds it.

    That can be the session of a killed worker, whose statement goes on. No writer waits for a lock of this. It opens a
    connection of its own. Raises DatabaseUnavailable, psycopg.Error."""
    names = Names(target)
    async with await _connected(url, target) as connection:
        state = await _state(connection, names)
        if state is IndexState.BUILDING:
            return False
        if state is not IndexState.VALID:
            await _build(connection, names, events)
        await connection.execute(statement("analyze", table=names.indexed), {})
        return True


async def drop(url: str, target: Target) -> None:
    """Drop the index. No writer and no query waits for a lock of this. Raises DatabaseUnavailable, psycopg.Error."""
    names = Names(target)
    async with await _connected(url, target) as connection:
        await _configure(connection, workers=0)
        await connection.execute(statement("drop_index", index_in_schema=identifier(names.index)), {})


def index_text(names: Names) -> str:
    """The index as text, for to_regclass()."""
    return identifier(names.index).as_string(None)


def comment(names: Names) -> sql.Literal:
    """What an index that the worker has built says of itself."""
    return names.comment(PURPOSE)


async def _connected(url: str, target: Target) -> AsyncConnection:
    return await connect_async(url, f"pg_qwen_embed index: {target.name}"[:63])


async def _state(connection: AsyncConnection, names: Names) -> IndexState:
    row = await (await connection.execute(statement("index_state"), {"index": index_text(names)})).fetchone()
    return IndexState(row[0]) if row else IndexState.NONE


async def _build(connection: AsyncConnection, names: Names, events: Events) -> None:
    workers = max(1, min(4, (os.cpu_count() or 2)))
    try:
        await _create(connection, names, workers)
    except psycopg.errors.DiskFull:
        # A parallel build keeps its graph in shared memory, and containers are given little of it (64 MB by default).
        events.emit(IndexBuildAlone(names.target.name, "little shared memory"))
        await _create(connection, names, 0)


async def _create(connection: AsyncConnection, names: Names, workers: int) -> None:
    in_schema = identifier(names.index)
    await _configure(connection, workers)
    await connection.execute(statement("drop_index", index_in_schema=in_schema), {})
    create = statement(names.layout.create_index, names, index=sql.Identifier(names.index.name))
    await connection.execute(create, {})
    await connection.execute(statement("comment_index", index_in_schema=in_schema, comment=comment(names)), {})


async def _configure(connection: AsyncConnection, workers: int) -> None:
    await connection.execute(statement("prepare_index_session"), {"memory": MEMORY, "workers": str(workers)})
