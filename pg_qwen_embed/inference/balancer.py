"""The balancer: chooses the upstream of each request, and when the request may go.

All pipelines of a worker share the upstreams. Live changes go before a backfill. A request goes to the least loaded
upstream that has the embedding's model, within its concurrency limit. Each upstream has a few leases beyond that limit
for live changes, so none of them waits for a backfill's requests. The last request of a backfill is held back until the
server is about to need it, so that a live change does not queue behind it.

What is known of each upstream is kept in upstreams.py. The balancer sends nothing itself."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import count

from pg_qwen_embed.domain import retry
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import ModelMismatch, ServerOverloaded, ServerUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.model_info import Mismatch, ModelInfo
from pg_qwen_embed.inference.sglang import IDENTITY_CHECK_INTERVAL, EmbeddingServer
from pg_qwen_embed.inference.upstreams import BACKFILL, LIVE, Upstream, Upstreams, Waiter

FIRST_LOOK = 5.0  # seconds


class UpstreamGone(Exception):  # not an error: wait for another one
    """The last server that could have taken a waiting request has failed."""


class Lease:
    """The right to send one request to one upstream. longest: tokens that every server with the embedding's model takes."""

    def __init__(self, upstream: Upstream, info: ModelInfo, longest: int | None, clock: Callable[[], float]) -> None:
        self.upstream = upstream
        self.info = info
        self.longest = longest
        self.was_answered = False
        self._clock = clock

    @property
    def server(self) -> EmbeddingServer:
        return self.upstream.server

    def answered(self) -> None:
        self.was_answered = True

    def check(self) -> None:
        """To be called before each further part of a long request. Raises ModelMismatch if the model may have changed."""
        if self.upstream.breaker.info != self.info:
            raise ModelMismatch(f"the server at {self.server.url} may serve another model than before")
        self.upstream.heard(self._clock())

    def failed(self, error: ServerUnavailable) -> None:
        """The request failed, and the server is to blame."""
        if isinstance(error, ServerOverloaded):
            self.upstream.overloaded(self._clock(), error)
        elif self.upstream.breaker.info == self.info:  # else the server was probed since
            self.upstream.breaker.open(error)

    async def confirm(self, dimensions: int) -> bool:
        """Whether a rejection is the document's fault: the server has the same identity, and embeds a harmless text."""
        return await self.upstream.breaker.confirm(self.info, dimensions)


class Balancer:
    """`start` it; then `async with balancer.lease(...)` for each request."""

    def __init__(
        self,
        servers: Iterable[EmbeddingServer],
        *,
        most_requests: int,
        outage_timeout: float | None = None,
        once: bool = False,
        identity_check_interval: float = IDENTITY_CHECK_INTERVAL,
        changed: Callable[[], None] = lambda: None,
        runtime: Runtime,
    ) -> None:
        """most_requests: in flight at once on a server. outage_timeout: seconds without a server that has the model, before
        `lease` raises; None: never. once: a model that no server has is an error; else it is waited for.
        identity_check_interval: seconds between checks of a server's identity. changed: called when a server may have
        failed or returned."""
        self._upstreams = Upstreams(servers, most_requests, self._changed, identity_check_interval, runtime)
        self._runtime = runtime
        self._outage_timeout = outage_timeout
        self._once = once
        self._tell = changed
        self._waiting: list[Waiter] = []
        self._numbers = count()
        self._moved = asyncio.Event()
        self._looked = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._probing_again = asyncio.Lock()
        self._times_probed = 0

    def start(self, group: asyncio.TaskGroup) -> None:
        self._upstreams.start(group)
        group.create_task(self._look_first())

    async def _look_first(self) -> None:
        """No request goes before every server has answered its first probe; a server that hangs is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                while not all(upstream.breaker.known or upstream.breaker.reason for upstream in self._upstreams):
                    self._moved.clear()
                    await self._moved.wait()
        self._looked.set()

    def lacks(self, target: Target) -> ServerUnavailable | None:
        """Why a server does not answer, while none of those that do has the embedding's model; None if one has it."""
        self._upstreams.want(target)
        reasons = (upstream.breaker.reason for upstream in self._upstreams)
        return None if self.is_served(target) else next(filter(None, reasons), None)

    def mismatch(self, target: Target) -> Mismatch | None:
        """Why no server has the embedding's model; None if one has it, or has not said yet what it serves."""
        self._upstreams.want(target)
        known = [upstream.breaker.known for upstream in self._upstreams]
        found = [info.mismatch(target) for info in known if info is not None]
        return found[0] if len(found) == len(known) and all(found) else None

    @property
    def limit(self) -> int:
        """The concurrency limits of all servers together."""
        return sum(upstream.limiter.limit for upstream in self._upstreams)

    @asynccontextmanager
    async def lease(
        self, target: Target, *, live: bool, work: float, excluding: Iterable[Upstream] = ()
    ) -> AsyncIterator[Lease]:
        """Wait for a lease on a server that has the embedding's model, and hold it. The caller reports its answer.

        work: bytes of text in the request. excluding: upstreams to leave out, as long as there are others.
        Raises ServerUnavailable after the outage timeout, and with `once` ModelMismatch."""
        waiter = await self._wait(LIVE if live else BACKFILL, target, work, frozenset(excluding))
        lease, clock = waiter.lease.result(), self._runtime.clock
        try:
            yield lease
        finally:
            more = any(lease.upstream.serves(other.target) for other in self._waiting)
            lease.upstream.leave(waiter, clock(), answered=lease.was_answered, more=more)
            self._admit()

    async def _wait(self, kind: int, target: Target, work: float, excluding: frozenset[Upstream]) -> Waiter:
        number = next(self._numbers)
        while True:
            await self._served(target)
            if not self.is_served(target, excluding):
                excluding = frozenset()
            waiter = Waiter(kind, number, target, work, excluding, asyncio.get_running_loop().create_future())
            heapq.heappush(self._waiting, waiter)
            self._admit()
            try:
                await waiter.lease
            except UpstreamGone:
                continue
            except asyncio.CancelledError:
                self._give_back(waiter)
                raise
            return waiter

    def _give_back(self, waiter: Waiter) -> None:
        """Return the lease of a waiter that was cancelled after it was admitted."""
        if waiter.lease.done() and not waiter.lease.cancelled() and not waiter.lease.exception():
            waiter.lease.result().upstream.leave(waiter, 0.0, answered=False, more=False)
            self._admit()

    # Admission.

    def _admit(self) -> None:
        now = self._runtime.clock()
        passed_over = []
        while self._waiting and self._is_open(self._waiting[0].kind, now):
            waiter = heapq.heappop(self._waiting)
            if waiter.lease.done():
                continue
            upstream = self._best(waiter, now)
            if upstream is None or upstream.breaker.info is None:
                passed_over.append(waiter)
                continue
            upstream.take(waiter, now)
            waiter.lease.set_result(
                Lease(upstream, upstream.breaker.info, self._longest(waiter.target), self._runtime.clock)
            )
        for waiter in passed_over:
            heapq.heappush(self._waiting, waiter)
        self._admit_later(now)

    def _is_open(self, kind: int, now: float) -> bool:
        rooms = (upstream.has_room_at(kind) for upstream in self._upstreams)
        return any(room is not None and room <= now for room in rooms)

    def _best(self, waiter: Waiter, now: float) -> Upstream | None:
        fitting = [one for one in self._upstreams if one not in waiter.excluding and one.serves(waiter.target)]
        rooms = [(upstream, upstream.has_room_at(waiter.kind)) for upstream in fitting]
        free = [upstream for upstream, room in rooms if room is not None and room <= now]
        return min(free, key=lambda upstream: upstream.load, default=None)

    def _longest(self, target: Target) -> int | None:
        """The shortest limit of all servers with the model: otherwise a vector would depend on which server was free."""
        fitting = (upstream.breaker.known for upstream in self._upstreams if upstream.fits(target))
        return min((info.longest for info in fitting if info and info.longest is not None), default=None)

    def _admit_later(self, now: float) -> None:
        """Admit again when the pace of a server allows it."""
        if self._later:
            self._later.cancel()
            self._later = None
        if self._waiting:
            rooms = (upstream.has_room_at(BACKFILL) for upstream in self._upstreams)
            due = min((room for room in rooms if room is not None and room > now), default=None)
            if due is not None:
                self._later = asyncio.get_running_loop().call_later(due - now, self._admit)

    def _changed(self) -> None:
        """A server came or went. A request that waits for one that went must look for another."""
        self._moved.set()
        for waiter in self._waiting:
            if not waiter.lease.done() and not self.is_served(waiter.target, waiter.excluding):
                waiter.lease.set_exception(UpstreamGone)
        self._admit()
        self._tell()

    # Which servers there are.

    def is_served(self, target: Target, excluding: Iterable[Upstream] = ()) -> bool:
        """Whether a server has the embedding's model and answers, those in `excluding` left out."""
        return any(upstream.serves(target) for upstream in self._upstreams if upstream not in excluding)

    async def _served(self, target: Target) -> None:
        """Wait until a server has the embedding's model. Raises ServerUnavailable after the outage timeout."""
        outage_ends = None if self._outage_timeout is None else self._runtime.clock() + self._outage_timeout
        await self._looked.wait()
        for attempt in count(1):
            self._upstreams.want(target)
            if self.is_served(target):
                self._raise_if_only_probes_are_answered(target)
                return
            if all(upstream.breaker.info is not None for upstream in self._upstreams):
                await self._ask_again(target, attempt)
            else:
                await self._move(outage_ends)

    def _raise_if_only_probes_are_answered(self, target: Target) -> None:
        now = self._runtime.clock()
        troubles = [upstream.breaker.trouble for upstream in self._upstreams if upstream.serves(target)]
        since = [trouble.since for trouble in troubles if trouble is not None]
        if self._outage_timeout is not None and len(since) == len(troubles) and now - max(since) > self._outage_timeout:
            raise next(trouble.reason for trouble in troubles if trouble is not None)

    async def _move(self, outage_ends: float | None) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(None if outage_ends is None else outage_ends - self._runtime.clock()):
                await self._moved.wait()
        except TimeoutError:
            reasons = (upstream.breaker.reason for upstream in self._upstreams)
            raise next(filter(None, reasons), ServerUnavailable("the embedding server has not answered yet")) from None

    async def _ask_again(self, target: Target, attempt: int) -> None:
        """Every server has another model: probe them again, as one may have been restarted. Once for all that wait."""
        if self._once:
            raise ModelMismatch(str(self.mismatch(target)))
        times_probed = self._times_probed
        async with self._probing_again:
            if self._times_probed != times_probed:  # another waiter has probed meanwhile
                return
            await asyncio.sleep(retry.backoff(attempt, base=0.5, cap=5.0, rng=self._runtime.rng))
            known = [(upstream.breaker, upstream.breaker.info) for upstream in self._upstreams]
            self._times_probed += 1
            await asyncio.gather(*(breaker.ask_again(info) for breaker, info in known if info is not None))
