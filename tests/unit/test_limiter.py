"""The concurrency limit: how it climbs, how it reacts to overload, and what does not change it.

tests/integration/test_simulated_servers.py measures it against the best fixed number, for servers of many shapes."""

from itertools import pairwise

import pytest
from simulated_server import FAST, SLOW, Server, throughput

from pg_qwen_embed.inference.limiter import CALM, COOLING, SHORTEST, Limiter


@pytest.mark.parametrize(("server", "best"), [(FAST, 2), (SLOW, 9)])
def test_limiter_comes_near_the_best_fixed_number(server: Server, best: int) -> None:
    expected = throughput(lambda _: server, None, best, seed=0, begin=5, end=15)
    assert throughput(lambda _: server, Limiter(), 0, seed=0, begin=5, end=15) >= 0.9 * expected


def test_limiter_keeps_no_more_in_flight_than_a_server_of_one_at_a_time_needs() -> None:
    limiter = Limiter()
    throughput(lambda _: FAST, limiter, 0, seed=0, begin=0, end=20)
    assert limiter.limit <= 3


def test_overload_halves_the_number_once_and_it_comes_back() -> None:
    limiter = Limiter(limit=32)
    for _ in range(5):  # for requests that were sent before
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
