"""Maintenance: indexes, vacuum of the outboxes, drift, and partitions that came or went.

Index builds and repairs run on connections of their own, the rest on those of the live writers. A task that fails is
reported and tried again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.source import SourceState
from pg_qwen_embed.postgres import ddl, drift
from pg_qwen_embed.postgres.connection import Pool, connect_async, first_line
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.worker.index_keeper import IndexKeeper
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.pipeline import Pipeline
from pg_qwen_embed.worker.signals import Signals

VERIFIER_NAME = "pg_qwen_embed worker: verify"
EXCHANGE_PAUSE = 30.0  # seconds until an exchange of triggers that failed is tried again
DRIFT_PAUSE = 0.1  # seconds between looks at a backfill that a check of drift waits for
GENTLE_PAUSE = 0.2  # seconds between pages of 500 rows


class Maintenance:
    """`start` it once; request tasks; `leave` a generation that is no longer followed."""

    def __init__(self, url: str, pool: Pool, options: Options, signals: Signals, runtime: Runtime) -> None:
        self._url = url
        self._pool = pool
        self._options = options
        self._signals = signals
        self._runtime = runtime
        self._indexes = IndexKeeper(url, pool, options, runtime)
        self._looked: dict[int, int] = {}  # by generation: what it had written when its index was last looked at
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def start(self, group: asyncio.TaskGroup, pipelines: Mapping[int, Pipeline]) -> None:
        """pipelines: the running ones by generation; a mapping that changes with them."""
        self._group = group
        group.create_task(self._vacuum_regularly(pipelines))
        group.create_task(self._keep_indexes_regularly(pipelines))
        if self._options.verify_every:
            group.create_task(self._verify_regularly(pipelines))

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def keep_index(self, pipeline: Pipeline) -> None:
        """See to the index: build it if it is needed, again and again until it is valid."""
        self._looked[pipeline.target.id] = pipeline.writer.written
        self._begin("index", pipeline.target.id, partial(self._keep_and_measure, pipeline))

    async def _keep_and_measure(self, pipeline: Pipeline, *, known: bool = False) -> None:
        await self._indexes.keep(pipeline, known=known)
        self._begin("measure", pipeline.target.id, partial(self._indexes.measure, pipeline))

    def begin_filling(self, pipeline: Pipeline) -> None:
        """A backfill begins: an index of few vectors gives way to it."""
        self._begin("give way", pipeline.target.id, partial(self._indexes.give_way, pipeline))

    def keep_indexes(self, pipelines: Iterable[Pipeline]) -> bool:
        """The same for those that have written since the last look. Returns whether there is one."""
        due = [
            pipeline
            for pipeline in pipelines
            if not pipeline.scanner.active and pipeline.writer.written != self._looked.get(pipeline.target.id, 0)
        ]
        for pipeline in due:
            self._looked[pipeline.target.id] = pipeline.writer.written
            self._begin("index", pipeline.target.id, partial(self._keep_and_measure, pipeline, known=True))
        return bool(due)

    def follow_partitions(self, state: SourceState, pipeline: Pipeline) -> None:
        """Look for rows that came or went with a partition, which fires no trigger. A running backfill finds them itself."""
        if state.partitions != state.checked_partitions and not pipeline.scanner.active:
            self._begin("partitions", pipeline.target.id, partial(self._check_partitions, state, pipeline))

    def check_drift(self, state: SourceState, pipeline: Pipeline) -> None:
        """Compare all rows with their vectors, if that was requested."""
        if state.check_drift:
            self._begin("drift", pipeline.target.id, partial(self._check_drift, pipeline))

    def follow_subscription(self, state: SourceState, pipeline: Pipeline) -> None:
        """Exchange the triggers when a subscription begins to fill the source, or no longer does."""
        if state.follows_by_row is not None and state.follows_by_row is not pipeline.target.source.by_row:
            self._begin("triggers", pipeline.target.id, partial(self._exchange_triggers, pipeline))

    def leave(self, id_: int) -> None:
        self._looked.pop(id_, None)
        for key in [key for key in self._tasks if key[1] == id_]:
            self._tasks.pop(key).cancel()

    def _begin(self, kind: str, id_: int, work: Callable[[], Awaitable[None]]) -> None:
        if (kind, id_) not in self._tasks:
            self._tasks[kind, id_] = self._group.create_task(self._ended(kind, id_, work))

    async def _ended(self, kind: str, id_: int, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            if self._tasks.get((kind, id_)) is asyncio.current_task():
                del self._tasks[kind, id_]
            self._signals.look()

    # Vacuum and drift.

    async def _vacuum_regularly(self, pipelines: Mapping[int, Pipeline]) -> None:
        """Vacuum the outboxes with many settled entries, on a connection of the pool."""
        while True:
            await asyncio.sleep(self._options.vacuum_interval)
            for pipeline in [pipeline for pipeline in pipelines.values() if pipeline.wants_vacuum()]:
                try:
                    async with self._pool.connection() as connection:
                        await pipeline.store.vacuum(connection)
                except psycopg.Error as error:
                    self._runtime.events.emit(events.VacuumFailed(pipeline.target.name, first_line(error)))

    async def _verify_regularly(self, pipelines: Mapping[int, Pipeline]) -> None:
        """Repair drift where a pipeline is idle."""
        while True:
            await asyncio.sleep(self._options.verify_every)
            for target in [pipeline.target for pipeline in pipelines.values() if pipeline.idle]:
                await self._repair(target, rows=True, missing=True, orphans=True)

    async def _repair(self, target: Target, *, rows: bool, missing: bool, orphans: bool) -> bool:
        """Enqueue what has drifted. Returns whether every row was compared."""
        pause = 0.0 if self._options.once else GENTLE_PAUSE
        try:
            async with await connect_async(self._url, VERIFIER_NAME) as connection:
                done = await drift.repair(connection, target, rows=rows, missing=missing, orphans=orphans, pause=pause)
        except (psycopg.Error, DatabaseUnavailable) as error:
            self._runtime.events.emit(events.VerifyFailed(target.name, first_line(error)))
            return False
        self._runtime.events.emit(events.Verified(target.name, done.missing_or_stale + done.orphaned, done.locked))
        return not done.locked

    async def _check_drift(self, pipeline: Pipeline) -> None:
        while pipeline.scanner.active:  # noqa: ASYNC110  # rows without a vector are not to be embedded twice
            await asyncio.sleep(DRIFT_PAUSE)
        try:
            async with self._pool.connection() as connection:
                backfill, _ = await pipeline.store.read_backfill_state(connection)
                request = await pipeline.store.read_drift_request(connection)
            missing = backfill is not BackfillState.NONE
            if await self._repair(pipeline.target, rows=True, missing=missing, orphans=True):
                async with self._pool.connection() as connection:
                    done = await pipeline.store.note_drift_checked(connection, request)
                if not done:
                    self._signals.registry()
        except psycopg.Error as error:
            self._runtime.events.emit(events.VerifyFailed(pipeline.target.name, first_line(error)))

    # Partitions.

    async def _check_partitions(self, state: SourceState, pipeline: Pipeline) -> None:
        target, store = pipeline.target, pipeline.store
        known, now = state.checked_partitions or frozenset(), state.partitions or frozenset()
        self._runtime.events.emit(events.PartitionsChanged(target.name, len(now - known), len(known - now)))
        try:
            async with self._pool.connection() as connection:
                backfill, _ = await store.read_backfill_state(connection)
                filled = any([await store.has_rows(connection, oid) for oid in now - known])
            gone = bool(known - now) or state.checked_partitions is None
            checked = not (filled or gone) or await self._repair(
                target, rows=filled, missing=backfill is not BackfillState.NONE, orphans=gone
            )
            if checked:
                async with self._pool.connection() as connection:
                    await store.note_partitions(connection, state.partitions)
        except psycopg.Error as error:
            self._runtime.events.emit(events.PartitionsNotFollowed(target.name, first_line(error)))

    # Subscriptions.

    async def _exchange_triggers(self, pipeline: Pipeline) -> None:
        """By row for a source that is subscribed to. The changes that the old triggers missed are then looked for.

        The transaction records that they are to be looked for, so a worker that dies meanwhile is no harm."""
        target, by_row = pipeline.target, pipeline.target.source.by_row
        try:
            async with await connect_async(self._url, VERIFIER_NAME) as connection, connection.transaction():
                await connection.execute(statement("lock_embedding"), {"lock": int(Lock.OBJECTS), "name": target.name})
                there = await (await connection.execute(statement("generation_is_there"), {"id": target.id})).fetchone()
                if there != (True,):
                    return  # it was detached or dropped meanwhile
                await connection.execute(statement("use_views"))  # for event triggers of the application
                for command in ddl.exchange_triggers(target):
                    await connection.execute(command, {})
                if by_row:
                    await connection.execute(statement("request_drift_check"), {"name": target.name})
        except (psycopg.Error, DatabaseUnavailable) as error:
            self._runtime.events.emit(events.TriggersNotExchanged(target.name, first_line(error)))
            if not self._options.once:
                await asyncio.sleep(EXCHANGE_PAUSE)  # `status` reports it meanwhile
            return
        self._runtime.events.emit(events.TriggersExchanged(target.name, by_row))
        self._signals.registry()

    # Indexes.

    async def _keep_indexes_regularly(self, pipelines: Mapping[int, Pipeline]) -> None:
        while True:
            await asyncio.sleep(self._options.index_interval)
            self.keep_indexes(pipelines.values())
