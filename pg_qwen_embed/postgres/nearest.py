"""The search of one embedding: its statements, rendered once, and their values."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.index import MOST_EF_SEARCH, IndexKind
from pg_qwen_embed.domain.query import (
    COSTS,
    LOOKS,
    LOOKS_FILTERED,
    READING,
    SAMPLE,
    Wanted,
)
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.rerank import DOCUMENT
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, conditions, values
from pg_qwen_embed.postgres.conditions import Condition
from pg_qwen_embed.postgres.connection import AsyncConnection, AsyncCursor, BinaryValue
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.one_request import one_request
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.with_documents import NamesWithDocuments

CHUNKS_FOR_EACH, MORE_CHUNKS = 4, 40  # chunks that an index finds for each row of a search with a condition
MOST_RENDERED = 200  # statements


class Nearest:
    """Searches an embedding as it was when it was read from the registry."""

    costs = COSTS

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self._names = names_of(embedding)
        self._rendered: dict[tuple[bool, bool, str | None], tuple[bytes, ...]] = {}

    async def is_known(self, connection: AsyncConnection) -> bool:
        """Whether the registry still says so."""
        cursor = await connection.execute(statement("is_known"), self._identity)
        return (await cursor.fetchone()) == (True,)

    @property
    def _identity(self) -> dict[str, Any]:
        own = self.embedding
        last = max(column.number for column in own.source.columns)
        return {"name": own.name, "id": own.live.id, "instruction": own.instruction, "last_column": last}

    async def search(
        self, connection: AsyncConnection, query: Vectors, wanted: Wanted, condition: Condition | None
    ) -> list[Hit] | None:
        """The rows nearest to a vector, nearest first; None if the registry does not say so any more.

        The statements travel together and are answered together, in one transaction. Raises psycopg.Error."""
        steps = self._steps(wanted, condition)
        given = self._values(query, wanted, condition)
        found = await self._run(connection, steps, self._settings(wanted, condition), given)
        if found is None:
            return None
        rows = await values.rows(found)
        _, *columns = [column.name for column in found.description or ()]
        hits = [Hit(distance, named(columns, row)) for distance, *row in rows]
        return sorted(hits, key=lambda hit: hit.distance)  # the index orders by rounded distances

    async def _run(
        self, connection: AsyncConnection, steps: Sequence[bytes], settings: dict[str, Any], given: dict[str, Any]
    ) -> AsyncCursor | None:
        """What the last statement found; None if the registry does not say so any more."""
        async with one_request(connection):
            begun = await connection.execute(self._begin, settings)
            for step in steps[:-1]:
                await connection.execute(step, given)
            found = connection.cursor()
            values.take_every_value(found)
            await found.execute(steps[-1], given)
        known, *_ = await begun.fetchone() or (False,)
        return found if known else None

    def _settings(self, wanted: Wanted, condition: Condition | None) -> dict[str, Any]:
        own = self.embedding
        own_width = own.live.spec.index.kind is IndexKind.HNSW  # the others take more candidates for more rows
        ef_search = wanted.ef_search or (min(MOST_EF_SEARCH, int(LOOKS * wanted.limit)) if own_width else 1)
        return {
            "name": own.name, "instruction": own.instruction, "given": wanted.ef_search is not None,
            "ef_search": ef_search, "has_condition": condition is not None,
        }  # fmt: skip

    def _values(self, query: Vectors, wanted: Wanted, condition: Condition | None) -> dict[str, Any]:
        limit = wanted.limit
        candidates = CHUNKS_FOR_EACH * limit + MORE_CHUNKS if self._names.layout.has_chunks else limit
        return {
            "query": BinaryValue(binary.halfvec(query)), "limit": limit, "candidates": candidates,
            "ef_search": wanted.ef_search, "sample": SAMPLE, "looks": LOOKS_FILTERED, "costs": self.costs, "reading": READING,
            **(condition.values if condition else {}),
        }  # fmt: skip

    @cached_property
    def _begin(self) -> bytes:
        return statement("begin_search", self._names).as_bytes(None)

    def _steps(self, wanted: Wanted, condition: Condition | None) -> tuple[bytes, ...]:
        """The statements, the search as the last. They are rendered once for each condition, of which there are few."""
        key = (wanted.documents, wanted.exact, condition.text if condition else None)
        if key not in self._rendered:
            if len(self._rendered) >= MOST_RENDERED:
                self._rendered.clear()
            steps = self._composed(self._names_for(wanted), *key[1:])
            self._rendered[key] = tuple(step.as_bytes(None) for step in steps)
        return self._rendered[key]

    def _names_for(self, wanted: Wanted) -> Names:
        return NamesWithDocuments(self.embedding.target) if wanted.documents else self._names

    def _composed(self, names: Names, is_exact: bool, where: str | None) -> Iterator[sql.Composed]:
        if is_exact:
            yield conditions.exact(names, where)
        elif where is not None:
            yield conditions.decide(names, where)
            yield conditions.filtered(names, where)
        else:
            yield statement(names.layout.search, names)


def named(columns: list[str], row: list[object]) -> dict[str, object]:
    """A row of the source, then its chunk. Where both have a column of one name, the source's counts.

    The document of a row with a chunk is the chunk's text, the last column."""
    found: dict[str, object] = {}
    for column, value in zip(columns, row, strict=True):
        found.setdefault(column, value)
    if DOCUMENT in found and row[-1] is not None:
        found[DOCUMENT] = row[-1]
    return found
