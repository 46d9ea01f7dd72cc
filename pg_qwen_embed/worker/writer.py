"""The writer, the third stage: outcomes are written in groups, guarded by version, and acknowledged.

The vectors stay in memory and the outbox keeps the entries, so nothing is lost while a write waits. A connection is taken
only when there is a group to write: no transaction is open while a server works. Decisions after errors are in policy.py."""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from itertools import count

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.change import Change, Key
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres.connection import AsyncConnection, Pool, first_line
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker import policy
from pg_qwen_embed.worker.batch_sizer import BatchSizer
from pg_qwen_embed.worker.faults import is_a_rows_fault
from pg_qwen_embed.worker.ledger import Ledger, Room
from pg_qwen_embed.worker.policy import Fail, Park, Retry, Split
from pg_qwen_embed.worker.queues import WriteQueue, WriteQueues
from pg_qwen_embed.worker.scanner import ScanProgress
from pg_qwen_embed.worker.signals import Signals
from pg_qwen_embed.worker.work import (
    Cleared,
    Embedded,
    Outcome,
    Rejected,
    Request,
    SourceTruncated,
    halves_of,
    pieces_of,
    rows_of,
)

TRIES_ONCE = 8  # attempts to write a group with `once`
WRITERS = 2  # groups written at once, for changes and for backfills each
LOCKED_PAUSE = 0.1  # seconds before a locked row is tried again
GATHER = 0.2  # seconds that changes wait to be written with others, while there are more changes than there is room for
WRITE_TIMEOUT = 60.0  # seconds, for a connection that is dead without an error


class Writer:
    """`start` it in a task group: tasks that write until they are stopped. `written` counts documents."""

    def __init__(
        self, store: Store, source: WriteQueues, ledger: Ledger, room: Room, progress: ScanProgress, sizer: BatchSizer,
        signals: Signals, runtime: Runtime, *, once: bool,
    ) -> None:  # fmt: skip
        """once: give up a group that cannot be written after TRIES_ONCE attempts."""
        self._store = store
        self._source = source
        self._ledger = ledger
        self._room = room
        self._progress = progress
        self._sizer = sizer
        self._signals = signals
        self._runtime = runtime
        self._once = once
        # Writes that exclude each other wait here rather than in the database, where each would hold a connection.
        self._one_at_a_time = asyncio.Lock() if store.writes_alone else nullcontext()
        self._tasks: list[asyncio.Task[None]] = []
        self.written = 0

    def start(self, group: asyncio.TaskGroup, live: Pool, backfill: Pool) -> None:
        """live, backfill: the connections for changes, and for backfills."""
        for queue, pool in ((self._source.live, live), (self._source.backfill, backfill)):
            self._tasks += [group.create_task(self._write_all(queue, pool)) for _ in range(WRITERS)]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _write_all(self, queue: WriteQueue, pool: Pool) -> None:
        while True:
            halves = deque(await self._write_until_done(await self._next_group(queue), pool))
            while halves:
                halves.extendleft(reversed(await self._write_until_done(halves.popleft(), pool, half=True)))
            self._room.freed.set()
            if self._ledger.empty or self._progress.finished or (self._room.lacked and self._room.for_changes()):
                self._room.lacked = False
                self._signals.look()

    async def _next_group(self, queue: WriteQueue) -> list[Outcome]:
        """The outcomes that wait, up to a batch. Changes that are late wait a moment for others."""
        outcomes = queue.outcomes
        async with queue.gathering:
            group = [await outcomes.get()]
            rows, most = rows_of(group[0]), self._sizer.rows
            late = queue is self._source.live and self._room.lacked
            if late:
                most = min(most, self._ledger.live // 2)  # the others keep the server busy meanwhile
            with suppress(asyncio.QueueEmpty, TimeoutError):
                async with asyncio.timeout(GATHER if late else None):
                    while rows < most:
                        group.append(await outcomes.get() if late else outcomes.get_nowait())
                        rows += rows_of(group[-1])
            return group

    async def _write_until_done(self, group: list[Outcome], pool: Pool, *, half: bool = False) -> list[list[Outcome]]:
        """Write a group, with retries. If one row cannot be written, return the halves, each to be written on its own.

        half: it is such a half. Its error was reported already."""
        for attempt in count(1):
            try:
                await self._write_group(group, pool)
            except (psycopg.Error, TimeoutError) as error:
                reason = _reason(error)
                pieces = [piece for outcome in group for piece in pieces_of(outcome)]
                by_a_row = await self._is_a_rows_fault(error, pieces, pool)
                if not (half and by_a_row):
                    self._emit(events.WriteFailed(self._store.target.name, attempt, reason))
                match policy.after_write(reason, attempt, len(pieces), by_a_row=by_a_row, rng=self._runtime.rng):
                    case Split():
                        return halves_of(pieces)
                    case Fail(sentence):
                        self._fail(pieces[0], sentence)
                        return []
                    case Retry(seconds):
                        self._signal(error)
                        if self._once and attempt == TRIES_ONCE:
                            sentence = f"{self._store.target.name} cannot be written: {reason}"
                            raise DatabaseUnavailable(sentence) from None
                        await asyncio.sleep(seconds)
            else:
                break
        return []

    def _signal(self, error: Exception) -> None:
        match error:
            case psycopg.errors.InsufficientPrivilege():
                self._signals.denied()
            case (
                psycopg.ProgrammingError() | psycopg.InternalError()
            ):  # detached, a source altered, a type created again
                self._signals.registry()

    async def _write_group(self, group: list[Outcome], pool: Pool) -> None:
        rows, clock = sum(map(rows_of, group)), self._runtime.clock
        async with self._one_at_a_time, asyncio.timeout(WRITE_TIMEOUT), pool.connection() as connection:
            began = clock()
            await self._write(connection, group)
            seconds = clock() - began
        self._sizer.written(rows, seconds)
        self._emit(events.GroupWritten(self._store.target.name, rows, seconds))

    async def _is_a_rows_fault(self, error: Exception, pieces: Sequence[Outcome], pool: Pool) -> bool:

        async def without_rows() -> None:
            async with self._one_at_a_time, asyncio.timeout(WRITE_TIMEOUT), pool.connection() as connection:
                if any(isinstance(piece, Embedded) for piece in pieces):
                    await self._store.write(connection, [], [])
                elif any(isinstance(piece, Rejected) for piece in pieces):
                    await self._store.record_failures(connection, [], [], [])
                elif pieces and isinstance(pieces[-1], Cleared):
                    await self._store.clear(connection, [])
                else:
                    await self._store.clear_source_truncated(connection, 0, [], [])

        return await is_a_rows_fault(error, without_rows)

    def _fail(self, piece: Outcome, sentence: str) -> None:
        """The row that cannot be written becomes a failure. One that cannot be recorded either is held back for a while."""
        match piece:
            case Embedded(request, _):
                self._source.put(Rejected(request, sentence))
            case Cleared([change]) if change.here:
                self._source.put(Rejected(Request([change], None), sentence))
            case Cleared([change]):  # its row has gone: no failure would be kept
                self._hold_back(change.key, change.seqs, self._ledger.hold(change, None), sentence)
            case Rejected(Request([change], page), first):
                self._hold_back(change.key, change.seqs, self._ledger.hold(change, page), f"{first}; {sentence}")
            case SourceTruncated(_, seqs, _):
                self._hold_back((), seqs, self._ledger.hold_entries((), seqs), sentence)

    def _hold_back(self, key: Key, seqs: Sequence[int], times: int, reason: str) -> None:
        """Its entries stay in the outbox, and are read again after a pause that grows. A row of a backfill is left to `verify`."""
        seconds = policy.pause_after(times, rng=self._runtime.rng)
        self._emit(events.RowHeldBack(self._store.target.name, key, round(seconds), reason))

        def release() -> None:
            self._ledger.release(key, seqs)
            self._signals.look()

        asyncio.get_running_loop().call_later(seconds, release)

    async def _write(self, connection: AsyncConnection, group: list[Outcome]) -> None:
        """Write a group of outcomes. Each kind that is written leaves the group, so that a retry writes the rest."""
        embedded = [outcome for outcome in group if isinstance(outcome, Embedded)]
        if embedded:
            changes = [change for outcome in embedded for change in outcome.request.changes]
            locked = await self._store.write(connection, changes, [outcome.embeddings for outcome in embedded])
            group[:] = [outcome for outcome in group if not isinstance(outcome, Embedded)]
            self._settle_embedded(embedded, set(locked))
        rejected = [outcome for outcome in group if isinstance(outcome, Rejected)]
        if rejected:
            await self._record_failures(connection, rejected)
            group[:] = [outcome for outcome in group if not isinstance(outcome, Rejected)]
            for outcome in rejected:
                self._ledger.settle(outcome.request.changes, outcome.request.page)
        while group:
            await self._clear(connection, group[-1])
            group.pop()
        await self._progress.record(connection)

    async def _clear(self, connection: AsyncConnection, outcome: Outcome) -> None:
        match outcome:
            case Cleared(changes):
                undone = await self._store.clear(connection, changes) if changes else []
                self._ledger.settle([change for n, change in enumerate(changes) if n not in undone], None)
                if undone:
                    self._later(Cleared([changes[n] for n in undone]))
            case SourceTruncated(version, seqs, row_ids):
                await self._store.clear_source_truncated(connection, version, seqs, row_ids)
                self._ledger.settle_entries(seqs)

    async def _record_failures(self, connection: AsyncConnection, rejected: Sequence[Rejected]) -> None:
        changes = [change for outcome in rejected for change in outcome.request.changes]  # one each
        sentences = [outcome.sentence for outcome in rejected]
        for sentence, rows in Counter(sentences).items():
            self._emit(events.DocumentRejected(self._store.target.name, rows, sentence))
        await self._store.record_failures(connection, changes, sentences, [self._pause_of(one) for one in changes])

    def _pause_of(self, change: Change) -> float | None:
        """Seconds until a rejected document is tried again; None parks it, as the database has it."""
        match policy.after_rejection(change.attempts + 1, rng=self._runtime.rng):
            case Retry(seconds):
                return seconds
            case Park():
                return None

    def _settle_embedded(self, embedded: list[Embedded], locked: set[int]) -> None:
        position = 0
        for outcome in embedded:
            done = outcome.request.changes
            if locked:
                done = []
                for number, one in enumerate(outcome.of_each(), position):
                    if number in locked:
                        self._later(one)
                    else:
                        done += one.request.changes
            position += len(outcome.request.changes)
            self.written += len(done)
            self._ledger.settle(done, outcome.request.page)

    def _later(self, outcome: Outcome) -> None:
        """The application has a row locked: its vector waits here, and the worker does not wait for the lock."""
        asyncio.get_running_loop().call_later(LOCKED_PAUSE, self._source.put, outcome)

    def _emit(self, event: events.Event) -> None:
        self._runtime.events.emit(event)


def _reason(error: psycopg.Error | TimeoutError) -> str:
    return first_line(error) if isinstance(error, psycopg.Error) else str(error) or "no answer"
