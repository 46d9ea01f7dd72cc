"""A request is held back until the server is about to need it: the server stays busy, and its queue short."""

import random
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.inference.pacing import Pace

ON_THE_WAY = 0.001  # seconds


class Queue:
    """A server that works on one request at a time, with `limit` requests in flight, on a clock of its own.

    fixed, per_work: seconds of a request; noise: how much its time varies."""

    def __init__(self, limit: int, *, paced: bool, fixed: float, per_work: float, noise: float) -> None:
        self.limit, self.paced, self.pace = limit, paced, Pace()
        self.fixed, self.per_work, self.noise = fixed, per_work, noise
        self.rng = random.Random(0)
        self.in_flight: deque[tuple[int, float]] = deque()  # number, when its answer comes
        self.done_at = self.busy = self.now = 0.0
        self.waits: list[float] = []  # of a request that would come just after each of ours

    def send(self, number: int) -> None:
        work = self.rng.uniform(3000, 10_000)
        takes = (self.fixed + self.per_work * work) * self.rng.uniform(1 - self.noise, 1 + self.noise)
        arrives = self.now + ON_THE_WAY
        self.done_at = max(self.done_at, arrives) + takes
        self.busy += takes
        self.pace.sent(self.now, number, work)
        self.in_flight.append((number, self.done_at + ON_THE_WAY))
        self.waits.append(self.done_at - arrives)

    def run(self, requests: int) -> tuple[float, float]:
        """The share of the time it was busy, and the longest of the usual waits in its queue (9 of 10 are shorter)."""
        number = 0
        while number < requests:
            due = self.pace.due() if self.paced and len(self.in_flight) == self.limit - 1 > 0 else 0.0
            answer = self.in_flight[0][1] if self.in_flight else float("inf")
            if len(self.in_flight) < self.limit and max(due, self.now) <= answer:
                self.now = max(due, self.now)
                self.send(number)
                number += 1
            else:
                first, self.now = self.in_flight.popleft()
                self.pace.answered(self.now, first)
        return self.busy / self.done_at, sorted(self.waits)[int(0.9 * len(self.waits))]


def test_paced_server_stays_busy_and_a_request_that_comes_waits_half_as_long() -> None:
    shape = {"fixed": 0.005, "per_work": 6e-6, "noise": 0.05}
    busy, wait = Queue(2, paced=True, **shape).run(1000)
    busy_at_once, wait_at_once = Queue(2, paced=False, **shape).run(1000)
    assert busy_at_once > 0.99
    assert busy > 0.97
    assert wait < 0.7 * wait_at_once


def test_forecasts_that_are_far_off_hold_nothing_back() -> None:
    """Requests of 20 ms and of 200 ms in random order cannot be forecast: the server would wait."""
    busy, _ = Queue(2, paced=True, fixed=0.005, per_work=1e-5, noise=0.9).run(1000)
    assert busy > 0.95


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_next_request_is_never_held_back_without_another_in_flight(answers: list[tuple[float, float]]) -> None:
    pace, now = Pace(), 0.0
    for number, (took, work) in enumerate(answers):
        pace.sent(now, number, work)
        now += took
        pace.answered(now, number)
        assert pace.due() <= now


def test_forecast_of_how_many_requests_a_server_answers_counts_small_ones_as_the_average() -> None:
    pace = Pace()
    assert pace.within(0.02, 1000) == 1  # nothing is known
    for number in range(50):  # a millisecond each
        pace.sent(number / 1000, number, 1000)
        pace.answered((number + 1) / 1000, number)
    assert pace.within(0.0205, 1000) == 20
    assert pace.within(0.0205, 4000) == 5
    assert pace.within(0.0205, 10) == 20
