"""The reader, the first stage: changed keys from the outbox and failures that are due, each with its document.

The worker's loop calls it, on the loop's connection. What is in flight is left out; what is read goes to the intake."""

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.version import Versions
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.store import Page, Store
from pg_qwen_embed.worker.compactor import Compactor
from pg_qwen_embed.worker.ledger import Ledger, Room
from pg_qwen_embed.worker.options import Limits
from pg_qwen_embed.worker.queues import Intake, WriteQueues
from pg_qwen_embed.worker.watermark import Watermark
from pg_qwen_embed.worker.work import SourceTruncated

# Seconds after which a busy reader reads from the beginning once: a sequence that was set back may have caught up
# between two sweeps.
RESCAN = 30.0


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
        self._entries = limits.page_entries  # entries to read at once
        self._paused_until = 0.0
        self._rescan_due = runtime.clock() + RESCAN

    def pause(self, seconds: float) -> None:
        """Read nothing for this time: the last read failed."""
        self._paused_until = self._runtime.clock() + seconds

    @property
    def paused(self) -> bool:
        return self._paused_until > self._runtime.clock()

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
        """Take failures that are due, unless they are being tried already."""
        if not self.takes_changes:
            return False
        due = await self._store.read_failures(connection, rows=self._limits.page_keys)
        due = [change for change in due if change.key not in self._ledger.retrying]
        self._ledger.retrying.update(change.key for change in due)
        self._intake.take(due, None)
        return bool(due)

    async def _read_changes(self, connection: AsyncConnection, after: int, sweep_xmin: int | None = None) -> bool:
        if not self.takes_changes:
            self._room.lacked = not self._room.for_changes()  # else it is only paused
            return False
        if self._versions.exhausted:
            self._versions = Versions(await self._store.begin_term(connection))
        page = await self._store.read_outbox(
            connection, version=self._versions.current, after=after, in_flight=self._ledger.seqs, entries=self._entries,
            keys=self._limits.page_keys,
        )  # fmt: skip
        if sweep_xmin is None and await self._compacts(connection, page):
            return True  # this page is read again afterwards: nothing is claimed
        self._entries = self._limits.page_keys * 4 if page.full else self._limits.page_entries
        if sweep_xmin is None:
            self._watermark.read(page.end)
        else:
            self._watermark.swept(sweep_xmin, page.end if page.partial else None)
        found = self._take(page)
        if page.partial and sweep_xmin is not None:  # more than a page became visible late
            await self._read_changes(connection, page.end, sweep_xmin)
        return found

    async def _compacts(self, connection: AsyncConnection, page: Page) -> bool:
        """Whether so much lies beyond the page that the outbox is compacted first."""
        if page.partial:
            return await self._compactor.begins(connection, page.end)
        self._compactor.emptied()
        return False

    def _take(self, page: Page) -> bool:
        for seqs, tids in page.source_truncated:
            self._ledger.seqs.update(seqs)
            self._to_write.put(SourceTruncated(self._versions.current, seqs, tids))
        self._intake.take(page.changes, None)
        if page.changes:
            self._runtime.events.emit(events.ChangesRead(self._store.target.name, len(page.changes)))
        found = bool(page.changes or page.source_truncated)
        if found:
            self._versions.advance()
        return found
