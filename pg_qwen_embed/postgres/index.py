"""The ANN index of a generation: built beside the live writes, and built again when a build was cut short."""

import logging
import os

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.model import Embedding, StoreKind
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.sql import fragments, statement

log = logging.getLogger("pg_qwen_embed.worker")

MEMORY = "256MB"  # maintenance_work_mem of the build; a graph beyond it is finished on disk, several times slower


async def ensure(url: str, embedding: Embedding) -> bool:
    """A valid HNSW index and fresh statistics; False while somebody else builds it (a worker that was killed, say, whose
    statement goes on). Takes no lock that writers wait for; needs a connection of its own."""
    async with await connect_async(url, f"pg_qwen_embed index: {embedding.name}"[:63]) as connection:
        state = await _state(connection, embedding)
        if state == "building":
            return False
        if state != "valid":
            await _build(connection, embedding)
        await connection.execute(statement("analyze", {"table": _indexed(embedding)}), {})
        return True


async def _state(connection: AsyncConnection, embedding: Embedding) -> str:
    name = fragments.identifier(fragments.index_name(embedding)).as_string(None)
    row = await (await connection.execute(statement("index_state"), {"index": name})).fetchone()
    return str(row[0]) if row else "none"


async def _build(connection: AsyncConnection, embedding: Embedding) -> None:
    workers = max(1, min(4, (os.cpu_count() or 2)))
    try:
        await _create(connection, embedding, workers)
    except psycopg.errors.DiskFull:
        # A parallel build keeps its graph in shared memory, and containers are given little of it (64 MB by default).
        log.warning("index_build_alone embedding=%s reason=little shared memory", embedding.name)
        await _create(connection, embedding, 0)


async def _create(connection: AsyncConnection, embedding: Embedding, workers: int) -> None:
    name = fragments.index_name(embedding)
    comment = f"pg_qwen_embed {embedding.name} (generation {embedding.generation.id}): nearest neighbours"
    placeholders = fragments.placeholders(embedding) | {
        "index": sql.Identifier(name.name),
        "index_in_schema": fragments.identifier(name),
        "comment": sql.Literal(comment),
    }
    await connection.execute(statement("prepare_index_session"), {"memory": MEMORY, "workers": str(workers)})
    await connection.execute(statement("drop_index", placeholders), {})
    await connection.execute(statement(f"create_index_on_{embedding.generation.store}", placeholders), {})
    await connection.execute(statement("comment_index", placeholders), {})


def _indexed(embedding: Embedding) -> sql.Identifier:
    if embedding.generation.store is StoreKind.COLUMN:
        return fragments.identifier(embedding.source.table)
    return fragments.internal("store", embedding.generation)
