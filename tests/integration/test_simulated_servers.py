"""The number of requests in flight, found on simulated servers of different shape: within 5 % of the best fixed number."""

import statistics
from collections.abc import Callable

import pytest
from simulated_server import FAST, SLOW, Server, throughput

from pg_qwen_embed.inference.limiter import Limiter

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32, 48, 64)
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
@pytest.mark.long
def test_limiter_comes_within_five_percent_of_the_best_fixed_number(shape: str) -> None:
    server_at, begin = SHAPES[shape]
    end = begin + 25
    best = max(throughput(server_at, None, n, seed=0, begin=begin, end=end) for n in NUMBERS)
    shares = [throughput(server_at, Limiter(), 0, seed=n, begin=begin, end=end) / best for n in range(5)]
    assert statistics.median(shares) >= 0.95, shares
    assert min(shares) >= 0.9, shares
