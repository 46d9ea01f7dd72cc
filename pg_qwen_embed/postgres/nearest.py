"""The search of one embedding: its statements, rendered once, and their values."""

from functools import cached_property
from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.query import COSTS, DEFAULT_EF_SEARCH, SAMPLE, Wanted
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, conditions, values
from pg_qwen_embed.postgres.conditions import Condition
from pg_qwen_embed.postgres.connection import AsyncConnection, BinaryValue
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

LOOK_UP_NAMES = statement("look_up_names").as_bytes(None)
CHUNKS_FOR_EACH, MORE_CHUNKS = 4, 40  # chunks that an index finds for each row of a search with a condition
MOST_RENDERED = 200  # statements


class Nearest:
    """Searches an embedding as it was when it was read from the registry."""

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self._names = names_of(embedding)
        self._rendered: dict[tuple[bool, str | None], bytes] = {}

    async def is_known(self, connection: AsyncConnection) -> bool:
        """Whether the registry still says so."""
        own = self.embedding
        cursor = await connection.execute(
            statement("is_known"), {"name": own.name, "id": own.live.id, "instruction": own.instruction}
        )
        return (await cursor.fetchone()) == (True,)

    async def search(
        self, connection: AsyncConnection, query: Vectors, wanted: Wanted, condition: Condition | None
    ) -> list[Hit] | None:
        """The rows nearest to a vector, nearest first; None if the registry does not say so any more.

        The statements travel together and are answered together, in one transaction. Raises psycopg.Error."""
        search = self._statement(wanted, condition)
        given = {**self._values(query, wanted), **(condition.values if condition else {})}
        async with connection.pipeline():
            begun = await connection.execute(self._begin, self._settings(wanted))
            if condition is not None:
                await connection.execute(LOOK_UP_NAMES)
            found = connection.cursor()
            values.take_every_value(found)
            await found.execute(search, given)
        known, *_ = await begun.fetchone() or (False,)
        if not known:
            return None
        rows = await values.rows(found)
        _, *columns = [column.name for column in found.description or ()]
        hits = [Hit(distance, _row(columns, row)) for distance, *row in rows]
        return sorted(hits, key=lambda hit: hit.distance)  # the index orders by rounded distances

    def _settings(self, wanted: Wanted) -> dict[str, Any]:
        own = self.embedding
        ef_search = None if wanted.ef_search is None else str(wanted.ef_search)
        return {
            "name": own.name, "instruction": own.instruction, "ef_search": ef_search,
            "default_ef_search": DEFAULT_EF_SEARCH,
        }  # fmt: skip

    def _values(self, query: Vectors, wanted: Wanted) -> dict[str, Any]:
        limit = wanted.limit
        candidates = CHUNKS_FOR_EACH * limit + MORE_CHUNKS if self._names.layout.has_chunks else limit
        return {
            "query": BinaryValue(binary.halfvec(query)), "limit": limit, "candidates": candidates, "sample": SAMPLE,
            "costs": COSTS,
        }  # fmt: skip

    @cached_property
    def _begin(self) -> bytes:
        return statement("begin_search", self._names).as_bytes(None)

    def _statement(self, wanted: Wanted, condition: Condition | None) -> bytes:
        """Rendered once for each condition, of which an application has few."""
        key = (wanted.exact, condition.text if condition else None)
        if key not in self._rendered:
            if len(self._rendered) >= MOST_RENDERED:
                self._rendered.clear()
            self._rendered[key] = self._search(*key).as_bytes(None)
        return self._rendered[key]

    def _search(self, is_exact: bool, where: str | None) -> sql.Composed:
        if is_exact:
            return conditions.exact(self._names, where)
        if where is not None:
            return conditions.filtered(self._names, where)
        return statement(self._names.layout.search, self._names)


def _row(columns: list[str], row: list[object]) -> dict[str, object]:
    """A row of the source, then its chunk. Where both have a column of one name, the source's counts."""
    found: dict[str, object] = {}
    for column, value in zip(columns, row, strict=True):
        found.setdefault(column, value)
    return found
