"""The backfill scanner: reads the source page by page ahead of the servers, and records up to which key all is written.

It reads on a connection of its own, so that no change waits for a page. Its pages take the way of all changes, through
the dispatcher and the writer."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.change import Key, size_of
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres.connection import AsyncConnection, Pool
from pg_qwen_embed.postgres.store import BackfillPage, Store
from pg_qwen_embed.worker.faults import is_a_rows_fault, ran_too_long, unreadable
from pg_qwen_embed.worker.ledger import Room
from pg_qwen_embed.worker.options import Limits
from pg_qwen_embed.worker.page_size import PageSize
from pg_qwen_embed.worker.queues import Intake
from pg_qwen_embed.worker.signals import Signals
from pg_qwen_embed.worker.work import ScanPage

ADVANCE_EVERY = 0.2  # seconds between records of the progress
WAKE_EVERY = 0.2  # seconds; no event tells that a pause has ended
READ_TIMEOUT = 60.0  # seconds, for a connection that is dead without an error
FIRST_PAGE = 128  # rows


@dataclass(slots=True)
class Scan:
    """A keyset scan: where the next page begins, and the pages that are not all written yet, in order."""

    after: Sequence[str] | None
    began: float  # on the runtime's clock
    rows: int = 0  # that were read
    changes: int = 0  # those of them that had no vector of their document
    exhausted: bool = False
    _pages: deque[ScanPage] = field(default_factory=deque)

    def add(self, last: Key, rows: int, left: int) -> ScanPage:
        """A page was read; the next one begins after it."""
        self.after = [str(value) for value in last]
        self.rows += rows
        self.changes += left
        self._pages.append(ScanPage(last, rows, left))
        return self._pages[-1]

    def written(self) -> list[ScanPage]:
        """The first pages, as far as everything in them is written."""
        return list(takewhile(lambda page: not page.left, self._pages))

    def drop(self, pages: Sequence[ScanPage]) -> None:
        """Forget these first pages: they are recorded as written."""
        for _ in pages:
            self._pages.popleft()

    @property
    def unfinished(self) -> int:
        """The number of pages not yet recorded as written."""
        return len(self._pages)

    @property
    def finished(self) -> bool:
        """Whether every row of the source has its vector."""
        return self.exhausted and not self._pages


class ScanProgress:
    """The active scan of a generation, shared by the scanner and the writers: who reads it, and who records how far it is."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._scan: Scan | None = None
        self._recording = asyncio.Lock()
        self._due = 0.0

    def begin(self, after: Sequence[str] | None) -> Scan:
        self._scan = Scan(after, self._runtime.clock())
        return self._scan

    def end(self) -> None:
        """To be called once the scan is finished."""
        if self._scan:
            seconds = round(self._runtime.clock() - self._scan.began, 1)
            done = events.BackfillDone(self._store.target.name, self._scan.rows, self._scan.changes, seconds)
            self._runtime.events.emit(done)
        self._scan = None

    @property
    def active(self) -> bool:
        return self._scan is not None

    @property
    def finished(self) -> bool:
        """Whether every row of the source has its vector."""
        return self._scan is not None and self._scan.finished

    async def record(self, connection: AsyncConnection) -> None:
        """Record up to which key everything is written, now and then: after a crash the rows beyond it are compared again."""
        now = self._runtime.clock()
        async with self._recording:
            scan = self._scan
            if scan and (pages := scan.written()) and (now >= self._due or len(pages) == scan.unfinished):
                await self._store.advance_backfill(connection, pages[-1].last, sum(page.rows for page in pages))
                scan.drop(pages)
                self._due = now + ADVANCE_EVERY


@dataclass(slots=True)
class Pause:
    """After an error nothing is read until the error is taken, and then for a while."""

    error: psycopg.Error | None = None
    _until: float = 0.0

    def take(self, until: float) -> psycopg.Error | None:
        error, self.error = self.error, None
        if error is not None:
            self._until = until
        return error

    def lasts(self, now: float) -> bool:
        return self.error is not None or now < self._until


class BackfillScanner:
    """`begin` a scan; a scan waits until its room is freed; `end` it when it is `finished`.

    A page that cannot be read is tried again only after `take_error` was called."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        room: Room,
        intake: Intake,
        progress: ScanProgress,
        limits: Limits,
        signals: Signals,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._pool = pool
        self._room = room
        self._intake = intake
        self._signals = signals
        self._runtime = runtime
        self._page = PageSize(limits.backfill_rows, limits.size // 4, min(limits.backfill_rows, FIRST_PAGE))
        self._longest = limits.longest_read
        self._reading: asyncio.Task[None] | None = None
        self._pause = Pause()
        self._progress = progress

    def begin(self, group: asyncio.TaskGroup, after: Sequence[str] | None) -> None:
        self._reading = group.create_task(self._read(self._progress.begin(after)))

    def stop(self) -> None:
        """Read no further."""
        if self._reading:
            self._reading.cancel()

    def end(self) -> None:
        self._progress.end()

    @property
    def active(self) -> bool:
        return self._progress.active

    @property
    def finished(self) -> bool:
        """Every row of the source has its vector."""
        return self._progress.finished

    def take_error(self, *, pause: float) -> psycopg.Error | None:
        """Why the last page was not read, if so. It is tried again after a pause in seconds."""
        return self._pause.take(self._runtime.clock() + pause)

    async def _read(self, scan: Scan) -> None:
        while not scan.exhausted:
            while self._pause.lasts(self._runtime.clock()) or not self._room.for_backfill():
                await self._wait()
            try:
                await self._read_page(scan)
            except psycopg.Error as error:
                self._give_up(error)
            except TimeoutError:
                self._give_up(psycopg.OperationalError(f"a page was not read in {READ_TIMEOUT:.0f} s"))
        self._signals.look()

    async def _read_page(self, scan: Scan) -> None:
        async with self._pool.connection() as connection:
            page, sentence = await self._readable_page(connection, scan.after)
        scan.exhausted = not page.partial
        if page.last is not None:
            of = scan.add(page.last, page.rows, left=len(page.changes))
            if sentence:
                for change in page.changes:
                    self._intake.reject(change, of, sentence)
            else:
                self._intake.take(page.changes, of)
            self._runtime.events.emit(events.RowsScanned(self._store.target.name, page.rows, len(page.changes)))

    async def _readable_page(
        self, connection: AsyncConnection, after: Sequence[str] | None
    ) -> tuple[BackfillPage, str | None]:
        """The next page, or the first row alone, and why its document cannot be read. A page that cannot be read is halved."""
        size, sentence = self._page, None

        async def read(rows: int, *, documents: bool = True) -> BackfillPage:
            async with asyncio.timeout(READ_TIMEOUT), connection.transaction():
                await self._store.limit_statements(connection, self._longest, local=True)
                return await self._store.read_backfill(
                    connection, after=after, rows=rows, size=size.size, documents=documents
                )

        while True:
            try:
                page = await read(size.rows, documents=not sentence)
            except psycopg.Error as error:
                if sentence or not await is_a_rows_fault(error, partial(read, 0), reading=True):
                    raise
                if size.failed(too_long=ran_too_long(error)):
                    sentence = unreadable(error, self._longest)
            else:
                size.read(page.rows, size_of(page.changes), ended_early=page.ended_early)
                return page, sentence

    def _give_up(self, error: psycopg.Error) -> None:
        self._pause.error = error
        self._signals.look()

    async def _wait(self) -> None:
        self._room.freed.clear()
        try:
            async with asyncio.timeout(WAKE_EVERY):
                await self._room.freed.wait()
        except TimeoutError:
            return
