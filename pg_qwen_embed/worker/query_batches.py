"""Batches of queries: from requests that were read to answers that are written.

Queries of one generation wait while enough of its batches are in flight; the next batch takes all of them, up to a bound.
An error becomes the answer of each session that batch for the query."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pg_qwen_embed.domain import query_events
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.query_request import QueryRequest
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.inference.encoder import Encoder
from pg_qwen_embed.inference.upstreams import Upstream
from pg_qwen_embed.postgres import queries
from pg_qwen_embed.postgres.connection import AsyncConnection

MOST_QUERIES = 32  # in one request
MOST_BATCHES = 3  # in flight for one generation
MOST_DOORS = 256
LONGEST = 10.0  # seconds that a batch may take
TELL_AGAIN = 10.0  # seconds until the same failure is reported again

BLANK = "the query is blank: there is nothing to search for"
CHANGED = "its instruction has just changed; run the statement again"
SLOW = f"the embedding server has not answered for {LONGEST:.0f} s"


@dataclass(slots=True)
class Query:
    """A query that is to be embedded. nonces, doors: of the requests that wait for it."""

    target: Target
    instruction: str
    text: str
    nonces: list[bytes] = field(default_factory=list)
    doors: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Line:
    """The queries of one generation, by key."""

    waiting: dict[bytes, Query] = field(default_factory=dict)
    in_flight: dict[bytes, Query] = field(default_factory=dict)
    batches: int = 0


class Doors:
    """The locks at which sessions wait for their answers. It holds those of sessions that have asked, MOST_DOORS at most.

    A session may take a lock that it holds a second time, and then one release does not open the door: so one call at a time
    takes and opens them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._held: set[int] = set()
        self._moving = asyncio.Lock()

    async def close(self, awaited: Callable[[], set[int]]) -> None:
        """Hold those at which sessions still wait, as far as none is just passing. A door that is closed after its answer would
        stay closed."""
        async with self._moving:
            missing = awaited() - self._held
            if missing and len(self._held) + len(missing) <= MOST_DOORS:
                self._held |= await queries.close_doors(self._connection, missing)

    async def open(self, answered: Sequence[Query], write: Callable[[set[int]], Awaitable[None]]) -> None:
        """Open the doors at which sessions wait for these queries. `write` does that, when it has written the answers."""
        async with self._moving:
            doors = set().union(*(query.doors for query in answered)) & self._held
            self._held -= doors
            await write(doors)


class QueryBatches:
    """`start` it in a task group, then `add` requests. answered: how many queries it has answered."""

    def __init__(self, connection: AsyncConnection, balancer: Balancer, runtime: Runtime) -> None:
        self._connection = connection
        self._balancer = balancer
        self._runtime = runtime
        self._lines: dict[int, Line] = {}
        self._instructions: dict[int, str] = {}
        self._doors = Doors(connection)
        self._told: dict[str, tuple[str, float]] = {}  # by embedding: the last failure, and when it was reported
        self.answered = 0

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    async def add(self, requests: Sequence[tuple[Target, QueryRequest]]) -> None:
        """Queue what these requests ask for. Raises psycopg.Error."""
        if any(not self._knows(request) for _, request in requests):
            self._instructions |= await queries.read_instructions(
                self._connection, {target.id for target, _ in requests}
            )
        for target, request in requests:
            if not self._knows(request):
                self._reject_later(request, CHANGED)
            elif not request.text.strip():
                self._reject_later(request, BLANK)
            else:
                self._queue(target, request)
        for line in list(self._lines.values()):
            self._dispatch(line)
        new = {request.door for _, request in requests}
        await self._doors.close(lambda: new & self._awaited())

    def _awaited(self) -> set[int]:
        """The doors of all queries that are not answered."""
        open_queries = [
            query for line in self._lines.values() for query in (*line.waiting.values(), *line.in_flight.values())
        ]
        return set().union(*(query.doors for query in open_queries))

    def _knows(self, request: QueryRequest) -> bool:
        """Whether the instruction is known that the request was made for."""
        known = self._instructions.get(request.generation)
        return known is not None and request.is_made_for(known)

    def _queue(self, target: Target, request: QueryRequest) -> None:
        line = self._lines.setdefault(target.id, Line())
        instruction = self._instructions[target.id]
        key = request.key(instruction)
        query = line.in_flight.get(key) or line.waiting.setdefault(key, Query(target, instruction, request.text))
        query.nonces.append(request.nonce)
        query.doors.add(request.door)

    def _dispatch(self, line: Line) -> None:
        while line.waiting and line.batches < MOST_BATCHES:
            keys = list(line.waiting)[:MOST_QUERIES]
            first = line.waiting[keys[0]]
            batch = {
                key: line.waiting.pop(key)
                for key in keys
                if (line.waiting[key].target, line.waiting[key].instruction) == (first.target, first.instruction)
            }
            line.in_flight |= batch
            line.batches += 1
            self._group.create_task(self._run(line, batch))

    async def _run(self, line: Line, batch: dict[bytes, Query]) -> None:
        try:
            await self._answer(line, batch)
        finally:
            _take_out(line, batch)
            line.batches -= 1
        self._dispatch(line)

    async def _answer(self, line: Line, batch: dict[bytes, Query]) -> None:
        """Embed the queries of a batch, and write their vectors or why they have none."""
        began, found = self._runtime.clock(), list(batch.values())
        target = found[0].target
        try:
            async with asyncio.timeout(LONGEST):
                vectors = await self._embedded(target, found)
        except DocumentRejected as error:
            if len(batch) > 1:  # one of them is at fault
                for key, query in batch.items():
                    await self._answer(line, {key: query})
                return
            await self._reject(line, batch, f"the embedding server rejects the query: {error}")
        except ServerUnavailable as error:
            await self._reject(line, batch, str(error))
        except TimeoutError:
            await self._reject(line, batch, self._reason(target) or SLOW)
        else:
            await self._doors.open(found, partial(queries.answer, self._connection, target.id, list(batch), vectors))
            waiting, seconds = sum(len(query.nonces) for query in found), self._runtime.clock() - began
            self._runtime.events.emit(query_events.QueriesAnswered(target.name, len(batch), waiting, seconds))
        self.answered += len(batch)

    async def _embedded(self, target: Target, batch: Sequence[Query]) -> Vectors:
        """Their vectors, from another server where one fails. Raises ServerUnavailable, DocumentRejected."""
        failed: set[Upstream] = set()
        while True:
            if reason := self._reason(target):
                raise ServerUnavailable(reason)
            work = sum(len(query.text.encode()) for query in batch)
            async with self._balancer.lease(target, live=True, work=work, excluding=failed) as lease:
                try:
                    texts = [query.text for query in batch]
                    vectors = await Encoder(lease).queries(target, batch[0].instruction, texts)
                except ServerUnavailable as error:
                    lease.failed(error)
                    failed.add(lease.upstream)
                    if not self._balancer.is_served(target, failed):
                        raise
                else:
                    lease.answered()
                    return vectors

    async def _reject(self, line: Line, batch: dict[bytes, Query], reason: str) -> None:
        """Answer with a reason; the same one is reported once in a while."""
        _take_out(line, batch)  # a request that comes from now on is none of those that get the reason
        found, reason = list(batch.values()), shown(reason)
        nonces = [nonce for query in found for nonce in query.nonces]
        await self._doors.open(found, partial(queries.answer_with_reason, self._connection, nonces, reason))
        name, now = found[0].target.name, self._runtime.clock()
        said, when = self._told.get(name, ("", 0.0))
        if said != reason or now - when >= TELL_AGAIN:
            self._told[name] = reason, now
            self._runtime.events.emit(query_events.QueriesFailed(name, len(found), reason))

    def _reason(self, target: Target) -> str | None:
        """Why no server embeds for it now."""
        reason = self._balancer.lacks(target) or self._balancer.mismatch(target)
        return str(reason) if reason else None

    def _reject_later(self, request: QueryRequest, reason: str) -> None:
        self._group.create_task(queries.write_errors(self._connection, [request.nonce], reason))


def _take_out(line: Line, batch: dict[bytes, Query]) -> None:
    for key, query in batch.items():
        if line.in_flight.get(key) is query:
            del line.in_flight[key]
