"""The search of one embedding: its statements, rendered once, and their values."""

from functools import cached_property
from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.query import DEFAULT_EF_SEARCH, Wanted
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, values
from pg_qwen_embed.postgres.connection import AsyncConnection, BinaryValue
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement


class Nearest:
    """Searches an embedding as it was when it was read from the registry."""

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self._names = names_of(embedding)

    async def is_known(self, connection: AsyncConnection) -> bool:
        """Whether the registry still says so."""
        own = self.embedding
        cursor = await connection.execute(
            statement("is_known"), {"name": own.name, "id": own.live.id, "instruction": own.instruction}
        )
        return (await cursor.fetchone()) == (True,)

    async def search(self, connection: AsyncConnection, query: Vectors, wanted: Wanted) -> list[Hit] | None:
        """The rows nearest to a vector, nearest first; None if the registry does not say so any more.

        The statements travel together and are answered together, in one transaction. Raises psycopg.Error."""
        async with connection.pipeline():
            begun = await connection.execute(self._begin, self._settings(wanted))
            found = connection.cursor()
            values.take_every_value(found)
            given = {"query": BinaryValue(binary.halfvec(query)), "limit": wanted.limit}
            await found.execute(self._search, given)
        known, *_ = await begun.fetchone() or (False,)
        if not known:
            return None
        rows = await values.rows(found)
        _, *columns = [column.name for column in found.description or ()]
        hits = [Hit(distance, named(columns, row)) for distance, *row in rows]
        return sorted(hits, key=lambda hit: hit.distance)  # the index orders by rounded distances

    def _settings(self, wanted: Wanted) -> dict[str, Any]:
        own = self.embedding
        ef_search = None if wanted.ef_search is None else str(wanted.ef_search)
        return {
            "name": own.name, "instruction": own.instruction, "ef_search": ef_search,
            "default_ef_search": DEFAULT_EF_SEARCH,
        }  # fmt: skip

    @cached_property
    def _begin(self) -> sql.Composed:
        return statement("begin_search", self._names)

    @cached_property
    def _search(self) -> sql.Composed:
        return statement(self._names.layout.search, self._names)


def named(columns: list[str], row: list[object]) -> dict[str, object]:
    """A row of the source, then its chunk. Where both have a column of one name, the source's counts."""
    found: dict[str, object] = {}
    for column, value in zip(columns, row, strict=True):
        found.setdefault(column, value)
    return found
