"""The worker's statements about one generation: one method each, named like it. No decisions."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from pg_qwen_embed.domain.change import LONGEST_DOCUMENT, Change, Key, change_of, entries_of
from pg_qwen_embed.domain.model import Embedding, StoreKind
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary
from pg_qwen_embed.postgres.connection import AsyncConnection, AsyncCursor, BinaryValue
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import fragments, statement

# Where a row has one vector, and where it has several.
_BY_LAYOUT = {
    "stored": ("stored_plain", "stored_chunked"),
    "stored_by_row": ("stored_by_row_plain", "stored_by_row_chunked"),
    "stored_of_page": ("stored_of_page_plain", "stored_of_page_chunked"),
}


@dataclass(frozen=True, slots=True)
class Page:
    """What one read of the outbox gave. Up to `end` it took every entry that was there; cut: there may be more; full: it
    has as many keys as were asked for."""

    changes: list[Change]
    source_truncated: list[tuple[int, Sequence[int]]]  # version and entries of each TRUNCATE
    end: int
    partial: bool
    full: bool = False


@dataclass(frozen=True, slots=True)
class BackfillPage:
    changes: list[Change]
    rows: int
    last: Key | None


class Store:
    """Statements composed once for an embedding. Methods take the connection they run on."""

    def __init__(self, embedding: Embedding, halfvec_oid: int) -> None:
        self.embedding = embedding
        self._halfvec_oid = halfvec_oid
        self._lock_shared = _composed("lock_store_shared")
        self._lock_exclusive = _composed("lock_store_exclusive")
        self._id = embedding.generation.id
        self._integer_keys = [fragments.is_integer(column) for column in embedding.source.key]
        placeholders = fragments.placeholders(embedding)
        layout = embedding.generation.layout
        self._in_column = embedding.generation.store is StoreKind.COLUMN
        self._chunked = embedding.generation.chunking is not None
        self._read_outbox = _composed("read_outbox", placeholders)
        self.has_work = statement("has_work", placeholders)
        self._first_page = _composed("read_backfill", placeholders | {"beyond": fragments.TRUE})
        self._next_page = _composed("read_backfill", placeholders | {"beyond": statement("beyond", placeholders)})
        self._start_backfill = statement("start_backfill", placeholders)
        self._write = _composed(f"write_{layout}", placeholders)
        self._clear = _composed(f"clear_{layout}", placeholders)
        self._clear_source_truncated = _composed("clear_source_truncated", placeholders)
        self._vacuum = statement("vacuum_outbox", placeholders)
        self._read_failures = _composed("read_failures", placeholders)
        self._record_failures = _composed("record_failures", placeholders)

    async def read_outbox(
        self, connection: AsyncConnection, *, after: int, in_flight: set[int], entries: int, keys: int
    ) -> Page:
        values = {
            "after": after,
            "in_flight": BinaryValue(binary.int8_array(np.fromiter(in_flight, np.int64, len(in_flight)))),
            "entries": entries,
            "keys": keys,
            "longest": LONGEST_DOCUMENT + 1,
        }
        rows = await _fetched(connection, self._read_outbox, values)
        source_truncated = [(version, seqs) for version, _, seqs, _, _, _, *key in rows if key[0] is None]
        changes = [
            change_of(tuple(key), version, seqs, known, document, here)
            for version, _, seqs, known, document, here, *key in rows
            if key[0] is not None
        ]
        if len(rows) == keys:  # there may be keys beyond: complete only to the lowest entry of the last one
            return Page(changes, source_truncated, rows[-1][1], partial=True, full=True)
        end = max((row[0] for row in rows), default=after)
        return Page(changes, source_truncated, end, partial=sum(len(row[2]) for row in rows) == entries)

    async def read_snapshot(self, connection: AsyncConnection) -> tuple[int, int]:
        """The xmin of a snapshot older than the next read, and a transaction id newer than the last."""
        row = await (await connection.execute(statement("read_snapshot"))).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    async def read_backfill(
        self, connection: AsyncConnection, *, after: Sequence[str] | None, rows: int
    ) -> BackfillPage:
        values: dict[str, Any] = {"rows": rows, "longest": LONGEST_DOCUMENT + 1}
        values |= {f"after{n}": value for n, value in enumerate(after or (), 1)}
        query = self._first_page if after is None else self._next_page
        rows_read = await _fetched(connection, query, values)
        absent = [
            change_of(tuple(key), 0, (), known, document) for present, known, document, *key in rows_read if not present
        ]
        changes = [change for change in absent if change.fingerprint is not None]
        return BackfillPage(changes, len(rows_read), tuple(rows_read[-1][3:]) if rows_read else None)

    async def write(
        self, connection: AsyncConnection, changes: Sequence[Change], embeddings: Sequence[Vectors]
    ) -> list[int]:
        """Write and acknowledge; the positions of changes whose row the application has locked are left undone.

        embeddings: together of shape (len(changes), dimensions); of documents that are divided, a row for each chunk."""
        values = self._keys_and_versions(changes)
        values["fingerprints"] = BinaryValue(binary.bytea_array([c.fingerprint or b"" for c in changes]))
        values["embeddings"] = BinaryValue(binary.halfvec_array(embeddings, self._halfvec_oid))
        values |= self._entries(changes)
        values |= _chunks(changes) if self._chunked else _truncated(changes)
        lock = self._lock_exclusive if self._chunked else self._lock_shared
        cursor = await self._locked(connection, lock, self._write, values)
        return [row[0] - 1 for row in await cursor.fetchall()] if self._in_column else []

    async def clear(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[int]:
        """Settle keys that have no vector to be: their row has gone, or its document is blank. Like `write`, it returns
        the positions of changes left undone."""
        values = self._keys_and_versions(changes) | {
            "here": BinaryValue(binary.bool_array([change.here for change in changes]))
        }
        values |= self._entries(changes)
        cursor = await self._locked(connection, self._lock_exclusive, self._clear, values)
        return [row[0] - 1 for row in await cursor.fetchall()] if self._in_column else []

    async def clear_source_truncated(self, connection: AsyncConnection, version: int, seqs: Sequence[int]) -> None:
        values = {"version": version, "seqs": BinaryValue(binary.int8_array(seqs))}
        await self._locked(connection, self._lock_exclusive, self._clear_source_truncated, values)

    async def read_failures(self, connection: AsyncConnection, *, rows: int) -> list[Change]:
        found = await _fetched(connection, self._read_failures, {"rows": rows, "longest": LONGEST_DOCUMENT + 1})
        return [
            change_of(tuple(key), version, (), known, document, here, attempts)
            for version, attempts, known, document, here, *key in found
        ]

    async def record_failures(
        self, connection: AsyncConnection, changes: Sequence[Change], sentences: Sequence[str],
        retry_afters: Sequence[float | None],
    ) -> None:  # fmt: skip
        """retry_afters: seconds; None parks it."""
        values = self._keys_and_versions(changes)
        values["attempts"] = [change.attempts + 1 for change in changes]
        values["errors"] = [sentence.replace("\0", "") for sentence in sentences]
        values["retry_afters"] = list(retry_afters)
        values["seqs"] = self._seqs(changes)
        await self._locked(connection, self._lock_exclusive, self._record_failures, values)

    async def start_backfill(self, connection: AsyncConnection) -> None:
        await connection.execute(self._start_backfill, {"id": self._id})

    async def advance_backfill(self, connection: AsyncConnection, cursor: Sequence[Any], rows: int) -> None:
        values = {"id": self._id, "cursor": [str(value) for value in cursor], "rows": rows}
        await connection.execute(statement("advance_backfill"), values)

    async def finish_backfill(self, connection: AsyncConnection, state: str, *, after: str) -> None:
        """From one state to the next; nothing, if the backfill was started again meanwhile."""
        values = {"id": self._id, "state": state, "from": after}
        await connection.execute(statement("finish_backfill"), values)

    async def read_backfill_state(self, connection: AsyncConnection) -> tuple[str, list[str] | None]:
        cursor = await connection.execute(statement("read_backfill_state"), {"id": self._id})
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else ("none", None)

    async def has_rows(self, connection: AsyncConnection, trigger: int) -> bool:
        """Of the partition with this trigger; one that has just been dropped has none. If this role may not look: yes."""
        row = await (await connection.execute(statement("table_of_trigger"), {"trigger": trigger})).fetchone()
        if row is None:
            return False
        try:
            cursor = await connection.execute(statement("has_rows", {"table": sql.Identifier(*row)}), {})
        except psycopg.errors.InsufficientPrivilege:
            return True
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def note_partitions(self, connection: AsyncConnection, clones: list[int] | None) -> None:
        """What came or went with partitions has been looked into."""
        await connection.execute(statement("note_partitions"), {"id": self._id, "partitions": clones})

    async def vacuum(self, connection: AsyncConnection) -> None:
        await connection.execute(self._vacuum, {})

    async def _locked(
        self, connection: AsyncConnection, lock: bytes, query: bytes, values: dict[str, Any]
    ) -> AsyncCursor:
        """Runs it under a lock. Both go out together; what is sent up to one Sync is one transaction (PostgreSQL, "Pipelining"):
        BEGIN and COMMIT would be answered and waited for. But only an explicit COMMIT says what a deferred trigger of a source
        that is written to finds wrong.

        Prepared at once: with its threshold psycopg would believe in a statement whose preparation failed at its second use."""
        block = connection.transaction() if self._in_column else nullcontext()
        async with connection.pipeline(), block:
            await self._lock(connection, lock)
            return await connection.execute(query, values, prepare=True)

    async def _lock(self, connection: AsyncConnection, lock: bytes) -> None:
        await connection.execute(lock, {"lock": int(Lock.STORE), "id": self._id}, prepare=True)

    def _keys_and_versions(self, changes: Sequence[Change]) -> dict[str, Any]:
        columns = zip(*(change.key for change in changes), strict=True)
        values: dict[str, Any] = {
            f"k{n}": BinaryValue(binary.int8_array(column)) if is_integer else list(column)
            for n, (column, is_integer) in enumerate(zip(columns, self._integer_keys, strict=True), 1)
        }
        values["versions"] = BinaryValue(binary.int8_array([change.version for change in changes]))
        return values

    def _entries(self, changes: Sequence[Change]) -> dict[str, BinaryValue]:
        """The outbox entries that the changes settle; for a column also which change each belongs to."""
        values = {"seqs": self._seqs(changes)}
        if self._in_column:
            positions = [n for n, change in enumerate(changes, 1) for _ in change.seqs]
            values["positions"] = BinaryValue(binary.int8_array(positions))
        return values

    @staticmethod
    def _seqs(changes: Sequence[Change]) -> BinaryValue:
        return BinaryValue(binary.int8_array(entries_of(changes)))


async def _fetched(connection: AsyncConnection, query: bytes, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows with documents. Raises psycopg.DataError also for text that is not UTF-8, which a cast WITHOUT FUNCTION makes."""
    cursor = await connection.cursor(binary=True).execute(query, values)
    try:
        return await cursor.fetchall()
    except UnicodeDecodeError as error:
        raise psycopg.DataError(f"a document holds bytes that are not UTF-8 ({error.reason})") from None


def _composed(name: str, placeholders: fragments.Placeholders | None = None) -> bytes:
    """As it is sent: psycopg would put the pieces together for each execution."""
    return statement(name, placeholders).as_bytes(None)


def _truncated(changes: Sequence[Change]) -> dict[str, BinaryValue]:
    return {"truncated": BinaryValue(binary.bool_array([change.truncated for change in changes]))}


def _chunks(changes: Sequence[Change]) -> dict[str, BinaryValue]:
    """How many chunks each change has, and of each chunk: the change's position, its own number, and its span."""
    spans = [(n, chunk, *span) for n, change in enumerate(changes, 1) for chunk, span in enumerate(change.spans, 1)]
    columns = dict(zip(("positions", "chunks", "begins", "ends"), zip(*spans, strict=True), strict=True))
    columns["counts"] = tuple(len(change.spans) for change in changes)
    return {name: BinaryValue(binary.int8_array(column)) for name, column in columns.items()}


def by_layout(embedding: Embedding, placeholders: fragments.Placeholders, *names: str) -> fragments.Placeholders:
    """With the parts of statements that are others where a row has several vectors."""
    which = 1 if embedding.generation.chunking else 0
    placeholders = placeholders | {"all_chunks": statement("all_chunks")}
    return placeholders | {name: statement(_BY_LAYOUT[name][which], placeholders) for name in names}
