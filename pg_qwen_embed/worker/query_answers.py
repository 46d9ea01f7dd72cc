"""Query answering: texts that stand in SQL become vectors, for sessions that wait for them in qwen_embed.embed_query.

It runs on two connections of its own. One waits for requests, the other one writes answers. The worker answers for the
generations that it leads, with the priority of a live change. Queries that are found together go to the server in one
request, and a query that several sessions ask is embedded once. A lost connection ends neither the pipelines nor the
worker: it is opened again. What a request looks like is known to domain/query_request.py."""

import asyncio
from collections.abc import Mapping

import psycopg

from pg_qwen_embed.domain import query_events, query_request
from pg_qwen_embed.domain.errors import DatabaseUnavailable, SetupError
from pg_qwen_embed.domain.query_request import Placed
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.postgres import queries
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async, first_line
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.worker import session_locks
from pg_qwen_embed.worker.pipeline import Pipeline
from pg_qwen_embed.worker.query_batches import QueryBatches

WAITER_NAME = "pg_qwen_embed worker: wait for queries"
ANSWERER_NAME = "pg_qwen_embed worker: answer queries"
LOOK = 0.25  # seconds that PostgreSQL waits for a request; in between, new generations are led
SILENT = 30.0  # seconds without an answer of PostgreSQL
IDLE_PAUSE = 0.005  # seconds between two looks
BUSY_PAUSE = 0.0005  # of which pg_sleep makes a millisecond
BUSY = 1.0  # seconds after the last query
AGAIN, LONGEST_AGAIN = 0.1, 5.0  # seconds until a lost connection is opened again, doubling
STABLE = 5.0  # seconds; a failure after so long is the first one again
SHARE = 19  # times the time that forged requests took, nothing is looked at
LONGEST_PAUSE = 0.25
TELL_AGAIN = 60.0  # seconds between reports of forged requests
SWEEP = 2.0
CACHE_ROWS = 10_000
VACUUM_AFTER = 5_000  # vectors that were deleted


class QueryAnswers:
    """`start` it in a task group. It ends with the group."""

    def __init__(self, url: str, balancer: Balancer, runtime: Runtime) -> None:
        self._url = url
        self._balancer = balancer
        self._runtime = runtime
        self._told: str | None = None

    def start(self, group: asyncio.TaskGroup, pipelines: Mapping[int, Pipeline]) -> None:
        """pipelines: the running ones by generation; a mapping that changes with them."""
        group.create_task(self._run(pipelines))

    async def _run(self, pipelines: Mapping[int, Pipeline]) -> None:
        pause, clock = AGAIN, self._runtime.clock
        while True:
            began, reason = clock(), None
            try:
                if pipelines:
                    await self._answer(pipelines)
            except* (psycopg.Error, DatabaseUnavailable, SetupError) as errors:
                reason = first_line(_first(errors))
            if (task := asyncio.current_task()) and task.cancelling():
                # A group that ends with errors raises those, and a cancellation that came meanwhile would be lost.
                raise asyncio.CancelledError
            if clock() - began >= STABLE:
                pause, self._told = AGAIN, None
            if reason is not None and reason != self._told:
                self._runtime.events.emit(query_events.QueriesNotAnswered(reason))
                self._told = reason
            await asyncio.sleep(LOOK if reason is None else pause)
            pause = min(2 * pause, LONGEST_AGAIN) if reason else AGAIN

    async def _answer(self, pipelines: Mapping[int, Pipeline]) -> None:
        """Answer until this worker leads nothing any more."""
        async with (
            await connect_async(self._url, WAITER_NAME) as waiter,
            await connect_async(self._url, ANSWERER_NAME) as answerer,
            asyncio.TaskGroup() as group,
        ):
            await queries.prepare_to_answer(answerer)
            desk = Desk(waiter, answerer, self._balancer, pipelines, self._runtime)
            desk.start(group)
            while pipelines:
                await desk.look()
            desk.stop()


class Desk:
    """Takes requests in while its two connections last."""

    def __init__(
        self, waiter: AsyncConnection, answerer: AsyncConnection, balancer: Balancer, pipelines: Mapping[int, Pipeline],
        runtime: Runtime,
    ) -> None:  # fmt: skip
        self._waiter = waiter
        self._answerer = answerer
        self._pipelines = pipelines
        self._runtime = runtime
        self._batches = QueryBatches(answerer, balancer, runtime)
        self._led: set[int] = set()
        self._seen: set[int] = set()
        self._busy_until = 0.0
        self._pause = 0.0  # after forged requests
        self._told = -TELL_AGAIN
        self._secret = b""

    def start(self, group: asyncio.TaskGroup) -> None:
        self._batches.start(group)
        self._sweeping = group.create_task(self._sweep_regularly())

    def stop(self) -> None:
        self._sweeping.cancel()

    async def look(self) -> None:
        """Wait for requests, and take in those that are new."""
        await self._lead()
        pause = BUSY_PAUSE if self._runtime.clock() < self._busy_until else IDLE_PAUSE
        try:
            async with asyncio.timeout(SILENT):
                placed = await queries.wait_for_requests(
                    self._waiter, self._seen, seconds=LOOK, pause=max(pause, self._pause)
                )
        except TimeoutError:
            raise DatabaseUnavailable(f"PostgreSQL has been silent for {SILENT:.0f} s") from None
        self._pause = 0.0
        if placed:
            began = self._runtime.clock()
            new = [one for one in placed if one.id not in self._seen]
            self._seen = {one.id for one in placed}
            await self._take(new, began)

    async def _take(self, new: list[Placed], began: float) -> None:
        read = [query_request.read(one, self._secret) for one in new]
        requests = [request for request in read if request is not None]
        if len(requests) < len(new):
            await self._forged(len(new) - len(requests))
            self._pause = min(LONGEST_PAUSE, SHARE * (self._runtime.clock() - began))
        own = [request for request in requests if request.generation in self._pipelines]
        if own:
            self._busy_until = self._runtime.clock() + BUSY
            await self._batches.add([(self._pipelines[one.generation].target, one) for one in own])

    async def _forged(self, sessions: int) -> None:
        """Report them, once a minute. The secret may be another one now, since a dump was restored."""
        now = self._runtime.clock()
        if now - self._told >= TELL_AGAIN:
            self._told = now
            self._runtime.events.emit(query_events.QueriesForged(sessions))
            self._secret = await queries.read_secret(self._answerer)

    async def _lead(self) -> None:
        """Hold a lock for each generation, by which a session that asks sees that a worker is there."""
        led = set(self._pipelines)
        for id_ in self._led - led:
            await session_locks.release(self._waiter, Lock.ANSWERS, id_)
        self._led &= led
        if led - self._led:
            self._secret = await queries.read_secret(self._answerer)  # with the last embedding the one before has gone
            self._led |= set(await session_locks.take(self._waiter, Lock.ANSWERS, led - self._led))
            self._seen.clear()  # requests that another worker was to answer
            await queries.sweep_generations(self._answerer)

    async def _sweep_regularly(self) -> None:
        """Keep the cache within its bound."""
        swept = deleted = 0
        while True:
            await asyncio.sleep(SWEEP)
            if self._batches.answered == swept:
                continue
            swept = self._batches.answered
            deleted += await queries.sweep(self._answerer, rows=CACHE_ROWS)
            if deleted >= VACUUM_AFTER:
                deleted = 0
                await queries.vacuum(self._answerer)


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """One of the errors of a group."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
