"""The upstreams: the embedding servers as the balancer sees them, one for each model of a server that offers several.

An upstream knows our requests in flight; whether its server answers is decided in breaker.py, how many requests it takes
in limiter.py, and when it will need the next one in pacing.py. Which upstream gets a request is left to the balancer."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import ServerOverloaded, ServerUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.breaker import Breaker
from pg_qwen_embed.inference.limiter import Limiter
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.pacing import Pace
from pg_qwen_embed.inference.sglang import EmbeddingServer

AHEAD = 0.02  # seconds of a backfill's work that a server has at least: with less, one that is faster than our loop would be idle
MOST_AHEAD = 8  # requests, at most, for AHEAD
RESERVED = 2  # leases beyond the limit of a server, for live changes
STALLED = 2.0  # seconds without an answer
LIVE, BACKFILL = 0, 1  # which requests go first


@dataclass(frozen=True, slots=True, order=True)
class Waiter:
    """A request that waits for a lease."""

    kind: int
    number: int
    target: Target = field(compare=False)
    work: float = field(compare=False)
    excluding: "frozenset[Upstream]" = field(compare=False)
    lease: "asyncio.Future[Any]" = field(compare=False)


class Upstream:
    """One server as the balancer sees it: whether it answers, what it serves, and our requests in flight."""

    def __init__(self, server: EmbeddingServer, breaker: Breaker, limiter: Limiter) -> None:
        self.server = server
        self.breaker = breaker
        self.limiter = limiter
        self._pace = Pace()
        self._in_flight = [0, 0]  # live, backfill
        self._answered = 0.0  # when it last answered
        self._judged: tuple[ModelInfo | None, dict[int, bool]] = (None, {})  # which generations it has the model of

    @property
    def model(self) -> str | None:
        """The name of its model, when it was last known."""
        return self.breaker.known.model if self.breaker.known else None

    @property
    def busy(self) -> int:
        return sum(self._in_flight)

    @property
    def load(self) -> float:
        return self.busy / self.limiter.limit

    def fits(self, target: Target) -> bool:
        """Whether the server has the embedding's model, or had it when it last answered."""
        info = self.breaker.known
        if info is not self._judged[0]:
            self._judged = info, {}
        judged, id_ = self._judged[1], target.id
        if id_ not in judged:
            judged[id_] = info is not None and info.mismatch(target) is None
        return judged[id_]

    def serves(self, target: Target) -> bool:
        return self.breaker.info is not None and self.fits(target)

    def heard(self, now: float) -> None:
        """The server is alive."""
        self._answered = now

    def has_room_at(self, kind: int) -> float | None:
        """The time from which it takes one more request of this kind; None: not before something changes."""
        spare = self.limiter.limit - self.busy
        if kind == LIVE and self.busy < self.limiter.highest:
            return 0.0 if spare > 0 or self._in_flight[LIVE] < RESERVED else None
        if spare <= 0:
            return None
        return self._pace.due() if spare == 1 < self.limiter.limit else 0.0

    def take(self, waiter: Waiter, now: float) -> None:
        if not self.busy:  # no request has waited for an answer until now
            self._answered = now
        self._in_flight[waiter.kind] += 1
        self._pace.sent(now, waiter.number, waiter.work)

    def leave(self, waiter: Waiter, now: float, *, answered: bool, more: bool) -> None:
        """The request has ended. more: other requests wait for this upstream."""
        self._in_flight[waiter.kind] -= 1
        if answered:
            self._pace.answered(now, waiter.number)
            # Only in a backfill: live requests are small, and do not tell how long a backfill's take.
            ahead = self._pace.within(AHEAD, waiter.work) if self._in_flight[BACKFILL] else 1
            self.limiter.keep(now, min(MOST_AHEAD, ahead))
            self.limiter.answered(now, waiter.work, saturated=more)
            self._answered = now
            self.breaker.worked()
        else:
            self._pace.dropped(waiter.number)

    def overloaded(self, now: float, error: ServerUnavailable) -> None:
        """The server has more than it takes. It is unavailable if this request was alone, or if none was answered for a while."""
        self.limiter.overloaded(now)
        told = isinstance(error, ServerOverloaded) and error.retry_after is not None
        if told or self.busy == 1 or now - self._answered > STALLED:
            self.breaker.open(error)


class Upstreams:
    """Iterable. `start` it in a task group; `want` a target before its upstream is looked for."""

    def __init__(
        self, servers: Iterable[EmbeddingServer], most_requests: int, changed: Callable[[], None],
        identity_check_interval: float, runtime: Runtime,
    ) -> None:  # fmt: skip
        self._most_requests = most_requests
        self._changed = changed
        self._identity_check_interval = identity_check_interval
        self._runtime = runtime
        self._group: asyncio.TaskGroup | None = None
        self._all = [self._of(server, None) for server in servers]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._all)

    def _of(self, server: EmbeddingServer, model: str | None) -> Upstream:
        breaker = Breaker(server, self._changed, self._identity_check_interval, self._runtime, model)
        return Upstream(server, breaker, Limiter(highest=self._most_requests))

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        for upstream in self._all:
            self._start(group, upstream)

    def _start(self, group: asyncio.TaskGroup, upstream: Upstream) -> None:
        group.create_task(upstream.breaker.run())
        group.create_task(upstream.breaker.watch())

    def want(self, target: Target) -> None:
        """See to it that each server that offers several models, or lists none, is probed for the one of this target."""
        model = target.spec.model
        for server in {upstream.server for upstream in self._all if upstream.server.offers_several}:
            own = [upstream for upstream in self._all if upstream.server is server]
            if any(model in (upstream.breaker.wanted, upstream.model) for upstream in own):
                continue
            free = next((upstream for upstream in own if upstream.breaker.wanted is None and not upstream.model), None)
            if free:
                free.breaker.wanted = model
            elif self._group and (model in server.listed or not server.listed):
                self._all.append(self._of(server, model))
                self._start(self._group, self._all[-1])
