"""The baseline: the fewest steps from rows to vectors, the least that a backfill can cost; and COPY of finished vectors.

    python benchmarks/baseline.py fewest_steps|copied|indexed_base|indexed DATABASE_URL SERVER_URL ROWS DIMENSIONS

Prints the seconds it took, without the start of Python.
`fewest_steps` reads pages of rows, posts their texts, decodes the answers and inserts vectors. It has no safety: no
version, no fingerprint, no join to the source, no retry, no failure, nothing is acknowledged. `copied` has the vectors
already. `indexed` inserts the vectors of the last rows of the table `live` into a table with an HNSW index, which
`indexed_base` makes from the first rows; it has these vectors already too."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
import orjson
import psycopg
import pybase64

from pg_qwen_embed.domain import vectors
from pg_qwen_embed.postgres import binary
from pg_qwen_embed.postgres.connection import BinaryValue, take_binary_values
from pg_qwen_embed.worker.writer import WRITERS

PAGE, REQUEST, IN_FLIGHT, WRITE = 1024, 64, 8, 512
OPTIONS = "-c synchronous_commit=off"  # like the worker
Batch = tuple[list[int], vectors.Vectors]


def fewest_steps(url: str, server_url: str, _: int, dimensions: int) -> float:
    """Seconds to fill the table baseline_store, which it creates."""
    began = time.perf_counter()
    asyncio.run(_fewest_steps(url, server_url, dimensions))
    return time.perf_counter() - began


async def _fewest_steps(url: str, server_url: str, dimensions: int) -> None:
    reading = await psycopg.AsyncConnection.connect(url, autocommit=True, options=OPTIONS)
    writing = await psycopg.AsyncConnection.connect(url, autocommit=True, options=OPTIONS)
    take_binary_values(writing)
    async with reading, writing, aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        oid = await _make_store(writing, dimensions)
        rows: asyncio.Queue[tuple[list[int], list[str]] | None] = asyncio.Queue(2 * IN_FLIGHT)
        done: asyncio.Queue[Batch | None] = asyncio.Queue()

        async def read() -> None:
            async for ids, texts in _pages(reading):
                for start in range(0, len(ids), REQUEST):
                    await rows.put((ids[start : start + REQUEST], texts[start : start + REQUEST]))
            for _ in range(IN_FLIGHT):
                await rows.put(None)

        async def post() -> None:
            while (some := await rows.get()) is not None:
                ids, texts = some
                await done.put((ids, await _post(session, server_url, texts)))
            await done.put(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            for _ in range(IN_FLIGHT):
                group.create_task(post())
            await _write(writing, done, oid)


async def _post(session: aiohttp.ClientSession, server_url: str, texts: list[str]) -> vectors.Vectors:
    body = orjson.dumps({"model": "m", "input": texts, "encoding_format": "base64"})
    async with session.post(f"{server_url}/embeddings", data=body) as answer:
        data = orjson.loads(await answer.read())["data"]
    raw = b"".join([pybase64.b64decode(item["embedding"]) for item in data])
    return np.frombuffer(raw, "<f4").reshape(len(texts), -1)


async def _make_store(connection: psycopg.AsyncConnection, dimensions: int, name: str = "baseline_store") -> int:
    """The oid of halfvec."""
    await connection.execute(_store(name, dimensions))
    return await _halfvec(connection)


def _store(name: str, dimensions: int) -> str:
    """Statements that drop the table and create it again."""
    return (
        f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (id bigint PRIMARY KEY, embedding halfvec({dimensions})); "
        f"ALTER TABLE {name} ALTER embedding SET STORAGE PLAIN"
    )


async def _halfvec(connection: psycopg.AsyncConnection) -> int:
    row = await (await connection.execute("SELECT 'halfvec'::regtype::oid::int")).fetchone()
    assert row
    return int(row[0])


async def _pages(connection: psycopg.AsyncConnection) -> AsyncIterator[tuple[list[int], list[str]]]:
    last = 0
    query = "SELECT id, body FROM documents WHERE id > %s ORDER BY id LIMIT %s"
    while rows := await (await connection.execute(query, (last, PAGE), binary=True)).fetchall():
        ids, texts = zip(*rows, strict=True)
        last = ids[-1]
        yield list(ids), list(texts)


async def _write(connection: psycopg.AsyncConnection, done: "asyncio.Queue[Batch | None]", oid: int) -> None:
    insert = "INSERT INTO baseline_store SELECT * FROM unnest(%b::bigint[], %b::halfvec[])"
    held: list[Batch] = []
    ended = 0
    while ended < IN_FLIGHT:
        batch = await done.get()
        ended += batch is None
        held += [batch] if batch else []
        if sum(len(ids) for ids, _ in held) >= WRITE or (held and ended == IN_FLIGHT):
            ids = list(itertools.chain.from_iterable(ids for ids, _ in held))
            found = [own for _, own in held]
            await connection.execute(
                insert, (BinaryValue(binary.int8_array(ids)), BinaryValue(binary.halfvec_array(found, oid)))
            )
            held = []


def copied(url: str, _: str, rows: int, dimensions: int) -> float:
    """Seconds for COPY BINARY of as many finished vectors into the table copy_store, which it creates."""
    began = time.perf_counter()
    some = np.random.default_rng(0).standard_normal((1024, dimensions)).astype(">f2")
    fields = [("columns", ">i2"), ("length", ">i4"), ("id", ">i8"), ("width", ">i4"), ("dimensions", ">i2"),
              ("unused", ">i2"), ("values", ">f2", (dimensions,))]  # fmt: skip
    page = np.zeros(1024, np.dtype(fields))
    page["columns"], page["length"], page["width"], page["dimensions"] = 2, 8, 4 + 2 * dimensions, dimensions
    page["values"] = some
    with psycopg.connect(url, autocommit=True, options=OPTIONS) as connection, connection.cursor() as cursor:
        cursor.execute(_store("copy_store", dimensions))
        with cursor.copy("COPY copy_store FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, rows, 1024):
                page["id"] = np.arange(start + 1, start + 1025)
                copy.write(page[: rows - start].tobytes())
            copy.write(b"\xff\xff")
    return time.perf_counter() - began


def indexed_base(url: str, server_url: str, rows: int, dimensions: int) -> float:
    """Seconds to fill the table indexed_store, which it creates, with as many rows of the table live."""
    return asyncio.run(
        _indexed(url, server_url, "SELECT id, body FROM live ORDER BY id LIMIT %s", rows, dimensions, make=True)
    )


def indexed(url: str, server_url: str, rows: int, dimensions: int) -> float:
    """Seconds from the first INSERT to the last."""
    last = "SELECT id, body FROM live ORDER BY id DESC LIMIT %s"
    return asyncio.run(_indexed(url, server_url, last, rows, dimensions, make=False))


async def _indexed(url: str, server_url: str, query: str, rows: int, dimensions: int, *, make: bool) -> float:
    connections = [await psycopg.AsyncConnection.connect(url, autocommit=True, options=OPTIONS) for _ in range(WRITERS)]
    for connection in connections:
        take_binary_values(connection)
    first = connections[0]
    if make:
        oid = await _make_store(first, dimensions, "indexed_store")
        await first.execute("CREATE INDEX ON indexed_store USING hnsw (embedding halfvec_cosine_ops)")
    else:
        oid = await _halfvec(first)
    found = await (await first.execute(query, (rows,))).fetchall()
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        groups = iter([
            ([key for key, _ in page], await _post(session, server_url, [text for _, text in page]))
            for page in [found[start : start + REQUEST] for start in range(0, len(found), REQUEST)]
        ])  # fmt: skip
    insert = "INSERT INTO indexed_store SELECT * FROM unnest(%b::bigint[], %b::halfvec[])"

    async def write(connection: psycopg.AsyncConnection) -> None:
        for ids, embeddings in groups:
            values = BinaryValue(binary.int8_array(ids)), BinaryValue(binary.halfvec_array([embeddings], oid))
            await connection.execute(insert, values)

    began = time.perf_counter()
    await asyncio.gather(*(write(connection) for connection in connections))
    seconds = time.perf_counter() - began
    for connection in connections:
        await connection.close()
    return seconds


if __name__ == "__main__":
    what, database, server, number, length = sys.argv[1:]
    print(globals()[what](database, server, int(number), int(length)))
