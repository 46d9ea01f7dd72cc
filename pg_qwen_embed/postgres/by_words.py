"""The searches of one embedding that use its words: by words alone, and by words and vectors together.

Without a condition they are the functions that applications call in SQL. Among the rows that meet a condition both sides are
searched first, and joined afterwards."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.query import Wanted
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.texts import storable
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, conditions, values
from pg_qwen_embed.postgres.conditions import Condition
from pg_qwen_embed.postgres.connection import AsyncConnection, AsyncCursor, BinaryValue
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.nearest import Nearest, named
from pg_qwen_embed.postgres.one_request import one_request
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.word_names import CANDIDATES


class ByWords(Nearest):
    """Searches an embedding as it was when it was read from the registry. Raises UsageError for one without words."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__(embedding)
        if not self._names.has_words:
            raise UsageError(
                f"{embedding.name} keeps no words: detach it, and attach it again with --words english, for instance"
            )

    async def search_text(
        self,
        connection: AsyncConnection,
        text: str,
        vector: Vectors | None,
        wanted: Wanted,
        condition: Condition | None,
    ) -> list[Hit] | None:
        """The best rows, best first; None if the registry does not say so any more. vector: None searches by words alone.

        The statements travel together and are answered together. Raises psycopg.Error."""
        if condition is None and (vector is None or not wanted.exact):
            found = await self._call(connection, text, vector, wanted)
        else:
            found = await self._search_among(connection, text, vector, wanted, condition)
        if found is None:
            return None
        rows = await values.rows(found)
        _, _, _, _, *columns = [column.name for column in found.description or ()]
        return [
            Hit(math.nan if distance is None else distance, named(columns, row), score, by_vector, by_words)
            for score, by_vector, by_words, distance, *row in rows
        ]

    async def _call(
        self, connection: AsyncConnection, text: str, vector: Vectors | None, wanted: Wanted
    ) -> AsyncCursor | None:
        """By the function of the embedding."""
        names = self._names_for(wanted)
        given: dict[str, Any] = {"text": storable(text), "limit": wanted.limit}
        query = statement("search_words", names)
        if vector is not None:
            given["query"] = BinaryValue(binary.halfvec(vector))
            query = statement("search_hybrid_chunks" if names.layout.has_chunks else "search_hybrid", names)
        async with one_request(connection):
            known = await connection.execute(statement("is_known"), self._identity)
            found = connection.cursor()
            values.take_every_value(found)
            await found.execute(query, given)
        return found if (await known.fetchone()) == (True,) else None

    async def _search_among(
        self,
        connection: AsyncConnection,
        text: str,
        vector: Vectors | None,
        wanted: Wanted,
        condition: Condition | None,
    ) -> AsyncCursor | None:
        """Each side finds as many rows as are wanted, and as many as are fused at least."""
        given: dict[str, Any] = {
            "text": storable(text),
            "limit": wanted.limit,
            **(condition.values if condition else {}),
        }
        if vector is not None:
            wanted = replace(wanted, limit=max(wanted.limit, CANDIDATES))
            given = {**given, **self._values(vector, wanted, condition), "rows": given["limit"]}
        where = condition.text if condition else None
        steps = self._steps_among(
            where, exact=wanted.exact, by_vector=vector is not None, names=self._names_for(wanted)
        )
        composed = [step.as_bytes(None) for step in steps]
        return await self._run(connection, composed, self._settings(wanted, condition), given)

    def _steps_among(
        self, where: str | None, *, exact: bool, by_vector: bool, names: Names | None = None
    ) -> Iterator[sql.Composed]:
        names = names or self._names
        yield statement("want_words", names)
        if where is not None and not by_vector:
            yield conditions.words(names, where)
        elif where is None or exact:
            yield conditions.exact(names, where, conditions.fused(names, where))
        else:
            yield conditions.decide(names, where)
            yield conditions.filtered(names, where, conditions.fused(names, where))
