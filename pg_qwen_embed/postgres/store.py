"""The worker's statements about one generation: one method per statement, named like it. It decides nothing."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from pg_qwen_embed.domain.change import LONGEST_DOCUMENT, LONGEST_FOR_WORDS, Change, Key, change_of
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary
from pg_qwen_embed.postgres.connection import AsyncConnection, AsyncCursor, BinaryValue
from pg_qwen_embed.postgres.expressions import TRUE, is_integer
from pg_qwen_embed.postgres.index import comment as index_comment
from pg_qwen_embed.postgres.index_names import index_text, next_index_text
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

NARROW_ROW = 80  # bytes of a row of the store without its vector, about
PAGE_SIZE = 4_000_000  # bytes of the documents of a page; one document more may come


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the outbox: every entry up to `end`.

    partial: there may be more entries. full: it has as many keys as were requested. ended_early: the documents of further
    keys did not fit."""

    changes: list[Change]
    source_truncated: list[tuple[Sequence[int], Sequence[bytes]]]  # entries of a TRUNCATE, and their row ids
    end: int
    partial: bool
    full: bool = False
    ended_early: bool = False


@dataclass(frozen=True, slots=True)
class BackfillPage:
    """A page of the source. changes: its documents that have no version yet. rows: how many were read. last: the last key.

    partial: there may be more rows. ended_early: the documents of further rows did not fit."""

    changes: list[Change]
    rows: int
    last: Key | None
    partial: bool
    ended_early: bool = False


class Store:
    """Statements rendered once for a generation. Methods take the connection they run on."""

    def __init__(self, target: Target, halfvec_oid: int) -> None:
        self.target = target
        self._names = Names(target)
        self._layout = self._names.layout
        self.has_work = statement("has_work", self._names)
        self._halfvec_oid = halfvec_oid
        self._rendered: dict[str, bytes] = {}
        self._first_page = statement("read_backfill", self._names, beyond=TRUE).as_bytes(None)
        beyond = statement("beyond", self._names)
        self._next_page = statement("read_backfill", self._names, beyond=beyond).as_bytes(None)

    @property
    def writes_alone(self) -> bool:
        """Whether writes wait for each other."""
        return self._layout.writes_alone

    @property
    def has_chunks(self) -> bool:
        return self._layout.has_chunks

    @property
    def in_source(self) -> bool:
        """Whether the vectors, and their index, are in the application's own table."""
        return self._layout.in_source

    async def read_outbox(
        self, connection: AsyncConnection, *, version: int, after: int, in_flight: set[int], entries: int, keys: int,
        size: int = PAGE_SIZE, documents: bool = True,
    ) -> Page:  # fmt: skip
        """Changed keys with their documents. version: of what is read. after: the read position.

        in_flight: entries to leave out. entries, keys: the most of each to read. size: bytes of the documents. documents:
        False leaves them out. Raises psycopg.Error."""
        values = {
            "after": after,
            "in_flight": _seqs(in_flight),
            "entries": entries,
            "keys": keys,
            **_bounds(size, documents=documents),
        }
        read = await _fetched(connection, self._query("read_outbox"), values)
        rows = [row for row in read if row[4]]
        self._require_one_row_each([tuple(row[8:]) for row in rows])
        source_truncated = [(seqs, row_ids) for _, _, seqs, row_ids, _, _, _, _, *key in rows if None in key]
        changes = [
            change_of(tuple(key), version, seqs, known, document, here, row_ids=row_ids)
            for _, _, seqs, row_ids, _, known, document, here, *key in rows
            if None not in key
        ]
        full, ended_early = len(read) == keys > 0, len(rows) < len(read)
        if full or ended_early:  # there may be keys beyond: complete only to the lowest entry of the last one
            return Page(changes, source_truncated, rows[-1][1], partial=True, full=full, ended_early=ended_early)
        end = max((row[0] for row in rows), default=after)
        return Page(changes, source_truncated, end, partial=sum(len(row[2]) for row in rows) == entries)

    async def read_last_seq(self, connection: AsyncConnection) -> int | None:
        """The last number of the outbox's sequence; None if this role may not read it."""
        row = await (await connection.execute(self._query("read_last_seq"), {})).fetchone()
        return row[0] if row else None

    async def begin_term(self, connection: AsyncConnection) -> int:
        """A term above every one before; 0, whose versions win against nothing, if the generation was detached."""
        row = await (await connection.execute(statement("begin_term"), {"id": self.target.id})).fetchone()
        return row[0] if row else 0

    async def outbox_ends(self, connection: AsyncConnection, after: int) -> tuple[int, int]:
        """The first entry after this one, and the newest; both 0 if there is none."""
        row = await (await connection.execute(self._query("outbox_ends"), {"after": after})).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    async def compact_outbox(
        self, connection: AsyncConnection, in_flight: set[int], part: int, parts: int
    ) -> tuple[int, int, int]:
        """Put one new entry in place of several of a key. Returns how many went, how many came, and the last that came or 0.

        in_flight: entries to leave out. part: of the keys, from 0."""
        values = {"in_flight": _seqs(in_flight), "part": part, "parts": parts}
        async with connection.transaction():
            await connection.execute(statement("prepare_compaction"))
            row = await (await connection.execute(self._query("compact_outbox"), values)).fetchone()
        return (row[0], row[1], row[2]) if row else (0, 0, 0)

    async def read_snapshot(self, connection: AsyncConnection) -> tuple[int, int]:
        """The xmin of a snapshot older than the next read, and a transaction id newer than the last."""
        row = await (await connection.execute(statement("read_snapshot"))).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    @staticmethod
    async def limit_statements(connection: AsyncConnection, seconds: float, *, local: bool = False) -> None:
        """End a statement that runs longer; local: in this transaction."""
        values = {"milliseconds": str(round(seconds * 1000)), "local": local}
        await connection.execute(statement("limit_statements"), values)

    @staticmethod
    async def wait_for_disk(connection: AsyncConnection) -> None:
        """Return when all that was committed before is on the server's disk. Raises psycopg.Error."""
        await connection.execute(statement("wait_for_disk"))

    async def read_backfill(
        self, connection: AsyncConnection, *, after: Sequence[str] | None, rows: int, size: int = PAGE_SIZE,
        documents: bool = True,
    ) -> BackfillPage:  # fmt: skip
        """The next page in key order. after: the last key of the page before; None for the first.

        size, documents: as for `read_outbox`; without documents every row counts as changed. Raises psycopg.Error."""
        values: dict[str, Any] = {"rows": rows, **_bounds(size, documents=documents)}
        values |= {f"after{n}": value for n, value in enumerate(after or (), 1)}
        query = self._first_page if after is None else self._next_page
        read = await _fetched(connection, query, values)
        taken = [row for row in read if row[1]]
        absent = [
            change_of(tuple(key), 0, (), known, document) for present, _, known, document, *key in taken if not present
        ]
        changes = [change for change in absent if change.fingerprint is not None or not documents]
        last = tuple(taken[-1][4:]) if taken else None
        ended_early = len(taken) < len(read)
        return BackfillPage(changes, len(taken), last, partial=len(read) == rows, ended_early=ended_early)

    async def read_chunks(self, connection: AsyncConnection, changes: Sequence[Change]) -> dict[bytes, Vectors]:
        """The vectors of the chunks that these rows have, by the fingerprint of the chunk's text. Raises psycopg.Error."""
        values = self._keys_and_versions(changes)
        cursor = await connection.cursor(binary=True).execute(self._query("read_chunks"), values)
        return {own: binary.from_halfvec(vector) for own, vector in await cursor.fetchall()}

    async def write(
        self, connection: AsyncConnection, changes: Sequence[Change], embeddings: Sequence[Vectors]
    ) -> list[int]:
        """Write and acknowledge. Returns the positions of changes left undone: the application has their row locked.

        embeddings: arrays that together have a row for each change, or for each of its chunks, and `dimensions` columns.
        Raises psycopg.Error."""
        values = self._keys_and_versions(changes)
        values["fingerprints"] = BinaryValue(binary.bytea_array([c.fingerprint or b"" for c in changes]))
        values["embeddings"] = BinaryValue(binary.halfvec_array(embeddings, self._halfvec_oid))
        values |= self._layout.write_values(changes)
        if self._names.has_words:
            documents = [change.document[:LONGEST_FOR_WORDS] for change in changes]
            values["documents"] = BinaryValue(binary.text_array(documents))
        return await self._undone(await self._locked(connection, self._layout.write_lock, self._layout.write, values))

    async def clear(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[int]:
        """Settle keys that need no vector: their row is gone, or its document is blank. Returns and raises as `write`."""
        values = self._keys_and_versions(changes)
        values["here"] = BinaryValue(binary.bool_array([change.here for change in changes]))
        values |= self._layout.entries(changes)
        return await self._undone(await self._locked(connection, "lock_store_exclusive", self._layout.clear, values))

    async def clear_source_truncated(
        self, connection: AsyncConnection, version: int, seqs: Sequence[int], row_ids: Sequence[bytes]
    ) -> None:
        values = {
            "version": version,
            "seqs": BinaryValue(binary.int8_array(seqs)),
            "row_ids": BinaryValue(binary.bytea_array(row_ids)),
        }
        await self._locked(connection, "lock_store_exclusive", "clear_source_truncated", values)

    async def read_failures(
        self, connection: AsyncConnection, *, rows: int, size: int = PAGE_SIZE, documents: bool = True
    ) -> list[Change]:
        """size, documents: as for `read_outbox`. Raises psycopg.Error."""
        values = {"rows": rows, **_bounds(size, documents=documents)}
        found = await _fetched(connection, self._query("read_failures"), values)
        return [
            change_of(tuple(key), version, (), known, document, here, attempts)
            for version, attempts, fits, known, document, here, *key in found
            if fits
        ]

    async def record_failures(
        self, connection: AsyncConnection, changes: Sequence[Change], sentences: Sequence[str],
        retry_afters: Sequence[float | None],
    ) -> None:  # fmt: skip
        """Record a failure for each change, with the server's sentence.

        retry_afters: seconds until the next attempt; None parks the failure."""
        values = self._keys_and_versions(changes)
        values["attempts"] = [change.attempts + 1 for change in changes]
        values["errors"] = [sentence.replace("\0", "") for sentence in sentences]
        values["retry_afters"] = list(retry_afters)
        values |= self._layout.entries(changes)
        await self._locked(connection, "lock_store_exclusive", "record_failures", values)

    async def start_backfill(self, connection: AsyncConnection) -> None:
        await connection.execute(self._query("start_backfill"), {"id": self.target.id})

    async def advance_backfill(self, connection: AsyncConnection, last: Key, rows: int) -> None:
        """Record that `rows` more rows have their vector: every row up to the key `last`."""
        values = {"id": self.target.id, "cursor": [str(value) for value in last], "rows": rows}
        await connection.execute(statement("advance_backfill"), values)

    async def lag(self, connection: AsyncConnection) -> tuple[int, float]:
        """How many entries wait, and the age of the oldest in seconds."""
        cursor = await connection.execute(statement("read_lag", self._names), {})
        pending, seconds = await cursor.fetchone() or (0, 0.0)
        return pending, seconds

    async def finish_backfill(self, connection: AsyncConnection, state: BackfillState, *, after: BackfillState) -> None:
        """Move on from the state `after`. Does nothing if the backfill was started again meanwhile."""
        values = {"id": self.target.id, "state": state.value, "from": after.value}
        await connection.execute(statement("finish_backfill"), values)

    async def read_backfill_state(self, connection: AsyncConnection) -> tuple[BackfillState, list[str] | None]:
        """The state, and the key up to which every row has its vector."""
        cursor = await connection.execute(statement("read_backfill_state"), {"id": self.target.id})
        row = await cursor.fetchone()
        return (BackfillState(row[0]), row[1]) if row else (BackfillState.NONE, None)

    async def has_rows(self, connection: AsyncConnection, trigger: int) -> bool:
        """Whether the partition with this trigger has rows. True if this role may not read it, False if it was dropped."""
        row = await (await connection.execute(statement("table_of_trigger"), {"trigger": trigger})).fetchone()
        if row is None:
            return False
        try:
            cursor = await connection.execute(statement("has_rows", table=sql.Identifier(*row)), {})
        except psycopg.errors.InsufficientPrivilege:
            return True
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def note_partitions(self, connection: AsyncConnection, partitions: frozenset[int] | None) -> None:
        """Record that the rows of these partitions were compared with the store."""
        values = {"id": self.target.id, "partitions": None if partitions is None else sorted(partitions)}
        await connection.execute(statement("note_partitions"), values)

    async def read_drift_request(self, connection: AsyncConnection) -> str | None:
        """The request to compare all rows, for `note_drift_checked`; None if there is none."""
        row = await (await connection.execute(statement("read_drift_request"), {"id": self.target.id})).fetchone()
        return row[0] if row else None

    async def note_drift_checked(self, connection: AsyncConnection, request: str | None) -> bool:
        """Record that this request is done. Returns False if there is another one meanwhile."""
        values = {"id": self.target.id, "request": request}
        return await (await connection.execute(statement("note_drift_checked"), values)).fetchone() is not None

    async def look_at_index(self, connection: AsyncConnection, *, index_from: int, most: int) -> tuple[Any, ...]:
        """What the statement says of the index; entries of the outbox are counted up to `most`."""
        names = self._names
        row_size = NARROW_ROW if self._layout.in_source else NARROW_ROW + 2 * self.target.spec.dimensions
        values = {
            "index": index_text(names), "next_index": next_index_text(names), "index_from": index_from, "most": most,
            "row_size": row_size, "lock": int(Lock.INDEX),
        }  # fmt: skip
        query = statement("look_at_index", names, comment=index_comment(names), index_state=statement("index_state"))
        return await (await connection.execute(query, values)).fetchone() or (
            "none", False, False, 0, 0, True, False, 0, None, False
        )  # fmt: skip

    async def vacuum(self, connection: AsyncConnection) -> None:
        await connection.execute(self._query("vacuum_outbox"), {})

    def _require_one_row_each(self, keys: Sequence[Key]) -> None:
        """Raises psycopg.Error where two rows have one key: the primary key of the source is another one now."""
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            table = self.target.source.table
            raise psycopg.errors.CardinalityViolation(f"two rows of {table} have the key {', '.join(map(str, twice))}")

    async def _locked(self, connection: AsyncConnection, lock: str, name: str, values: dict[str, Any]) -> AsyncCursor:
        """Run a statement under a lock. Both are sent together, in one implicit transaction that ends at the Sync (PostgreSQL,
        "Pipelining"): BEGIN and COMMIT would each cost a round trip.

        A layout that writes to the source has an explicit COMMIT, because only that reports the error of a deferred trigger.
        The statement is prepared at once: with a threshold, psycopg would take one whose preparation failed for prepared."""
        block = connection.transaction() if self._layout.in_source else nullcontext()
        async with connection.pipeline(), block:
            if self._layout.in_source:
                await connection.execute(statement("use_views"))  # for the triggers of the source
            await self._lock(connection, lock)
            return await connection.execute(self._query(name), values, prepare=True)

    async def _lock(self, connection: AsyncConnection, name: str) -> None:
        await connection.execute(self._query(name), {"lock": int(Lock.STORE), "id": self.target.id}, prepare=True)

    async def _undone(self, cursor: AsyncCursor) -> list[int]:
        return self._layout.left_undone(await cursor.fetchall()) if self._layout.in_source else []

    def _query(self, name: str) -> bytes:
        """A statement as it is sent, rendered once: psycopg would render it for each execution."""
        if name not in self._rendered:
            self._rendered[name] = statement(name, self._names).as_bytes(None)
        return self._rendered[name]

    def _keys_and_versions(self, changes: Sequence[Change]) -> dict[str, Any]:
        columns = list(zip(*(change.key for change in changes), strict=True)) or [()] * len(self.target.source.key)
        values: dict[str, Any] = {
            f"k{n}": BinaryValue(binary.int8_array(values)) if is_integer(column) else list(values)
            for n, (values, column) in enumerate(zip(columns, self.target.source.key, strict=True), 1)
        }
        values["versions"] = BinaryValue(binary.int8_array([change.version for change in changes]))
        return values


def _seqs(entries: set[int]) -> BinaryValue:
    return BinaryValue(binary.int8_array(np.fromiter(entries, np.int64, len(entries))))


def _bounds(size: int, *, documents: bool) -> dict[str, Any]:
    """What the statements that read documents are bound with."""
    return {"longest": LONGEST_DOCUMENT + 1, "size": size, "documents": documents}


async def _fetched(connection: AsyncConnection, query: bytes, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows with documents. Raises psycopg.DataError also for text that is not UTF-8: a cast WITHOUT FUNCTION can produce it."""
    cursor = await connection.cursor(binary=True).execute(query, values)
    try:
        return await cursor.fetchall()
    except UnicodeDecodeError as error:
        raise psycopg.DataError(f"a document holds bytes that are not UTF-8 ({error.reason})") from None
