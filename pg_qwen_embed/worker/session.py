"""The worker: one process that leads generations, hears of changes, and feeds them to the server.

The loop fits on one screen (`Session._follow`): read what there is; when there is nothing, close the gates so that
writers notify, look once more, and sleep. Everything of one stretch with the database is a `Session`; when its
connection is lost the session ends, its feeds with it, and a new one begins from what the outbox still has."""

import asyncio
import logging
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack

import psycopg

from pg_qwen_embed.domain import retry
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DatabaseUnavailable, Error
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async, first_line, pool
from pg_qwen_embed.postgres.listener import PING, REGISTRY, notifications
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import union
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker.maintenance import Maintenance
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.pipeline import WRITERS, Pipeline

log = logging.getLogger("pg_qwen_embed.worker")

READER_NAME = "pg_qwen_embed worker: lead and read"
AWAY_NAME = "pg_qwen_embed worker: the embedding server does not answer"
WRITER_NAME = "pg_qwen_embed worker: write"
SCANNER_NAME = "pg_qwen_embed worker: backfill"
LONGEST_STATEMENT = 60.0  # seconds
STANDBY_POLL = 5.0  # seconds between looks for a leader that has gone
LONGEST_SPIN = 0.05


class Stopped(Exception):  # not an error: it ends the task group
    """The session has done what it was asked to."""


class Worker:
    """`await Worker(settings, options).run()`; `stop` lets it finish what is in flight."""

    def __init__(self, settings: Settings, options: Options) -> None:
        self._settings = settings
        self._options = options
        self._rng = random.Random()  # noqa: S311  # jitter
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        self.stopping.set()

    async def run(self) -> None:
        """Until stopped, or with `once` until everything is drained. Raises Error only with `once`, or at the start."""
        attempt = 0
        async with AsyncExitStack() as stack:
            servers = [EmbeddingServer(one, self._options.request_timeout) for one in self._settings.servers]
            for server in servers:
                await stack.enter_async_context(server)
            while not self.stopping.is_set():
                session = Session(self._settings.database_url, servers, self._options, self.stopping)
                try:
                    await session.run()
                    return
                except DatabaseUnavailable as error:
                    if self._options.once or (attempt == 0 and not session.opened):
                        raise
                    log.warning("database_unavailable reason=%s", error)
                attempt = 1 if session.opened else attempt + 1
                await self._pause(retry.backoff(attempt, base=0.2, cap=5.0, rng=self._rng))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return


class Session:
    """One stretch of work on one set of connections."""

    def __init__(self, url: str, servers: Sequence[EmbeddingServer], options: Options, stopping: asyncio.Event) -> None:
        self._url = url
        self._options = options
        self._stopping = stopping
        self._pipelines: dict[int, Pipeline] = {}
        self._doorbell = asyncio.Event()
        self._balancer = Balancer(
            servers, most_requests=options.most_requests, outage_timeout=options.outage_timeout, once=options.once,
            identity_check_interval=options.identity_check_interval, changed=self._server_changed,
        )  # fmt: skip
        self._name = READER_NAME
        self._mismatched: dict[int, str] = {}  # generations that no server has the model of, and the sentence
        self._standing_by = False
        self._spin = options.spin_interval
        self._pinged = asyncio.Event()
        self._channel = ""
        self._registry_changed = True
        self._halfvec_oid = 0
        self._asked: Sequence[Pipeline] = ()
        self._has_work = b""  # of those
        self.opened = False

    async def run(self) -> None:
        """Raises DatabaseUnavailable when a connection is lost, and what the feeds raise."""
        try:
            async with (
                await connect_async(self._url, READER_NAME) as self._reader,
                pool(self._url, WRITER_NAME, least=1, most=WRITERS) as self._pool,
                pool(self._url, SCANNER_NAME, least=0, most=1 + WRITERS) as self._backfill_pool,
                asyncio.TaskGroup() as self._group,
            ):
                self.opened = True
                self._channel = f"qwen_embed_{self._reader.info.backend_pid}"
                log.info("connected database=%s pid=%d", self._reader.info.dbname, self._reader.info.backend_pid)
                self._balancer.start(self._group)
                self._group.create_task(self._listen())
                self._group.create_task(self._ping())
                self._maintenance = Maintenance(
                    self._url, self._pool, self._group, self._pipelines, self._options, self._doorbell.set
                )
                self._maintenance.start()
                self._group.create_task(self._ring_when_stopping())
                self._group.create_task(self._follow())
        except psycopg.Error as error:
            raise _lost(error) from None
        except BaseExceptionGroup as group:
            leaves = list(_leaves(group))
            if not all(isinstance(leaf, Stopped | psycopg.Error | Error) for leaf in leaves):
                raise  # a fault of our own: its traceback is wanted
            verdict = _verdict(leaves)
            if verdict is not None:
                raise verdict from None

    # Hearing.

    async def _listen(self) -> None:
        async for payload in notifications(self._url, self._channel):
            if payload == PING:
                self._pinged.set()
                continue
            self._registry_changed |= payload in (None, REGISTRY)
            self._doorbell.set()
        raise DatabaseUnavailable("the connection that listens was closed")

    async def _ping(self) -> None:
        """Find out that a connection is dead though nobody says so: the one that reads calls the one that listens."""
        while self._options.ping:
            await asyncio.sleep(self._options.ping)
            if self._reader.lock.locked():  # it is at work; a statement that never ends is found out here too
                await self._freed()
                continue
            self._pinged.clear()
            try:
                async with asyncio.timeout(self._options.ping):
                    await self._reader.execute(statement("ping"), {"channel": self._channel})
                    await self._pinged.wait()
            except TimeoutError:
                raise DatabaseUnavailable(f"a connection has been silent for {self._options.ping:.0f} s") from None

    async def _freed(self) -> None:
        """Wait for the statement that is running on the connection that reads."""
        try:
            async with asyncio.timeout(LONGEST_STATEMENT), self._reader.lock:
                return
        except TimeoutError:
            raise DatabaseUnavailable(f"a statement has not ended in {LONGEST_STATEMENT:.0f} s") from None

    async def _ring_when_stopping(self) -> None:
        await self._stopping.wait()
        self._doorbell.set()

    async def _heard(self, seconds: float | None) -> None:
        """Wait until something happens: a notification, work settled, a stop; or for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._doorbell.wait()
        except TimeoutError:
            return

    def _server_changed(self) -> None:
        self._say_whether_one_is_away()
        self._read_registry_again()

    def _say_whether_one_is_away(self) -> None:
        """Where `status` looks: in the name of the session that leads."""
        lacking = any(self._balancer.lacks(pipeline.target) for pipeline in self._pipelines.values())
        name = AWAY_NAME if lacking else READER_NAME
        if name != self._name:
            self._name = name
            self._group.create_task(self._rename(name))

    async def _rename(self, name: str) -> None:
        await self._reader.execute(statement("name_session"), {"name": name})

    # The loop.

    async def _follow(self) -> None:
        await self._open()
        clock = asyncio.get_running_loop().time
        active = swept = looked = clock()
        while not self._stopping.is_set():
            self._doorbell.clear()
            if self._registry_changed or clock() - looked >= (self._options.poll or STANDBY_POLL):
                await self._read_registry()
                looked = clock()
            self._report_scan_errors()
            pipelines = await self._with_work()
            found = await self._look(Pipeline.read, pipelines)
            if clock() - swept >= self._options.sweep:
                found |= await self._look(Pipeline.sweep, pipelines)
                swept = clock()
            await self._finish_scans()
            if found:
                active = clock()
            elif self._options.once and await self._drained():
                break
            elif clock() - active < self._options.linger:
                await self._heard(self._options.spin_interval)
            else:
                await self._sleep()
        await self._drain()
        raise Stopped

    async def _sleep(self) -> None:
        """Close the gates, look once more from the beginning, then wait to be told."""
        pipelines = [pipeline for pipeline in self._pipelines.values() if pipeline.takes_changes]
        closed = await self._close_gates(pipelines)
        try:
            if await self._look(Pipeline.rescan, await self._with_work()):
                return
            # A writer that found its gate open will not notify: until it is done, keep looking.
            await self._heard(self._longest_sleep() if len(closed) == len(pipelines) else self._next_spin())
        finally:
            await self._open_gates(closed)

    def _longest_sleep(self) -> float | None:
        self._spin = self._options.spin_interval
        if any(pipeline.paused for pipeline in self._pipelines.values()):
            return self._options.error_pause
        if self._standing_by:
            return self._options.poll or STANDBY_POLL
        return self._options.poll or None

    def _next_spin(self) -> float:
        """A transaction that keeps its gate open may last: look less and less often."""
        self._spin = min(self._spin * 1.5, LONGEST_SPIN)
        return self._spin

    async def _drain(self) -> None:
        """Let what is in flight be written, but not for ever."""
        for pipeline in self._pipelines.values():
            pipeline.scanner.stop()
        try:
            async with asyncio.timeout(self._options.shutdown_timeout):
                while not all(pipeline.settled for pipeline in self._pipelines.values()):
                    self._doorbell.clear()
                    await self._heard(0.1)
        except TimeoutError:
            log.warning("stopped_early reason=requests still in flight after %s s", self._options.shutdown_timeout)
        log.info("stopped written=%d", sum(pipeline.written for pipeline in self._pipelines.values()))

    async def _drained(self) -> bool:
        """Nothing in flight, nothing being built, and the outboxes are empty from the very beginning."""
        if self._maintenance.busy or not all(pipeline.idle for pipeline in self._pipelines.values()):
            return False
        return not await self._look(Pipeline.rescan, list(self._pipelines.values()))

    async def _with_work(self) -> list[Pipeline]:
        """The feeds that would find something, or may: of many embeddings only a few change at a time."""
        pipelines = [pipeline for pipeline in self._pipelines.values() if not pipeline.paused]  # they may be locked
        if len(pipelines) < 2:
            return pipelines
        try:
            cursor = await self._reader.execute(self._have_work(pipelines))
            ids = {row[0] for row in await cursor.fetchall()}
        except psycopg.Error:
            if self._reader.closed:
                raise
            return pipelines  # one of them cannot be read: it is found by looking at each
        return [pipeline for pipeline in pipelines if pipeline.target.id in ids]

    def _have_work(self, pipelines: Sequence[Pipeline]) -> bytes:
        if pipelines != self._asked:
            self._asked = pipelines
            self._has_work = union(pipeline.store.has_work for pipeline in pipelines).as_bytes(None)
        return self._has_work

    async def _look(
        self, how: Callable[[Pipeline, AsyncConnection], Awaitable[bool]], pipelines: Iterable[Pipeline]
    ) -> bool:
        """Let these feeds look; True if one found something. One that cannot rests a while, and the others go on."""
        found = False
        for pipeline in pipelines:
            try:
                found |= await how(pipeline, self._reader)
            except psycopg.Error as error:
                if self._reader.closed:
                    raise
                self._report_read_error(pipeline, error)
                pipeline.pause(self._options.error_pause)
        return found

    def _report_scan_errors(self) -> None:
        for pipeline in self._pipelines.values():
            if error := pipeline.scanner.take_error(rest=self._options.error_pause):
                self._report_read_error(pipeline, error)

    def _report_read_error(self, pipeline: Pipeline, error: psycopg.Error) -> None:
        sentence = f"{pipeline.target.name} cannot be read: {first_line(error)}"
        if self._options.once and not isinstance(error, psycopg.OperationalError):  # those pass: a lock, a time-out
            raise DatabaseUnavailable(sentence) from None
        log.warning("read_failed embedding=%s reason=%s", pipeline.target.name, first_line(error))
        self._read_registry_again()

    def _read_registry_again(self) -> None:
        """A source may have been altered, or an embedding detached."""
        self._registry_changed = True
        self._doorbell.set()

    # Which generations to follow.

    async def _open(self) -> None:
        await catalog.require_initialised_async(self._reader)
        row = await (await self._reader.execute(statement("halfvec_oid"))).fetchone()
        self._halfvec_oid = row[0] if row else 0

    async def _read_registry(self) -> None:
        """Follow what was attached, leave what was detached or looks different now."""
        self._registry_changed = False
        registered = await catalog.registered_async(self._reader)
        states = {target.id: state for one in registered for target, state in one.targets}
        current = {
            target.id: target for one in registered for target, _ in one.targets if not states[target.id].problem
        }
        for id_, pipeline in list(self._pipelines.items()):
            if current.get(id_) != pipeline.target:
                await self._leave(id_)
        wanted = [id_ for id_ in current if id_ not in self._pipelines]
        for id_ in await self._try_lead(wanted):
            await self._try_take_on(current[id_])
        self._standing_by = any(id_ not in self._pipelines for id_ in current)
        await self._restart_backfills()
        await self._report_model_mismatches()
        self._say_whether_one_is_away()
        for id_, pipeline in self._pipelines.items():
            self._maintenance.follow_partitions(states[id_], pipeline)
        if self._options.once:
            for id_ in set(wanted) - set(self._pipelines):
                log.info("led_elsewhere embedding=%s", current[id_].name)

    async def _try_take_on(self, target: Target) -> None:
        """One that cannot be taken on is left, until the registry is read again."""
        try:
            await self._take_on(target)
        except psycopg.Error as error:
            if self._reader.closed or self._options.once:
                raise
            log.warning("not_followed embedding=%s reason=%s", target.name, first_line(error))
            await self._leave(target.id)

    async def _take_on(self, target: Target) -> None:
        pipeline = Pipeline(
            Store(target, self._halfvec_oid), self._balancer, self._pool, self._backfill_pool,
            limits=self._options.limits, moved=self._doorbell.set, altered=self._read_registry_again,
            once=self._options.once,
        )  # fmt: skip
        self._pipelines[target.id] = pipeline
        pipeline.start(self._group)
        state, cursor = await pipeline.store.read_backfill_state(self._reader)
        log.info("following embedding=%s generation=%d backfill=%s", target.name, target.id, state.value)
        await self._continue_backfill(pipeline, state, cursor)

    async def _continue_backfill(self, pipeline: Pipeline, state: BackfillState, cursor: list[str] | None) -> None:
        if state in (BackfillState.PENDING, BackfillState.RUNNING):
            await pipeline.store.start_backfill(self._reader)
            pipeline.scanner.begin(self._group, cursor)
        else:
            self._maintenance.build_index(pipeline)

    async def _restart_backfills(self) -> None:
        """Backfills asked for while their generation is being followed."""
        cursor = await self._reader.execute(statement("pending_backfills"), {"ids": list(self._pipelines)})
        for (id_,) in await cursor.fetchall():
            pipeline = self._pipelines[id_]
            if not pipeline.scanner.active:
                await self._continue_backfill(pipeline, BackfillState.PENDING, None)

    async def _report_model_mismatches(self) -> None:
        """Embeddings that what is served is not for: in the log, and by a lock, where `status` looks."""
        found = {id_: self._balancer.mismatch(pipeline.target) for id_, pipeline in self._pipelines.items()}
        refused = {id_: str(mismatch) for id_, mismatch in found.items() if mismatch}
        for id_ in self._mismatched.keys() - refused.keys():
            await self._unlock(Lock.MODEL_MISMATCH, id_)
        await self._lock("try_lead", Lock.MODEL_MISMATCH, list(refused.keys() - self._mismatched.keys()))
        for id_, sentence in refused.items():
            if self._mismatched.get(id_) != sentence:
                log.warning("wrong_model reason=%s", sentence)
        self._mismatched = refused

    async def _leave(self, id_: int) -> None:
        pipeline = self._pipelines.pop(id_)
        pipeline.stop()
        self._maintenance.leave(id_)
        await self._unlock(Lock.LEADER, id_)
        log.info("left embedding=%s generation=%d", pipeline.target.name, id_)

    async def _try_lead(self, ids: list[int]) -> list[int]:
        return await self._lock("try_lead", Lock.LEADER, ids)

    # Backfills that have come to their end.

    async def _finish_scans(self) -> None:
        for pipeline in self._pipelines.values():
            if pipeline.scanner.finished:
                pipeline.scanner.end()
                await pipeline.store.finish_backfill(self._reader, BackfillState.INDEXING, after=BackfillState.RUNNING)
                self._maintenance.build_index(pipeline)

    # The gates.

    async def _close_gates(self, pipelines: Iterable[Pipeline]) -> list[int]:
        return await self._lock("close_gates", Lock.GATE, [pipeline.target.id for pipeline in pipelines])

    async def _open_gates(self, ids: list[int]) -> None:
        if ids:
            await self._reader.execute(statement("open_gates"), {"lock": int(Lock.GATE), "ids": ids})

    async def _lock(self, name: str, lock: Lock, ids: list[int]) -> list[int]:
        if not ids:
            return []
        cursor = await self._reader.execute(statement(name), {"lock": int(lock), "ids": ids})
        return [row[0] for row in await cursor.fetchall()]

    async def _unlock(self, lock: Lock, id_: int) -> None:
        await self._reader.execute(statement("release_lead"), {"lock": int(lock), "id": id_})


async def run(settings: Settings, options: Options) -> None:
    """The worker as a process: SIGTERM and SIGINT let it finish what is in flight, a second one ends it at once."""
    worker = Worker(settings, options)
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        log.info("stopping signal=%s", number.name)
        worker.stop()
        for again in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(again)
            signal.signal(again, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await worker.run()


def _verdict(leaves: list[BaseException]) -> Error | None:
    """Why the session ended: the error that counts most, or None when it was done."""
    database = next((leaf for leaf in leaves if isinstance(leaf, psycopg.Error)), None)
    if database is not None:
        return _lost(database)
    return next((leaf for leaf in leaves if isinstance(leaf, Error)), None)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _lost(error: psycopg.Error) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"PostgreSQL ended the work: {first_line(error)}")
