"""The statements of an evaluation: what it reads of a source and of its store, and the searches in its sample.

A sample is searched by PostgreSQL itself where the words of documents or an index are to be measured: in temporary tables,
with the expressions by which the embedding is searched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_qwen_embed.domain.change import LONGEST_DOCUMENT, Key
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.evaluation import Kept
from pg_qwen_embed.domain.index import Index
from pg_qwen_embed.domain.source import Column
from pg_qwen_embed.domain.spec import StoreKind
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, expressions
from pg_qwen_embed.postgres.connection import BinaryValue, Connection
from pg_qwen_embed.postgres.index import storage_parameters
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

PAGE = 50  # rows whose documents are read at once
VECTORS = 500  # that are read or written at once
CHUNKS_FOR_EACH, MORE_CHUNKS = 4, 40  # chunks that an index finds for each document


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """fits: the store has the vectors of this very document."""

    key: Key
    position: int  # the position of the key by which it was found
    document: str | None
    title: str | None
    fingerprint: bytes | None
    fits: bool


class SampleReader:
    """Reads rows of one generation. title: the column whose text makes a question."""

    def __init__(self, connection: Connection, target: Target, title: Column | None = None) -> None:
        self._connection = connection
        self._target = target
        self._names = Names(target)
        self._title = title

    def count(self) -> int:
        (rows,) = self._connection.execute(statement("count_rows", self._names), {}).fetchone() or (0,)
        return int(rows)

    def draw(self, rows: int, seed: int) -> list[Key]:
        """Keys in their order, always the same for the same seed while the table does not change."""
        return self._connection.execute(statement("draw_rows", self._names), {"rows": rows, "seed": seed}).fetchall()

    def order(self, keys: Sequence[Key]) -> list[int]:
        """The positions of these keys in the order of their index."""
        return [n - 1 for (n,) in self._connection.execute(statement("order_keys", self._names), self._bound(keys))]

    def rows(self, keys: Sequence[Key]) -> Iterator[DrawnRow]:
        """The rows of these keys, page by page. Raises psycopg.DataError for a key that is none of its type."""
        read = statement("read_drawn_rows", self._names, title=self._title_text(), drawn_document=self._document())
        for begin in range(0, len(keys), PAGE):
            values = self._bound(keys[begin : begin + PAGE]) | {"longest": LONGEST_DOCUMENT + 1}
            for position, document, title, fingerprint, fits, *key in self._read(read, values):
                yield DrawnRow(tuple(key), begin + position - 1, document, title, fingerprint, fits)

    def vectors(self, keys: Sequence[Key], fingerprints: Sequence[bytes]) -> dict[int, Vectors]:
        """By the positions of the keys: the vectors that the store has, of shape (chunks, dimensions)."""
        found: dict[int, list[Vectors]] = {}
        read = statement("read_drawn_vectors", self._names)
        for begin in range(0, len(keys), VECTORS):
            end = begin + VECTORS
            values = self._bound(keys[begin:end])
            values["fingerprints"] = BinaryValue(binary.bytea_array(fingerprints[begin:end]))
            for position, vector in self._connection.cursor(binary=True).execute(read, values):
                found.setdefault(begin + position - 1, []).append(binary.from_halfvec(vector))
        return {position: np.stack(own) for position, own in found.items()}

    def _read(self, query: sql.Composed, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except UnicodeDecodeError as error:  # a cast WITHOUT FUNCTION can produce it
            raise psycopg.DataError(f"a document holds bytes that are not UTF-8 ({error.reason})") from None

    def _title_text(self) -> sql.Composable:
        if self._title is None:
            return sql.SQL("NULL::text")
        return expressions.key_text(sql.Identifier("t", self._title.name), self._title)

    def _document(self) -> sql.Composable:
        """The document of a row, without its title."""
        arguments = (
            sql.SQL("NULL::{}").format(expressions.document_parameter(column))
            if self._title and column.name == self._title.name
            else expressions.document_argument("t", column)
            for column in self._names.embedded
        )
        return sql.SQL("{}({})").format(self._names.document_function, expressions.joined(arguments))

    def _bound(self, keys: Sequence[Key]) -> dict[str, Any]:
        columns = list(zip(*keys, strict=True)) or [()] * len(self._target.source.key)
        return {
            f"k{n}": BinaryValue(binary.int8_array(own)) if expressions.is_integer(column) else list(own)
            for n, (own, column) in enumerate(zip(columns, self._target.source.key, strict=True), 1)
        }


class SampleOfWords:
    """The words of a sample, until the transaction ends."""

    def __init__(self, connection: Connection, target: Target, texts: Sequence[str]) -> None:
        self._connection = connection
        self._find = statement("find_in_sample_of_words", Names(target))
        connection.execute(statement("create_sample_of_words"))
        add = statement("add_to_sample_of_words", Names(target))
        for begin in range(0, len(texts), PAGE):
            own = list(texts[begin : begin + PAGE])
            connection.execute(add, {"documents": list(range(begin, begin + len(own))), "texts": own})
        connection.execute(statement("index_sample_of_words"))

    def find(self, text: str, limit: int) -> list[int]:
        rows = self._connection.execute(self._find, {"text": text, "limit": limit})
        return [document for (document,) in rows]


class SampleOfVectors:
    """The vectors of a sample with an index of one kind, until the transaction ends."""

    def __init__(
        self, connection: Connection, target: Target, index: Index, vectors: Vectors, owners: NDArray[np.int64]
    ) -> None:
        own = replace(target.spec, index=index, store=StoreKind.TABLE, chunking=None, dimensions=vectors.shape[1])
        names = Names(Target(target.embedding, replace(target.generation, spec=own)))
        self._connection = connection
        self._has_chunks = len(np.unique(owners)) < len(owners)
        self._find = statement("find_in_sample_of_vectors", names)
        connection.execute(statement("drop_sample_of_vectors"))
        connection.execute(statement("create_sample_of_vectors", names), {})
        add = statement("add_to_sample_of_vectors", names)
        for begin in range(0, len(vectors), VECTORS):
            part = [str(vector.tolist()) for vector in vectors[begin : begin + VECTORS]]
            connection.execute(add, {"documents": owners[begin : begin + VECTORS].tolist(), "vectors": part})
        parameters = storage_parameters(names, len(vectors))
        connection.execute(statement("index_sample_of_vectors", names, storage_parameters=parameters), {})
        connection.execute(statement("search_sample_by_index", names), {"width": str(index.default_width)})

    def find(self, query: Vectors, limit: int) -> list[int]:
        most = CHUNKS_FOR_EACH * limit + MORE_CHUNKS if self._has_chunks else limit
        rows = self._connection.execute(self._find, {"query": BinaryValue(binary.halfvec(query)), "limit": most})
        return list(dict.fromkeys(document for (document,) in rows))[:limit]


def keep(connection: Connection, name: str, result: dict[str, Any]) -> None:
    """Raises psycopg.errors.InsufficientPrivilege for a role that may not write the registry."""
    connection.execute(statement("keep_evaluation"), {"name": name, "result": Jsonb(result)})


def kept(connection: Connection, name: str, most: int) -> list[Kept]:
    """The latest first."""
    return [Kept(*row) for row in connection.execute(statement("list_evaluations"), {"name": name, "most": most})]
