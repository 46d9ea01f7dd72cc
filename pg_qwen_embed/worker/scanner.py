"""A backfill under way: reads the source page by page, ahead of the server, and records how far the vectors have come.

It reads on a connection that changes do not use, so that none waits for a page."""

import asyncio
from collections.abc import Callable, Sequence

import psycopg

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.postgres.connection import AsyncConnection, Pool
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.work import Scan, ScanPage

ADVANCE_EVERY = 0.2  # seconds, while pages are written
WAKE_EVERY = 0.2  # seconds; a rest ends without an event
READ_TIMEOUT = 60.0  # seconds, for a connection that has died without a word
FIRST_PAGE, SMALLEST_PAGE = 128, 16  # rows


class BackfillScanner:
    """`begin` a walk; say when there may be `room`; when it is `finished`, `end` it."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        rows: int,
        size: int,
        *,
        has_room: Callable[[], bool],
        take: Callable[[list[Change], ScanPage], None],
        moved: Callable[[], None],
    ) -> None:
        """rows, size (bytes): of a page, about. has_room: whether another may be read. take: is given each page. moved: called
        when the last was read, and when one cannot be: it is not tried again before `take_error` was."""
        self._store = store
        self._pool = pool
        self._most = rows
        self._size = size
        self._has_room = has_room
        self._take = take
        self._moved = moved
        self._rows = min(rows, FIRST_PAGE)
        self._scan: Scan | None = None
        self._reading: asyncio.Task[None] | None = None
        self._error: psycopg.Error | None = None
        self._rests_until = 0.0
        self._room = asyncio.Event()
        self._advancing = asyncio.Lock()
        self._advance_at = 0.0

    def begin(self, group: asyncio.TaskGroup, after: Sequence[str] | None) -> None:
        self._scan = Scan(after)
        self._reading = group.create_task(self._read(self._scan))

    def stop(self) -> None:
        """Read no further."""
        if self._reading:
            self._reading.cancel()

    def end(self) -> None:
        self._scan = None

    @property
    def active(self) -> bool:
        return self._scan is not None

    @property
    def finished(self) -> bool:
        """Every row of the source has its vector."""
        return self._scan is not None and self._scan.finished

    def room(self) -> None:
        """There may be."""
        self._room.set()

    def take_error(self, *, rest: float) -> psycopg.Error | None:
        """Why the last page was not read; it is tried again after a rest of so many seconds."""
        error, self._error = self._error, None
        if error is not None:
            self._rests_until = asyncio.get_running_loop().time() + rest
        return error

    async def _read(self, scan: Scan) -> None:
        while not scan.exhausted:
            while not self._may_read():
                await self._wait()
            try:
                await self._read_page(scan)
            except psycopg.Error as error:
                self._give_up(error)
            except TimeoutError:
                self._give_up(psycopg.OperationalError(f"a page was not read in {READ_TIMEOUT:.0f} s"))
        self._moved()

    def _may_read(self) -> bool:
        resting = asyncio.get_running_loop().time() < self._rests_until
        return self._error is None and not resting and self._has_room()

    async def _read_page(self, scan: Scan) -> None:
        rows = self._rows
        async with asyncio.timeout(READ_TIMEOUT), self._pool.connection() as connection:
            page = await self._store.read_backfill(connection, after=scan.after, rows=rows)
        scan.exhausted = page.rows < rows
        if page.last is not None:
            self._take(page.changes, scan.add(page.last, page.rows, left=len(page.changes)))
        if page.changes:
            size = sum(change.size for change in page.changes) // len(page.changes)
            self._rows = min(self._most, max(SMALLEST_PAGE, self._size // max(1, size)))

    def _give_up(self, error: psycopg.Error) -> None:
        self._error = error
        self._moved()

    async def _wait(self) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(WAKE_EVERY):
                await self._room.wait()
        except TimeoutError:
            return

    async def advance(self, connection: AsyncConnection) -> None:
        """Record what is written, now and then: after a crash some rows are looked at again that have their vector."""
        now = asyncio.get_running_loop().time()
        async with self._advancing:
            scan = self._scan
            if scan and (pages := scan.written()) and (now >= self._advance_at or len(pages) == scan.unfinished):
                await self._store.advance_backfill(connection, pages[-1].last, sum(page.rows for page in pages))
                scan.drop(pages)
                self._advance_at = now + ADVANCE_EVERY
