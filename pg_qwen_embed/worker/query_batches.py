"""Batches of queries: from requests that were read to answers that are written.

Queries of one generation wait while enough of its batches are in flight; the next batch takes all of them, up to a bound.
An error becomes the answer of each session that asked for the query."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.domain import events
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
MOST_BATCHES = 4  # in flight for one generation
LONGEST = 10.0  # seconds that a batch may take
TELL_AGAIN = 10.0  # seconds until the same failure is reported again

BLANK = "the query is blank: there is nothing to search for"
CHANGED = "its instruction has just changed; run the statement again"
SLOW = f"the embedding server has not answered for {LONGEST:.0f} s"


@dataclass(slots=True)
class Query:
    """A query that is to be embedded. nonces: of the requests that wait for it."""

    target: Target
    instruction: str
    text: str
    nonces: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Line:
    """The queries of one generation, by key."""

    waiting: dict[bytes, Query] = field(default_factory=dict)
    in_flight: dict[bytes, Query] = field(default_factory=dict)
    batches: int = 0


class QueryBatches:
    """`start` it in a task group, then `add` requests. answered: how many queries it has answered."""

    def __init__(self, connection: AsyncConnection, balancer: Balancer, runtime: Runtime) -> None:
        self._connection = connection
        self._balancer = balancer
        self._runtime = runtime
        self._lines: dict[int, Line] = {}
        self._instructions: dict[int, str] = {}
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
                self._spawn_refusal(request, CHANGED)
            elif not request.text.strip():
                self._spawn_refusal(request, BLANK)
            else:
                self._queue(target, request)
        for line in list(self._lines.values()):
            self._dispatch(line)

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
            await self._answer(batch)
        finally:
            for key in batch:
                line.in_flight.pop(key, None)
            line.batches -= 1
        self._dispatch(line)

    async def _answer(self, batch: dict[bytes, Query]) -> None:
        """Embed the queries of a batch, and write their vectors or why they have none."""
        self.answered += len(batch)
        began, asked = self._runtime.clock(), list(batch.values())
        target = asked[0].target
        try:
            async with asyncio.timeout(LONGEST):
                vectors = await self._embedded(target, asked)
        except DocumentRejected as error:
            if len(batch) > 1:  # one of them is at fault
                for key, query in batch.items():
                    await self._answer({key: query})
                return
            await self._refuse(batch.values(), f"the embedding server rejects the query: {error}")
        except ServerUnavailable as error:
            await self._refuse(batch.values(), str(error))
        except TimeoutError:
            await self._refuse(batch.values(), self._balancer.why_not_served(target) or SLOW)
        else:
            await queries.write_vectors(self._connection, target.id, list(batch), vectors)
            waiting, seconds = sum(len(query.nonces) for query in asked), self._runtime.clock() - began
            self._runtime.events.emit(events.QueriesAnswered(target.name, len(batch), waiting, seconds))

    async def _embedded(self, target: Target, asked: Sequence[Query]) -> Vectors:
        """Their vectors, from another server where one fails. Raises ServerUnavailable, DocumentRejected."""
        failed: set[Upstream] = set()
        while True:
            if reason := self._balancer.why_not_served(target):
                raise ServerUnavailable(reason)
            work = sum(len(query.text.encode()) for query in asked)
            async with self._balancer.lease(target, live=True, work=work, excluding=failed) as lease:
                try:
                    texts = [query.text for query in asked]
                    vectors = await Encoder(lease).queries(target, asked[0].instruction, texts)
                except ServerUnavailable as error:
                    lease.failed(error)
                    failed.add(lease.upstream)
                    if not self._balancer.is_served(target, failed):
                        raise
                else:
                    lease.answered()
                    return vectors

    async def _refuse(self, asked: Iterable[Query], reason: str) -> None:
        """Answer with a reason; the same one is reported once in a while."""
        asked, reason = list(asked), shown(reason)
        await queries.write_errors(self._connection, [nonce for query in asked for nonce in query.nonces], reason)
        name, now = asked[0].target.name, self._runtime.clock()
        said, when = self._told.get(name, ("", 0.0))
        if said != reason or now - when >= TELL_AGAIN:
            self._told[name] = reason, now
            self._runtime.events.emit(events.QueriesFailed(name, len(asked), reason))

    def _spawn_refusal(self, request: QueryRequest, reason: str) -> None:
        self._group.create_task(queries.write_errors(self._connection, [request.nonce], reason))
