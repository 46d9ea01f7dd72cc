"""The worker's loop: read until nothing is found, close the gates so that writers notify, read once more, then sleep.

The stages of a pipeline run as tasks of their own; the loop only lets its readers read."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres.connection import AsyncConnection, first_line
from pg_qwen_embed.postgres.names import union
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker import session_locks
from pg_qwen_embed.worker.following import Following
from pg_qwen_embed.worker.maintenance import Maintenance
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.pipeline import Pipeline
from pg_qwen_embed.worker.reader import Reader
from pg_qwen_embed.worker.signals import Signals

STANDBY_POLL = 5.0  # seconds between attempts to take the place of a leader
LONGEST_SPIN = 0.05  # seconds
DRAIN_INTERVAL = 0.1  # seconds
LAST_WRITE = 0.3  # seconds for what is being written when no server answers
UNNOTIFIED_POLL = 1.0  # seconds between reads of an embedding whose triggers send no notification

Look = Callable[[Reader, AsyncConnection], Awaitable[bool]]


class Loop:
    """`run` returns when the worker is told to stop, or with `once` when everything is drained."""

    def __init__(
        self, connection: AsyncConnection, following: Following, maintenance: Maintenance,
        options: Options, signals: Signals, runtime: Runtime,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._following = following
        self._maintenance = maintenance
        self._options = options
        self._signals = signals
        self._runtime = runtime
        self._spin = options.spin_interval
        self._with_work = WithWork(connection)

    async def run(self) -> None:
        clock = self._runtime.clock
        active = swept = looked = clock()
        while not self._signals.stopping.is_set():
            self._signals.begin()
            if await self._hear_of_changes(due=clock() - looked >= (self._options.poll or STANDBY_POLL)):
                looked = clock()
            self._report_scan_errors()
            pipelines = await self._with_work.of(self._pipelines)
            found = await self._look(Reader.read, pipelines)
            if clock() - swept >= self._options.sweep:
                found |= await self._look(Reader.sweep, pipelines)
                swept = clock()
            await self._following.finish_backfills()
            if found:
                active = clock()
            elif self._options.once and await self._drained():
                break
            elif clock() - active < self._options.linger:
                await self._signals.wait(self._options.spin_interval)
            else:
                await self._sleep()
        await self._drain()

    @property
    def _pipelines(self) -> list[Pipeline]:
        return list(self._following.pipelines.values())

    async def _hear_of_changes(self, *, due: bool) -> bool:
        """Read the registry if it may have changed, or if it is due."""
        if not self._signals.take_registry() and not due:
            return False
        await self._following.refresh()
        return True

    async def _sleep(self) -> None:
        """Close the gates, read once more from the beginning, then wait for a signal."""
        gates = [p.target.id for p in self._pipelines if p.reader.takes_changes and p.target.spec.notify]
        closed = await session_locks.close_gates(self._connection, gates)
        try:
            if await self._look(Reader.rescan, await self._with_work.of(self._pipelines)):
                return
            # A writer that found its gate open will not notify: until it ends, keep reading.
            await self._signals.wait(self._longest_sleep() if len(closed) == len(gates) else self._next_spin())
        finally:
            await session_locks.open_gates(self._connection, closed)

    def _longest_sleep(self) -> float | None:
        self._spin = self._options.spin_interval
        if any(pipeline.reader.paused for pipeline in self._pipelines):
            return self._options.error_pause
        if not all(pipeline.target.spec.notify for pipeline in self._pipelines):
            return min(UNNOTIFIED_POLL, self._options.poll or UNNOTIFIED_POLL)
        if self._following.stands_by:
            return self._options.poll or STANDBY_POLL
        return self._options.poll or None

    def _next_spin(self) -> float:
        """A transaction that keeps its gate open may last long: read less and less often."""
        self._spin = min(self._spin * 1.5, LONGEST_SPIN)
        return self._spin

    async def _drain(self) -> None:
        """Wait until what is in flight is written, up to the shutdown timeout, and all that was written is on disk."""
        for pipeline in self._pipelines:
            pipeline.scanner.stop()
        began, longest = self._runtime.clock(), self._options.shutdown_timeout
        while unsettled := [pipeline for pipeline in self._pipelines if not pipeline.settled]:
            passed = self._runtime.clock() - began
            if passed >= longest or (passed >= LAST_WRITE and all(one.waits_for_server for one in unsettled)):
                reason = (
                    f"requests still in flight after {longest} s"
                    if passed >= longest
                    else "no server answers: what waits for one stays in the outbox"
                )
                self._runtime.events.emit(events.StoppedEarly(reason))
                break
            self._signals.begin()
            await self._signals.wait(DRAIN_INTERVAL)
        # Else a replication slot may be dropped before it has sent the last.
        await Store.wait_for_disk(self._connection)
        self._runtime.events.emit(events.Stopped(sum(pipeline.writer.written for pipeline in self._pipelines)))

    async def _drained(self) -> bool:
        """Whether nothing is in flight, the outboxes are empty from the beginning, and the indexes are as they should be."""
        if self._maintenance.busy or self._following.fits or not all(pipeline.idle for pipeline in self._pipelines):
            return False
        if await self._look(Reader.rescan, self._pipelines):
            return False
        return not self._maintenance.keep_indexes(self._pipelines)

    async def _look(self, how: Look, pipelines: Iterable[Pipeline]) -> bool:
        """Let these pipelines read; True if one found something. One that fails pauses, and the others go on."""
        found = False
        for pipeline in pipelines:
            try:
                found |= await how(pipeline.reader, self._connection)
            except psycopg.Error as error:
                if self._connection.closed:
                    raise
                self._report_read_error(pipeline, error)
                lasting = isinstance(
                    error, psycopg.ProgrammingError
                )  # a lock passes by itself, a missing right does not
                pipeline.reader.pause(self._options.error_pause, longer=lasting)
        return found

    def _report_scan_errors(self) -> None:
        for pipeline in self._pipelines:
            if error := pipeline.scanner.take_error(pause=self._options.error_pause):
                self._report_read_error(pipeline, error)

    def _report_read_error(self, pipeline: Pipeline, error: psycopg.Error) -> None:
        name = pipeline.target.name
        if self._options.once and not isinstance(error, psycopg.OperationalError):  # temporary: a lock, a timeout
            raise DatabaseUnavailable(f"{name} cannot be read: {first_line(error)}") from None
        self._runtime.events.emit(events.ReadFailed(name, first_line(error)))
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            self._signals.denied()
        else:
            self._signals.registry()  # a source may have been altered, or an embedding detached


class WithWork:
    """Which pipelines may have something to read: of many embeddings, only a few change at a time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._pipelines: Sequence[Pipeline] = ()
        self._query = b""  # for those

    async def of(self, pipelines: Iterable[Pipeline]) -> list[Pipeline]:
        awake = [
            pipeline for pipeline in pipelines if not pipeline.reader.paused
        ]  # the sources of the others may be locked
        if len(awake) < 2:
            return awake
        try:
            cursor = await self._connection.execute(self._query_of(awake))
            ids = {row[0] for row in await cursor.fetchall()}
        except psycopg.Error:
            if self._connection.closed:
                raise
            return awake  # one of them cannot be read: reading each finds out which
        return [pipeline for pipeline in awake if pipeline.target.id in ids]

    def _query_of(self, pipelines: Sequence[Pipeline]) -> bytes:
        if pipelines != self._pipelines:
            self._pipelines = pipelines
            self._query = union(pipeline.store.has_work for pipeline in pipelines).as_bytes(None)
        return self._query
