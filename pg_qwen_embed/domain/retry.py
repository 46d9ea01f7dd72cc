"""Turn failures into decisions: when to try again, and when to give up. Pure: the random number is passed in."""

import random
from dataclasses import dataclass

FIRST_PAUSE = 10.0  # seconds, and the shortest
LONGEST_PAUSE = 3600.0
ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class RetryAfter:
    seconds: float


@dataclass(frozen=True, slots=True)
class Park:
    """Not by itself any more: when the row changes, or on request."""


def decide(attempts: int, rng: random.Random) -> RetryAfter | Park:
    """What to do with a document that the server has refused so many times (1 or more)."""
    if attempts >= ATTEMPTS:
        return Park()
    return RetryAfter(FIRST_PAUSE + backoff(attempts, base=FIRST_PAUSE, cap=LONGEST_PAUSE, rng=rng))


def backoff(attempt: int, *, base: float, cap: float, rng: random.Random) -> float:
    """Seconds before attempt number `attempt` (from 1): exponential, capped, with full jitter.

    Full jitter spreads retries best (AWS Architecture Blog, "Exponential Backoff And Jitter")."""
    return rng.uniform(0, min(cap, base * 2 ** min(attempt - 1, 32)))
