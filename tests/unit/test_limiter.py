"""The number of requests in flight, found on simulated servers of different shape: within 5 % of the best fixed number."""

import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest

from pg_qwen_embed.inference.limiter import CALM, COOLING, SHORTEST, Limiter

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32, 48, 64)
ON_THE_WAY = 0.001  # seconds of a request, and of its answer


@dataclass(frozen=True)
class Server:
    """`parallel` requests at once, each for `fixed` seconds and `per_token` more; beyond `collapses` all get slower."""

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
    """Tokens a second from `begin` to `end`."""
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
SHAPES: dict[str, tuple[Callable[[float], Server], float]] = {
    "fast and one at a time": (lambda _: FAST, 5),
    "slow and eight at a time": (lambda _: SLOW, 5),
    "large texts, four at a time": (lambda _: Server(4, 0.4, 20e-6), 15),
    "wide": (lambda _: Server(32, 0.02, 1e-6), 5),
    "collapses beyond ten": (lambda _: Server(6, 0.03, 1e-6, collapses=10), 5),
    "becomes slow and wide": (lambda now: FAST if now < 15 else SLOW, 22),
    "becomes fast and narrow": (lambda now: SLOW if now < 15 else FAST, 22),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_limiter_comes_within_five_percent_of_the_best_fixed_number(shape: str) -> None:
    server_at, begin = SHAPES[shape]
    end = begin + 25
    best = max(throughput(server_at, None, n, seed=0, begin=begin, end=end) for n in NUMBERS)
    shares = [throughput(server_at, Limiter(), 0, seed=n, begin=begin, end=end) / best for n in range(5)]
    assert statistics.median(shares) >= 0.95, shares
    assert min(shares) >= 0.9, shares


def test_limiter_keeps_no_more_in_flight_than_a_server_of_one_at_a_time_needs() -> None:
    limiter = Limiter()
    throughput(lambda _: FAST, limiter, 0, seed=0, begin=0, end=20)
    assert limiter.limit <= 3


def test_overload_halves_the_number_once_and_it_comes_back() -> None:
    limiter = Limiter(limit=32)
    for _ in range(5):  # of requests that were sent before
        limiter.overloaded(10.0)
    assert limiter.limit == 16
    limiter.overloaded(10.0 + SHORTEST)
    assert limiter.limit == 8
    now = 10.5
    while limiter.limit == 8:
        now += 0.01
        limiter.answered(now, 100.0, saturated=True)
    assert COOLING <= now - 10 - SHORTEST < 3 * COOLING


def test_server_that_is_overloaded_whenever_the_number_is_raised_is_asked_for_more_less_and_less_often() -> None:
    limiter, now, raised = Limiter(), 0.0, []
    while now < 120:
        now += 0.01
        if limiter.limit > 8:
            raised.append(now)
            limiter.overloaded(now)
        else:
            limiter.answered(now, 100.0 * limiter.limit, saturated=True)
    pauses = [after - before for before, after in pairwise(raised)]
    assert 4 < len(raised) < 20
    assert min(pauses[4:]) > 4 * pauses[0]


def test_limiter_learns_nothing_while_there_is_little_to_do() -> None:
    limiter = Limiter()
    for n in range(1000):
        limiter.answered(n / 100, 10.0, saturated=False)
    assert limiter.limit == Limiter().limit


def test_limiter_keeps_as_many_as_it_is_told_unless_they_overload_the_server() -> None:
    limiter = Limiter()
    limiter.keep(0.0, 8)
    kept = []
    for n in range(3000):  # more of them gain nothing
        limiter.answered(n / 100, 100.0, saturated=True)
        kept.append(limiter.limit)
    assert min(kept) == 8
    limiter.overloaded(30.0)
    limiter.keep(30.0 + CALM / 2, 8)
    found = limiter.limit
    assert found < 8
    limiter.keep(30.0 + CALM, 8)
    assert limiter.limit == 8
    limiter.keep(91.0, 5)  # about the same
    assert limiter.limit == 8
    limiter.keep(92.0, 1)
    assert limiter.limit == found


def test_limiter_never_keeps_more_than_may_be_in_flight() -> None:
    limiter = Limiter(highest=3)
    limiter.keep(0.0, 8)
    assert limiter.limit == 3


def test_number_that_gained_in_one_lucky_stretch_is_given_up_again() -> None:
    limiter, now = Limiter(), 0.0
    for n in range(100):
        now += 0.05 if n < 10 else 0.045  # whatever the number
        limiter.answered(now, 100.0, saturated=True)
    assert limiter.limit <= 3
