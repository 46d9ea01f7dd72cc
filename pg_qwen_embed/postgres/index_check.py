"""Measure what the index of a generation finds: the same searches by the index, at several widths, and exactly.

Everything is read on one connection, and nothing is written but the result. A search reads the table that holds the vectors,
and no source: row-level security and filters have no part in it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg

from pg_qwen_embed.domain import index_check
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.index_check import ITSELF, IndexCheck, Point
from pg_qwen_embed.domain.vectors import Vectors, normalise
from pg_qwen_embed.postgres import binary
from pg_qwen_embed.postgres.connection import AsyncConnection, BinaryValue
from pg_qwen_embed.postgres.index_names import index_text
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

K = 10  # rows of a search


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. share: of the time, in which it searches; 1: it does not pause.

    sample: vectors that are read at most. timeout: milliseconds of a statement. all_widths: also those beyond the one that
    is enough. margin: how many steps wider than that one the recorded one is."""

    queries: int = 100
    looked_for: int = 400
    sample: int = 20_000
    share: float = 1.0
    timeout: int = 0
    all_widths: bool = True
    margin: int = 0


GENTLE = Effort(queries=50, looked_for=100, sample=4_000, share=0.2, timeout=10_000, all_widths=False, margin=1)
SAMPLE_BYTES = 64_000_000  # of vectors, as float32


async def measure(
    connection: AsyncConnection,
    target: Target,
    wanted: float,
    effort: Effort,
    rng: np.random.Generator,
    *,
    queries: Vectors | None = None,
    k: int = K,
    tell: Callable[[Point], None] | None = None,
) -> IndexCheck | None:
    """Measure the index. queries: vectors of texts; None: they are made of stored vectors. None if nothing is stored.

    The session must not be in a transaction, and plans that scan a table must be off. Raises psycopg.Error."""
    check = _Check(connection, Names(target), effort, k)
    await connection.execute(statement("limit_statement"), {"timeout": str(effort.timeout)})
    sample = await check.sample()
    if not len(sample):
        return None
    if queries is None:
        queries = index_check.turned(sample[rng.integers(len(sample), size=effort.queries)], rng)
    exact, baseline = await check.exactly(queries)
    points: list[Point] = []
    for width in index_check.widths(target.spec.index):
        points.append(await check.by_index(width, queries, exact))
        if tell:
            tell(points[-1])
        if not effort.all_widths and sum(one.recall >= wanted for one in points) > effort.margin:
            break
    position = points.index(index_check.enough(points, wanted)) + effort.margin
    chosen = points[min(position, len(points) - 1)]
    themselves = await asyncio.to_thread(_to_look_for, sample, effort.looked_for, rng)
    lost = await check.not_found(chosen.width, themselves)
    return IndexCheck(
        tuple(points), baseline, wanted, k, len(queries), chosen.width, chosen.recall, len(themselves), lost
    )


async def record(connection: AsyncConnection, target: Target, check: IndexCheck) -> None:
    """Let searches look so widely from now on. Raises psycopg.Error, for a role that may not write the registry also."""
    values = {
        "index": index_text(Names(target)), "ef_search": check.width, "recall": check.recall, "queries": check.queries,
        "looked_for": check.looked_for, "not_found": check.not_found,
    }  # fmt: skip
    await connection.execute(statement("record_index_check", Names(target)), values)


def _to_look_for(sample: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Half of them far from each other, half drawn at random."""
    if len(sample) <= count:
        return sample
    chosen = index_check.apart(normalise(sample), count // 2)
    return sample[[*chosen, *rng.choice(len(sample), count - len(chosen), replace=False)]]


class _Check:
    def __init__(self, connection: AsyncConnection, names: Names, effort: Effort, k: int) -> None:
        self._connection = connection
        self._names = names
        self._effort = effort
        self._k = k

    async def sample(self) -> Vectors:
        """Stored vectors, as they are stored."""
        dimensions = self._names.target.spec.dimensions
        values = {"most": max(1, min(self._effort.sample, SAMPLE_BYTES // (4 * dimensions)))}
        cursor = self._connection.cursor(binary=True)
        rows = await (await cursor.execute(statement("sample_vectors", self._names), values)).fetchall()
        vectors = [binary.from_halfvec(value) for (value,) in rows]
        return np.stack(vectors) if vectors else np.empty((0, dimensions), np.float32)

    async def exactly(self, queries: Vectors) -> tuple[list[list[float]], Point]:
        found, times = [], []
        for query in queries:
            rows, took = await self._search(statement("nearest_exactly", self._names), query, self._k)
            found.append([row[0] for row in rows])
            times.append(took)
        count = sum(map(len, found))
        return found, index_check.point(0, count, count, times)

    async def by_index(self, width: int, queries: Vectors, exact: Sequence[Sequence[float]]) -> Point:
        await self._widen(width)
        count, times = 0, []
        for query, nearest in zip(queries, exact, strict=True):
            rows, took = await self._search(statement("nearest_by_index", self._names), query, self._k)
            count += index_check.matches(nearest, [row[0] for row in rows])
            times.append(took)
        return index_check.point(width, count, sum(map(len, exact)), times)

    async def not_found(self, width: int, vectors: Vectors) -> int:
        """How many of these stored vectors a search for themselves does not find."""
        await self._widen(width)
        count = 0
        for vector in vectors:
            rows, _ = await self._search(statement("nearest_by_index", self._names), vector, 1)
            count += not any(nearest <= itself + ITSELF for nearest, itself in rows)
        return count

    async def _widen(self, width: int) -> None:
        await self._connection.execute(statement("set_search_width", self._names), {"width": str(width)})

    async def _search(
        self, query: psycopg.sql.Composed, vector: Vectors, limit: int
    ) -> tuple[list[tuple[float, ...]], float]:
        """The rows, and milliseconds. It pauses afterwards, to take no more than its share of the time."""
        values = {"query": BinaryValue(binary.halfvec(vector)), "limit": limit}
        began = time.perf_counter()
        rows = await (await self._connection.execute(query, values, prepare=True)).fetchall()
        took = time.perf_counter() - began
        if self._effort.share < 1:
            await asyncio.sleep(took / self._effort.share - took)
        return rows, 1000 * took
