"""How long to wait before the next attempt. Pure: the random source is passed in."""

import random


def backoff(attempt: int, *, base: float, cap: float, rng: random.Random) -> float:
    """Seconds before attempt number `attempt` (from 1): exponential, capped, with full jitter.

    Full jitter spreads retries best (AWS Architecture Blog, "Exponential Backoff And Jitter")."""
    return rng.uniform(0, min(cap, base * 2 ** min(attempt - 1, 32)))
