"""Which generations this worker follows: it compares the registry with the running pipelines, and starts and stops them."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from functools import partial

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.source import SourceState
from pg_qwen_embed.domain.version import Versions
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.postgres import catalog, fits, rights, trust
from pg_qwen_embed.postgres.connection import AsyncConnection, first_line
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.catalogue import Catalogue
from pg_qwen_embed.worker.fitting import Fitting
from pg_qwen_embed.worker.leadership import Leadership
from pg_qwen_embed.worker.maintenance import Maintenance
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.pipeline import Pipeline, Pools
from pg_qwen_embed.worker.signals import Signals


class Following:
    """The pipelines by generation. `refresh` starts those of new generations and stops those that are gone or have changed."""

    def __init__(
        self, connection: AsyncConnection, pools: Pools, balancer: Balancer, leadership: Leadership,
        maintenance: Maintenance, options: Options, signals: Signals, runtime: Runtime,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._pipeline_of = partial(
            Pipeline, balancer=balancer, pools=pools, options=options, signals=signals, runtime=runtime
        )
        self._leadership = leadership
        self._maintenance = maintenance
        self._options = options
        self._signals = signals
        self._runtime = runtime
        self._catalogue = Catalogue(connection, runtime)
        self._fitting = Fitting(pools.backfill, balancer, options, signals, runtime)
        self.pipelines: dict[int, Pipeline] = {}
        self._stands_by_for: set[int] = set()  # generations that other workers lead

    @property
    def fits(self) -> bool:
        """Whether an embedding will be followed once its post-processing is fitted."""
        return self._fitting.busy

    @property
    def stands_by(self) -> bool:
        """Whether another worker leads a generation."""
        return bool(self._stands_by_for)

    async def open(self, group: asyncio.TaskGroup) -> None:
        """To be called once, first. Raises SetupError where `init` has not run, or a role that is not trusted has run it."""
        self._group = group
        await trust.require_registry_async(self._connection)
        await catalog.require_initialised_async(self._connection)

    async def refresh(self) -> None:
        """Read the registry and follow it. Raises psycopg.Error, and DatabaseUnavailable to begin a new session."""
        replaced = await self._catalogue.check(self.pipelines)
        registered = await catalog.registered_async(self._connection)
        states = {target.id: state for one in registered for target, state in one.targets}
        targets = [target for one in registered for target in one.embedding.targets]
        reasons = await self._reasons(targets, states)
        current = {target.id: target for target in targets if target.id not in reasons}
        for id_, pipeline in list(self.pipelines.items()):
            if id_ in replaced or id_ not in current or current[id_].work != pipeline.target.work:
                await self._leave(id_)
        await self._leave_fits(current)
        for target in targets:
            if target.id in reasons:
                self._catalogue.tell(target, reasons[target.id])
        await self._follow(current)
        with suppress(psycopg.errors.LockNotAvailable):  # `alter` has the row; they are noted next time
            await self._connection.execute(statement("note_grants"), {"ids": list(self.pipelines)})
        await self._restart_backfills()
        await self._leadership.report_mismatches(self._targets)
        await self._leadership.report_servers(self._targets)
        self._request_maintenance(states)
        if self._signals.take_denied():
            await self._catalogue.explain_rights(self._targets)

    async def finish_backfills(self) -> None:
        """See to the index of each backfill in which every row has its vector."""
        for pipeline in list(self.pipelines.values()):
            if pipeline.scanner.finished:
                pipeline.scanner.end()
                await self._tried(pipeline.target, self._finish_backfill(pipeline))

    async def _finish_backfill(self, pipeline: Pipeline) -> None:
        await pipeline.store.finish_backfill(self._connection, BackfillState.INDEXING, after=BackfillState.RUNNING)
        self._maintenance.keep_index(pipeline)

    async def _follow(self, current: dict[int, Target]) -> None:
        wanted = [id_ for id_ in current if id_ not in self._led]
        for id_ in await self._leadership.lead(wanted):
            await self._tried(current[id_], self._take_on(current[id_]))
        others = {id_ for id_ in current if id_ not in self._led}  # led by other workers
        for id_ in others & set(wanted) if self._options.once else ():
            self._runtime.events.emit(events.LedElsewhere(current[id_].name))
        for id_ in () if self._options.once else others - self._stands_by_for:
            self._runtime.events.emit(events.StandingBy(current[id_].name))
        self._stands_by_for = others
        if self.stands_by:
            for stranger in await trust.strangers_async(self._connection):
                if stranger.lock == Lock.LEADER and stranger.id in current:
                    self._catalogue.tell(current[stranger.id], f"{stranger.sentence}; {stranger.advice}")

    async def _reasons(self, targets: Iterable[Target], states: Mapping[int, SourceState]) -> dict[int, str]:
        """Why generations cannot be followed: their source has a problem or hides rows, or they use what a stranger owns."""
        hidden, found = await self._catalogue.hidden(), await trust.untrusted_async(self._connection)
        reasons = {}
        for target in targets:
            if problem := states[target.id].problem:
                reasons[target.id] = f"{problem.reason}; {problem.advice(target.name)}"
            elif target.id in hidden:
                reasons[target.id] = rights.rows_hidden(target.source.table, self._connection.info.user)
            elif foreign := trust.foreign_to(target, found):
                reasons[target.id] = foreign.sentence
        return reasons

    async def _tried(self, target: Target, work: Awaitable[None]) -> None:
        """A generation that cannot be followed is left alone until the registry is read again."""
        try:
            await work
            self._catalogue.followed(target)
        except psycopg.Error as error:
            if self._connection.closed or self._options.once:
                raise
            self._catalogue.tell(target, first_line(error))
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                await self._catalogue.explain_rights([target])
            await self._leave(target.id)

    async def _take_on(self, target: Target) -> None:
        await catalog.note_restored_columns(self._connection, target)
        if not target.is_ready:
            target = target.with_fit(await fits.read(self._connection, target))
        if not target.is_ready:
            self._fitting.begin(self._group, target)
            return
        store = Store(target, self._catalogue.halfvec_oid)
        versions = Versions(await store.begin_term(self._connection))
        pipeline = self._pipeline_of(store, versions)
        self.pipelines[target.id] = pipeline
        pipeline.start(self._group)
        state, after = await store.read_backfill_state(self._connection)
        self._runtime.events.emit(events.Following(target.name, target.id, state))
        await self._continue_backfill(pipeline, state, after)

    async def _continue_backfill(self, pipeline: Pipeline, state: BackfillState, after: list[str] | None) -> None:
        if state in (BackfillState.PENDING, BackfillState.RUNNING):
            await pipeline.store.start_backfill(self._connection)
            pipeline.scanner.begin(self._group, after)
            self._maintenance.begin_filling(pipeline)
        else:
            self._maintenance.keep_index(pipeline)

    async def _restart_backfills(self) -> None:
        """Start the backfills that were requested while their generation is followed."""
        cursor = await self._connection.execute(statement("pending_backfills"), {"ids": list(self.pipelines)})
        for (id_,) in await cursor.fetchall():
            pipeline = self.pipelines[id_]
            if not pipeline.scanner.active:
                await self._tried(pipeline.target, self._continue_backfill(pipeline, BackfillState.PENDING, None))

    async def _leave_fits(self, current: Mapping[int, Target]) -> None:
        """Stop fitting what is gone or has changed, and give the leadership back of what was fitted: it is taken on next."""
        changed = [
            id_ for id_, own in self._fitting.targets.items() if id_ not in current or current[id_].work != own.work
        ]
        for id_ in self._fitting.take_done() | set(changed):
            self._fitting.leave(id_)
            await self._leadership.resign(id_)

    @property
    def _led(self) -> set[int]:
        return {*self.pipelines, *self._fitting.targets}

    @property
    def _targets(self) -> list[Target]:
        return [*(pipeline.target for pipeline in self.pipelines.values()), *self._fitting.targets.values()]

    def _request_maintenance(self, states: dict[int, SourceState]) -> None:
        for id_, pipeline in self.pipelines.items():
            self._maintenance.follow_partitions(states[id_], pipeline)
            self._maintenance.check_drift(states[id_], pipeline)
            self._maintenance.follow_subscription(states[id_], pipeline)

    async def _leave(self, id_: int) -> None:
        pipeline = self.pipelines.pop(id_, None)  # None: it could not be taken on
        if pipeline is not None:
            pipeline.stop()
            self._maintenance.leave(id_)
            self._runtime.events.emit(events.Left(pipeline.target.name, id_))
        await self._leadership.resign(id_)
