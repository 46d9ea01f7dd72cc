"""The compactor: puts one new entry in place of all entries that a key has in a long outbox.

It runs as a task, on a connection that all pipelines share. The reader calls `begins` before it takes a page, and reads nothing
while the compactor is active. A compaction that fails is reported, and the outbox is read as it is."""

import asyncio

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres.connection import AsyncConnection, Pool, first_line
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker import backlog
from pg_qwen_embed.worker.backlog import Backlog
from pg_qwen_embed.worker.ledger import Ledger
from pg_qwen_embed.worker.signals import Signals

TIMEOUT = 600.0  # seconds, for a connection that is dead without an error


class Compactor:
    """`start` it in a task group."""

    def __init__(self, store: Store, pool: Pool, ledger: Ledger, signals: Signals, runtime: Runtime) -> None:
        self._store = store
        self._pool = pool
        self._ledger = ledger
        self._signals = signals
        self._runtime = runtime
        self._backlog = Backlog()
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def stop(self) -> None:
        if self._task:
            self._task.cancel()

    @property
    def active(self) -> bool:
        return self._task is not None

    async def begins(self, connection: AsyncConnection, read_position: int) -> bool:
        """Begin a compaction if it is due. Raises psycopg.Error."""
        oldest, newest = await self._store.outbox_ends(connection, read_position)
        if not self._backlog.due(newest, read_position):
            return False
        self._task = self._group.create_task(self._compact(oldest, newest))
        return True

    def emptied(self) -> None:
        """The outbox was read to its end."""
        self._backlog.emptied()

    async def _compact(self, oldest: int, newest: int) -> None:
        began, removed, appended, last = self._runtime.clock(), 0, 0, newest
        try:
            parts = backlog.parts(newest, oldest)
            for part in range(parts):
                async with asyncio.timeout(TIMEOUT), self._pool.connection(TIMEOUT) as connection:
                    gone, came, end = await self._store.compact_outbox(connection, self._ledger.seqs, part, parts)
                removed, appended, last = removed + gone, appended + came, max(last, end)
            seconds = self._runtime.clock() - began
            self._runtime.events.emit(events.OutboxCompacted(self._store.target.name, removed, appended, seconds))
        except (psycopg.Error, TimeoutError) as error:
            reason = first_line(error) if isinstance(error, psycopg.Error) else "no answer"
            self._runtime.events.emit(events.CompactionFailed(self._store.target.name, reason))
        finally:
            self._backlog.compacted(last, removed - appended, max(appended, newest - oldest - removed))
            self._ledger.settled_entries += removed
            self._task = None
            self._signals.look()
