"""One generation followed: from changed keys to written vectors.

A feed reads pages of changes, and is given those of a backfill by its walker; it hands their documents to its sender, and
writes what comes back in groups. No transaction is open while the server works."""

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count

import psycopg

from pg_qwen_embed.domain import retry
from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.inference import batching
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.postgres.connection import AsyncConnection, Pool, first_line
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.dispatcher import Dispatcher
from pg_qwen_embed.worker.scanner import BackfillScanner
from pg_qwen_embed.worker.watermark import Watermark
from pg_qwen_embed.worker.work import (
    Cleared,
    Embedded,
    Ledger,
    Outcome,
    Rejected,
    Request,
    ScanPage,
    SourceTruncated,
    of_backfill,
    pieces_of,
    rows_of,
)

log = logging.getLogger("pg_qwen_embed.worker")

VACUUM_AFTER = 20_000  # entries: autovacuum looks once a minute, and a busy outbox turns over faster
WRITE_TRIES_ONCE = 8
WRITERS = 2  # groups written at once, of changes and of a backfill each
LOCKED_PAUSE = 0.1  # seconds
GATHER = 0.2  # seconds that changes wait for others to be written with, while more have happened than there is room for
WRITE_TIMEOUT = 60.0  # seconds, for a connection that has died without a word
# SQLSTATE classes: data exception, integrity constraint, PL/pgSQL (a trigger of the application's), WITH CHECK OPTION.
ROWS_OWN_FAULT = ("22", "23", "P0", "44")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one feed. Memory follows from `documents` and `size`, what is read and not yet settled: of live changes
    as much again as of a backfill."""

    page_keys: int = 256
    # Read at once to find the keys of a page: repeated changes of a key cost one embedding. Far fewer after a full page: most
    # of what follows is of other keys, and would be read again for each page.
    page_entries: int = 10_000
    backfill_rows: int = 1024
    documents: int = 2048  # and as many more as it takes to keep every server busy
    size: int = 16_000_000  # bytes
    write_rows: int = 512
    request: batching.Limits = field(default_factory=batching.Limits)


@dataclass(frozen=True, slots=True)
class WriteQueue:
    """What is to be written, and the connections for it."""

    pool: Pool
    outcomes: asyncio.Queue[Outcome] = field(default_factory=asyncio.Queue)
    # One writer gathers a group at a time, or two would share what there is.
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pipeline:
    """`start` it in a task group, call `read` from the worker's loop, `stop` it. `moved` is called when there is room again for
    changes that there was none for, and when everything is settled."""

    def __init__(
        self,
        store: Store,
        balancer: Balancer,
        pool: Pool,
        backfill_pool: Pool,
        *,
        limits: Limits,
        moved: Callable[[], None],
        altered: Callable[[], None],
        once: bool = False,
    ) -> None:
        """once: a group that cannot be written is given up after a while."""
        self.store = store
        self.target = store.target
        self._limits = limits
        self._balancer = balancer
        self._moved = moved
        self._altered = altered
        self._once = once
        self._watermark = Watermark()
        self._entries = limits.page_entries  # to read at once
        self._lacked_room = False  # changes were not read for want of it: they are late
        self._ledger = Ledger()
        self._vacuumed_at = 0  # of the entries settled
        # A change waits for no backfill: each kind has writers and connections of its own.
        self._live = WriteQueue(pool)
        self._backfill = WriteQueue(backfill_pool)
        self.scanner = BackfillScanner(
            store,
            backfill_pool,
            limits.backfill_rows,
            limits.size // 4,
            has_room=self._has_room,
            take=self._take,
            moved=moved,
        )
        self._dispatcher = Dispatcher(self.target, balancer, limits.request, self._settled)
        self._alone: deque[Outcome] = deque()  # to be written one by one
        # Writes of chunks lock each other out: rather here than in the database, where the waiting one holds a connection.
        self._one_at_a_time = asyncio.Lock() if store.writes_alone else nullcontext()
        self._paused_until = 0.0
        self._rng = random.Random()  # noqa: S311  # jitter
        self._sizer = batching.BatchSizer(limits.write_rows)
        self.written = 0

    def start(self, group: asyncio.TaskGroup) -> None:
        self._dispatcher.start(group)
        self._settling = [
            group.create_task(self._settle(queue)) for queue in (self._live, self._backfill) for _ in range(WRITERS)
        ]

    def stop(self) -> None:
        self.scanner.stop()
        self._dispatcher.stop()
        for task in self._settling:
            task.cancel()

    @property
    def idle(self) -> bool:
        """Nothing read is unsettled, and no backfill is under way."""
        return self.settled and not self.scanner.active

    @property
    def settled(self) -> bool:
        return self._ledger.empty

    def pause(self, seconds: float) -> None:
        """Read nothing for so long: the last read failed."""
        self._paused_until = asyncio.get_running_loop().time() + seconds

    @property
    def paused(self) -> bool:
        return self._paused_until > asyncio.get_running_loop().time()

    @property
    def takes_changes(self) -> bool:
        """Whether there is room for live changes, whatever a backfill has in hand."""
        held = self._ledger
        return not self.paused and held.live < self._room and held.live_size < self._limits.size

    def _has_room(self) -> bool:
        """Whether a backfill may read on: it fills what the live changes leave."""
        held = self._ledger
        return held.documents < self._room and held.size < self._limits.size

    @property
    def _room(self) -> int:
        return max(self._limits.documents, 4 * self._balancer.limit * self._limits.request.documents)

    # Reading: called from the worker's loop, on its connection.

    async def read(self, reader: AsyncConnection) -> bool:
        """Take the next page of changes. True if there was one."""
        return await self._read_changes(reader, self._watermark.read_position)

    async def sweep(self, reader: AsyncConnection) -> bool:
        """Look again from the floor for entries that became visible late, and move the floor up."""
        if self._watermark.complete:
            return await self._read_failures(reader)
        xmin, transaction_id = await self.store.read_snapshot(reader)
        self._watermark.mark(transaction_id)
        found = await self._read_changes(reader, self._watermark.low, sweep_xmin=xmin)
        return await self._read_failures(reader) or found

    async def rescan(self, reader: AsyncConnection) -> bool:
        """Look again from the very beginning, as before sleeping."""
        self._watermark.rewind()
        found = await self._read_changes(reader, 0)
        return await self._read_failures(reader) or found

    async def _read_failures(self, reader: AsyncConnection) -> bool:
        """Take up failures whose time has come, unless they are being tried already."""
        if not self.takes_changes:
            return False
        due = await self.store.read_failures(reader, rows=self._limits.page_keys)
        due = [change for change in due if change.key not in self._ledger.retrying]
        self._ledger.retrying.update(change.key for change in due)
        self._take(due, None)
        return bool(due)

    async def _read_changes(self, reader: AsyncConnection, after: int, sweep_xmin: int | None = None) -> bool:
        if not self.takes_changes:
            self._lacked_room = True
            return False
        page = await self.store.read_outbox(
            reader, after=after, in_flight=self._ledger.seqs,
            entries=self._entries, keys=self._limits.page_keys,
        )  # fmt: skip
        self._entries = self._limits.page_keys * 4 if page.full else self._limits.page_entries
        if sweep_xmin is None:
            self._watermark.read(page.end)
        else:
            self._watermark.swept(sweep_xmin, page.end if page.partial else None)
        for version, seqs in page.source_truncated:
            self._ledger.seqs.update(seqs)
            self._settled(SourceTruncated(version, seqs))
        self._take(page.changes, None)
        found = bool(page.changes or page.source_truncated)
        if page.partial and sweep_xmin is not None:  # what came late is more than a page
            await self._read_changes(reader, page.end, sweep_xmin)
        return found

    def _take(self, changes: list[Change], page: ScanPage | None) -> None:
        self._ledger.take(changes, page)
        self._dispatcher.put([change for change in changes if change.fingerprint is not None], page)
        blank = [change for change in changes if change.fingerprint is None]
        if blank or (page is not None and not changes):  # nothing to write, but the walk has come further
            self._settled(Cleared(blank))

    # Writing: WRITERS tasks for each line, on connections of its pool.

    def _settled(self, outcome: Outcome) -> None:
        (self._backfill if of_backfill(outcome) else self._live).outcomes.put_nowait(outcome)

    async def _settle(self, queue: WriteQueue) -> None:
        while True:
            await self._write_until_done(await self._next_group(queue), queue.pool)
            while self._alone:
                await self._write_until_done([self._alone.popleft()], queue.pool)
            self.scanner.room()
            if self.settled or self.scanner.finished or (self._lacked_room and self.takes_changes):
                self._lacked_room = False
                self._moved()

    async def _next_group(self, queue: WriteQueue) -> list[Outcome]:
        """What there is to write, up to a portion. Changes that are late already wait for others."""
        outcomes = queue.outcomes
        async with queue.taking:
            group = [await outcomes.get()]
            rows, most = rows_of(group[0]), self._sizer.rows
            late = queue is self._live and self._lacked_room
            if late:
                most = min(most, self._ledger.live // 2)  # the others keep the server busy meanwhile
            with suppress(asyncio.QueueEmpty, TimeoutError):
                async with asyncio.timeout(GATHER if late else None):
                    while rows < most:
                        group.append(await outcomes.get() if late else outcomes.get_nowait())
                        rows += rows_of(group[-1])
            return group

    async def _write_until_done(self, group: list[Outcome], pool: Pool) -> None:
        """The embeddings stay in memory and the outbox keeps the entries: nothing is lost by waiting."""
        rows, clock = sum(map(rows_of, group)), asyncio.get_running_loop().time
        for attempt in count(1):
            try:
                async with self._one_at_a_time, asyncio.timeout(WRITE_TIMEOUT), pool.connection() as connection:
                    began = clock()
                    await self._write(connection, group)
                    self._sizer.written(rows, clock() - began)
            except (psycopg.Error, TimeoutError) as error:
                reason = first_line(error) if isinstance(error, psycopg.Error) else str(error) or "no answer"
                log.warning("write_failed embedding=%s attempt=%d reason=%s", self.target.name, attempt, reason)
                if isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in ROWS_OWN_FAULT:
                    self._split(group, reason)
                    return
                if isinstance(
                    error, psycopg.ProgrammingError
                ):  # the embedding was detached, its source altered, a right lost
                    self._altered()
                if self._once and attempt == WRITE_TRIES_ONCE:
                    raise DatabaseUnavailable(f"{self.target.name} cannot be written: {reason}") from None
                await asyncio.sleep(retry.backoff(attempt, base=0.1, cap=5.0, rng=self._rng))
            else:
                return

    def _split(self, group: list[Outcome], reason: str) -> None:
        """A row of this group cannot be written: write each on its own, and the one that still cannot is a failure."""
        pieces = [piece for outcome in group for piece in pieces_of(outcome)]
        match pieces:
            case [Embedded(request, _)]:
                self._settled(Rejected(request, f"PostgreSQL: {reason}"))
            case [Cleared([change])]:
                self._settled(Rejected(Request([change], None), f"PostgreSQL: {reason}"))
            case [other]:
                self._later(other)
            case _:
                self._alone.extend(pieces)

    async def _write(self, connection: AsyncConnection, group: list[Outcome]) -> None:
        """Write a group of outcomes; each kind that was written is taken out of the group, so a retry does the rest."""
        embedded = [outcome for outcome in group if isinstance(outcome, Embedded)]
        if embedded:
            changes = [change for outcome in embedded for change in outcome.request.changes]
            locked = await self.store.write(connection, changes, [outcome.embeddings for outcome in embedded])
            group[:] = [outcome for outcome in group if not isinstance(outcome, Embedded)]
            self._written(embedded, set(locked))
        refused = [outcome for outcome in group if isinstance(outcome, Rejected)]
        if refused:
            await self._record_failures(connection, refused)
            group[:] = [outcome for outcome in group if not isinstance(outcome, Rejected)]
            for outcome in refused:
                self._ledger.settle(outcome.request.changes, outcome.request.page)
        while group:
            match group[-1]:
                case Cleared(changes):
                    undone = await self.store.clear(connection, changes) if changes else []
                    self._ledger.settle([change for n, change in enumerate(changes) if n not in undone], None)
                    if undone:
                        self._later(Cleared([changes[n] for n in undone]))
                case SourceTruncated(version, seqs):
                    await self.store.clear_source_truncated(connection, version, seqs)
                    self._ledger.settle_entries(seqs)
            group.pop()
        await self.scanner.advance(connection)

    async def _record_failures(self, connection: AsyncConnection, refused: Sequence[Rejected]) -> None:
        changes = [change for outcome in refused for change in outcome.request.changes]  # one each
        sentences = [outcome.sentence for outcome in refused]
        for sentence, rows in Counter(sentences).items():
            log.warning("document_refused embedding=%s rows=%d reason=%s", self.target.name, rows, sentence)
        pauses = [self._pause_of(change) for change in changes]
        await self.store.record_failures(connection, changes, sentences, pauses)

    def _pause_of(self, change: Change) -> float | None:
        """Seconds until a document that was refused is tried again; None for never."""
        match retry.decide(change.attempts + 1, self._rng):
            case retry.RetryAfter(seconds):
                return seconds
            case retry.Park():
                return None

    def _written(self, embedded: list[Embedded], locked: set[int]) -> None:
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
        asyncio.get_running_loop().call_later(LOCKED_PAUSE, self._settled, outcome)

    def wants_vacuum(self) -> bool:
        """Whether so many entries were settled since it last said so that their outbox should be vacuumed."""
        if self._ledger.settled_entries < self._vacuumed_at + VACUUM_AFTER:
            return False
        self._vacuumed_at = self._ledger.settled_entries
        return True
