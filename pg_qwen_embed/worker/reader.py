"""The reader, the first stage: changed keys from the outbox and failures that are due, each with its document.

The worker's loop calls it, on the loop's connection. What is in flight is left out; what is read goes to the intake. A
document that cannot be read becomes a failure, and the others are read."""

from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.change import size_of
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.version import Versions
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.store import Page, Store
from pg_qwen_embed.worker.compactor import Compactor
from pg_qwen_embed.worker.failure_reader import FailureReader
from pg_qwen_embed.worker.faults import is_a_rows_fault, ran_too_long, unreadable
from pg_qwen_embed.worker.ledger import Ledger, Room
from pg_qwen_embed.worker.options import Limits
from pg_qwen_embed.worker.page_size import PageSize
from pg_qwen_embed.worker.queues import Intake, WriteQueues
from pg_qwen_embed.worker.watermark import Watermark
from pg_qwen_embed.worker.work import SourceTruncated

# Seconds after which a busy reader reads from the beginning once: a sequence that was set back may have caught up
# between two sweeps.
RESCAN = 30.0
LONGEST_PAUSE = 10.0  # seconds


@dataclass(slots=True)
class ReadPause:
    """until: on the worker's clock. times: how often reads have failed one after the other."""

    until: float = 0.0
    times: int = 0

    def begin(self, now: float, seconds: float, *, longer: bool) -> None:
        self.until = now + min(seconds * 2**self.times, LONGEST_PAUSE)
        self.times += longer


class Reader:
    """`read` continues after the last page, `sweep` finds what became visible late, `rescan` reads from the beginning.

    Each returns whether it found something, and raises psycopg.Error."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        ledger: Ledger,
        room: Room,
        intake: Intake,
        to_write: WriteQueues,
        compactor: Compactor,
        limits: Limits,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._versions = versions
        self._ledger = ledger
        self._room = room
        self._intake = intake
        self._to_write = to_write
        self._compactor = compactor
        self._limits = limits
        self._runtime = runtime
        self._watermark = Watermark()
        self._changes = PageSize(limits.page_keys, limits.size // 4)
        self._failures = FailureReader(store, ledger, intake, limits)
        self._entries = limits.page_entries  # entries to read at once
        self._rescan_due = runtime.clock() + RESCAN
        self._pause = ReadPause()

    def pause(self, seconds: float, *, longer: bool) -> None:
        """Read nothing for this time: the last read failed. longer: for longer each time, until a read succeeds."""
        self._pause.begin(self._runtime.clock(), seconds, longer=longer)

    @property
    def paused(self) -> bool:
        return self._pause.until > self._runtime.clock()

    @property
    def takes_changes(self) -> bool:
        """Whether there is room for live changes; a backfill in flight does not count."""
        return not self.paused and not self._compactor.active and self._room.for_changes()

    async def read(self, connection: AsyncConnection) -> bool:
        """Take the next page of changes."""
        return await self._read_changes(connection, self._watermark.read_position)

    async def sweep(self, connection: AsyncConnection) -> bool:
        """Read again from the low watermark, for entries that became visible late, and raise it.

        From the beginning if the outbox's sequence was set back: new entries come below the read position."""
        if await self._is_behind(connection) or self._runtime.clock() >= self._rescan_due:
            return await self.rescan(connection)
        if self._watermark.complete:
            return await self._read_failures(connection)
        xmin, transaction_id = await self._store.read_snapshot(connection)
        self._watermark.mark(transaction_id)
        found = await self._read_changes(connection, self._watermark.low, sweep_xmin=xmin)
        return await self._read_failures(connection) or found

    async def rescan(self, connection: AsyncConnection) -> bool:
        """Read again from the beginning, as before sleeping."""
        self._watermark.rewind()
        self._rescan_due = self._runtime.clock() + RESCAN
        found = await self._read_changes(connection, 0)
        return await self._read_failures(connection) or found

    async def _is_behind(self, connection: AsyncConnection) -> bool:
        """Whether the outbox's sequence is below what was read: it was set back."""
        last, position = await self._store.read_last_seq(connection), self._watermark.read_position
        if last is None or last >= position:
            return False
        self._runtime.events.emit(events.SequenceSetBack(self._store.target.name, position, last))
        return True

    async def _read_failures(self, connection: AsyncConnection) -> bool:
        return self.takes_changes and await self._failures.read(connection)

    async def _read_changes(self, connection: AsyncConnection, after: int, sweep_xmin: int | None = None) -> bool:
        if not self.takes_changes:
            self._room.lacked = not self._room.for_changes()  # else it is only paused
            return False
        if self._versions.exhausted:
            self._versions = Versions(await self._store.begin_term(connection))
        page, sentence = await self._read_page(connection, after)
        self._pause.times = 0
        if sweep_xmin is None and await self._compacts(connection, page):
            return True  # this page is read again afterwards: nothing is claimed
        self._entries = self._limits.page_keys * 4 if page.full else self._limits.page_entries
        if sweep_xmin is None:
            self._watermark.read(page.end)
        else:
            self._watermark.swept(sweep_xmin, page.end if page.partial else None)
        found = self._take(page, sentence)
        if page.partial and sweep_xmin is not None:  # more than a page became visible late
            await self._read_changes(connection, page.end, sweep_xmin)
        return found

    async def _compacts(self, connection: AsyncConnection, page: Page) -> bool:
        """Whether so much lies beyond the page that the outbox is compacted first."""
        if page.partial:
            return await self._compactor.begins(connection, page.end)
        self._compactor.emptied()
        return False

    async def _read_page(self, connection: AsyncConnection, after: int) -> tuple[Page, str | None]:
        """A page, or the first change alone, and why its document cannot be read. A page that cannot be read is halved."""
        size, sentence = self._changes, None

        def page(**how: int) -> Awaitable[Page]:
            values = {"entries": self._entries, "keys": size.rows} | how
            return self._store.read_outbox(
                connection, version=self._versions.current, after=after, in_flight=self._ledger.seqs, size=size.size,
                documents=not sentence, **values,
            )  # fmt: skip

        while True:
            try:
                found = await page()
            except psycopg.Error as error:
                if sentence or not await is_a_rows_fault(error, partial(page, entries=0), reading=True):
                    raise
                if size.failed(too_long=ran_too_long(error)):
                    sentence = unreadable(error, self._limits.longest_read)
            else:
                rows = len(found.changes) + len(found.source_truncated)
                size.read(rows, size_of(found.changes), ended_early=found.ended_early)
                return found, sentence

    def _take(self, page: Page, sentence: str | None) -> bool:
        for seqs, row_ids in page.source_truncated:
            self._ledger.seqs.update(seqs)
            self._to_write.put(SourceTruncated(self._versions.current, seqs, row_ids))
        if sentence:
            for change in page.changes:
                self._intake.reject(change, None, sentence)
        else:
            self._intake.take(page.changes, None)
        if page.changes:
            self._runtime.events.emit(events.ChangesRead(self._store.target.name, len(page.changes)))
        found = bool(page.changes or page.source_truncated)
        if found:
            self._versions.advance()
        return found
