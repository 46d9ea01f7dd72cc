"""The searches of one embedding that use its words: by words alone, and by words and vectors together."""

import math
from typing import Any

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.query import Wanted
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.texts import storable
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, values
from pg_qwen_embed.postgres.connection import AsyncConnection, BinaryValue
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.nearest import named
from pg_qwen_embed.postgres.sql import statement


class ByWords:
    """Searches an embedding as it was when it was read from the registry. Raises UsageError for one without words."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding
        self._names = names_of(embedding)
        if not self._names.has_words:
            raise UsageError(
                f"{embedding.name} keeps no words: detach it, and attach it again with --words english, for instance"
            )

    async def search(
        self, connection: AsyncConnection, text: str, vector: Vectors | None, wanted: Wanted
    ) -> list[Hit] | None:
        """The best rows, best first; None if the registry does not say so any more. vector: None searches by words alone.

        Both statements travel together and are answered together. Raises psycopg.Error."""
        own, names = self._embedding, self._names
        given: dict[str, Any] = {"text": storable(text), "limit": wanted.limit}
        query = statement("search_words", names)
        if vector is not None:
            given["query"] = BinaryValue(binary.halfvec(vector))
            query = statement("search_hybrid_chunks" if names.layout.has_chunks else "search_hybrid", names)
        async with connection.pipeline():
            known = await connection.execute(
                statement("is_known"), {"name": own.name, "id": own.live.id, "instruction": own.instruction}
            )
            found = connection.cursor()
            values.take_every_value(found)
            await found.execute(query, given)
        if (await known.fetchone()) != (True,):
            return None
        rows = await values.rows(found)
        _, _, _, _, *columns = [column.name for column in found.description or ()]
        return [
            Hit(math.nan if distance is None else distance, named(columns, row), score, by_vector, by_words)
            for score, by_vector, by_words, distance, *row in rows
        ]
