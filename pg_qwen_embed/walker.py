"""A backfill under way: reads the source page by page, ahead of the server, and records how far the vectors have come.

It reads on a connection that changes do not use, so that none waits for a page."""

import asyncio
from collections.abc import Callable, Sequence

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pg_qwen_embed.database import AsyncConnection
from pg_qwen_embed.store import Store
from pg_qwen_embed.work import Change, Walk, WalkPage

ADVANCE_EVERY = 0.2  # seconds, while pages are written
LOOK_EVERY = 0.2  # seconds, whether there is room

Pool = AsyncConnectionPool[AsyncConnection]


class Walker:
    """`begin` a walk; say when work has `moved`; when it has `finished`, `end` it."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        rows: int,
        *,
        has_room: Callable[[], bool],
        take: Callable[[list[Change], WalkPage], None],
        stuck: Callable[[], None],
    ) -> None:
        """rows: of a page. has_room: whether another page may be read. take: is given each page. stuck: called when a
        page cannot be read; it is not tried again before `raise_if_stuck` was."""
        self._store = store
        self._pool = pool
        self._rows = rows
        self._has_room = has_room
        self._take = take
        self._tell = stuck
        self._walk: Walk | None = None
        self._reading: asyncio.Task[None] | None = None
        self._error: psycopg.Error | None = None
        self._moved = asyncio.Event()
        self._advancing = asyncio.Lock()
        self._advance_at = 0.0

    def begin(self, group: asyncio.TaskGroup, after: Sequence[str] | None) -> None:
        self._walk = Walk(after)
        self._reading = group.create_task(self._read(self._walk))

    def stop(self) -> None:
        """Read no further."""
        if self._reading:
            self._reading.cancel()

    def end(self) -> None:
        self._walk = None

    @property
    def under_way(self) -> bool:
        return self._walk is not None

    @property
    def finished(self) -> bool:
        """Every row of the source has its vector."""
        return self._walk is not None and self._walk.finished

    def moved(self) -> None:
        """There may be room."""
        self._moved.set()

    @property
    def stuck(self) -> bool:
        return self._error is not None

    def raise_if_stuck(self) -> None:
        """Raises the psycopg.Error with which the last page was not read, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _read(self, walk: Walk) -> None:
        while not walk.exhausted:
            while self._error or not self._has_room():
                await self._move()
            try:
                async with self._pool.connection() as connection:
                    page = await self._store.read_backfill(connection, after=walk.after, rows=self._rows)
            except PoolTimeout:
                continue
            except psycopg.Error as error:
                self._error = error
                self._tell()
                continue
            walk.exhausted = page.rows < self._rows
            if page.last is not None:
                self._take(page.changes, walk.add(page.last, page.rows, left=len(page.changes)))
        self._tell()

    async def _move(self) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await self._moved.wait()
        except TimeoutError:
            return

    async def advance(self, connection: AsyncConnection) -> None:
        """Record what is written, now and then: after a crash some rows are looked at again that have their vector."""
        now = asyncio.get_running_loop().time()
        async with self._advancing:
            walk = self._walk
            if walk and (pages := walk.written()) and (now >= self._advance_at or len(pages) == walk.unfinished):
                await self._store.advance_backfill(connection, pages[-1].last, sum(page.rows for page in pages))
                walk.drop(pages)
                self._advance_at = now + ADVANCE_EVERY
