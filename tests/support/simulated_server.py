"""Simulated embedding servers of different kinds, and a client that always has more to send to them."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from pg_qwen_embed.inference.limiter import Limiter

ON_THE_WAY = 0.001  # seconds of a request, and of its answer


@dataclass(frozen=True)
class Server:
    """`parallel` requests at once, each for `fixed` seconds plus `per_token` for each token; beyond `collapses` all get slower."""

    parallel: int
    fixed: float
    per_token: float
    collapses: int = 1000

    def seconds(self, tokens: float, in_flight: int) -> float:
        return (self.fixed + self.per_token * tokens) * (1 + 0.5 * max(0, in_flight - self.collapses))


@dataclass
class Simulation:
    """A client that always has more to send, `limit()` requests at a time, and a server that may become another."""

    server_at: Callable[[float], Server]
    limit: Callable[[], int]
    answered: Callable[[float, float], None]
    rng: random.Random
    events: list[tuple[float, int, Callable[[float, float], None], float]] = field(default_factory=list)
    order: "count[int]" = field(default_factory=count)
    queue: list[float] = field(default_factory=list)
    in_flight: int = 0
    busy: int = 0

    def run(self, seconds: float) -> None:
        self._send(0.0)
        while (event := heapq.heappop(self.events))[0] < seconds:
            now, _, happens, tokens = event
            happens(now, tokens)

    def _later(self, when: float, happens: Callable[[float, float], None], tokens: float) -> None:
        heapq.heappush(self.events, (when, next(self.order), happens, tokens))

    def _send(self, now: float) -> None:
        while self.in_flight < self.limit():
            self.in_flight += 1
            self._later(now + ON_THE_WAY * self.rng.uniform(0.5, 1.5), self._arrives, self.rng.uniform(3000, 10000))

    def _arrives(self, now: float, tokens: float) -> None:
        self.queue.append(tokens)
        self._start(now)

    def _start(self, now: float) -> None:
        server = self.server_at(now)
        while self.queue and self.busy < server.parallel:
            self.busy += 1
            tokens = self.queue.pop(0)
            duration = server.seconds(tokens, self.in_flight) * self.rng.uniform(0.9, 1.1)
            self._later(now + duration, self._done, tokens)

    def _done(self, now: float, tokens: float) -> None:
        self.busy -= 1
        self._start(now)
        self._later(now + ON_THE_WAY * self.rng.uniform(0.5, 1.5), self._comes_back, tokens)

    def _comes_back(self, now: float, tokens: float) -> None:
        self.in_flight -= 1
        self.answered(now, tokens)
        self._send(now)


def throughput(
    server_at: Callable[[float], Server], limiter: Limiter | None, fixed: int, *, seed: int, begin: float, end: float
) -> float:
    """Tokens per second from `begin` to `end`."""
    work = 0.0

    def answered(now: float, tokens: float) -> None:
        nonlocal work
        work += tokens if now >= begin else 0
        if limiter:
            limiter.answered(now, tokens, saturated=True)

    limit = (lambda: limiter.limit) if limiter else (lambda: fixed)
    Simulation(server_at, limit, answered, random.Random(seed)).run(end)
    return work / (end - begin)


FAST, SLOW = Server(1, 0.005, 5e-6), Server(8, 0.05, 1e-6)
