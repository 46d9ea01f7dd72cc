"""What a sample says of a figure and of a difference: intervals, and which differences it can show. Pure; randomness is passed in.

Two configurations answer the same questions, so differences are paired: the difference of each question is one observation.
Intervals are those of the bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). A second method, the
randomisation of signs, asks how often chance alone makes a difference as large (Smucker, Allan and Carterette, "A comparison of
statistical significance tests for information retrieval evaluation", 2007). A difference counts as seen where both agree."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]  # one for each question

SAMPLES = 2_000  # of the bootstrap, and of the randomisation
LEVEL = 0.95  # of the intervals
FEWEST = 10  # questions by which a variant is judged; with fewer, nothing is recommended
_AT_ONCE = 4_000_000  # numbers drawn at once
_SEEN = 1.96  # standard errors: the edge of an interval of 95 %
_POWER = 0.84  # further ones, so that a difference is seen in 80 % of samples


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its interval."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one configuration is than another on the same questions.

    p: how often chance alone makes a difference as large. smallest: the difference that four of five such samples show.
    needed: questions with which four of five samples show a difference as large as this one; None: there is none."""

    estimate: Estimate
    p: float
    questions: int
    smallest: float
    needed: int | None

    @property
    def is_seen(self) -> bool:
        return not self.estimate.holds_zero and self.p < 1 - LEVEL

    @property
    def is_better(self) -> bool:
        return self.is_seen and self.estimate.mean > 0


def estimate(scores: Scores, rng: np.random.Generator) -> Estimate:
    """The mean and its interval by the bootstrap, of percentiles."""
    means = _resampled(scores, rng)
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(float(scores.mean()), float(low), float(high))


def randomised(differences: Scores, rng: np.random.Generator) -> float:
    """How often the mean is as far from 0 where each difference has its sign by chance. Both ends count."""
    own = abs(float(differences.sum()))
    kept = differences[differences != 0]
    if not len(kept):
        return 1.0
    reached = 0
    for count in _batches(len(kept)):
        positive = rng.integers(0, 2, (count, len(kept)), dtype=np.int8).astype(np.float64) @ kept
        reached += int((np.abs(2 * positive - kept.sum()) >= own - 1e-9).sum())
    return (reached + 1) / (SAMPLES + 1)


def compare(before: Scores, after: Scores, rng: np.random.Generator) -> Difference:
    """The difference of two configurations: after less before, question by question."""
    differences = after - before
    found = estimate(differences, rng)
    smallest = smallest_shown(differences)
    needed = None
    if found.mean and smallest:
        needed = max(1, math.ceil(len(differences) * (smallest / found.mean) ** 2))
    return Difference(found, randomised(differences, rng), len(differences), smallest, needed)


def smallest_shown(differences: Scores) -> float:
    """The smallest difference that four of five samples like this one show.

    0 where all differences are equal: the sample does not tell."""
    if len(differences) < 2:
        return 0.0
    return (_SEEN + _POWER) * float(differences.std(ddof=1)) / math.sqrt(len(differences))


def halves(questions: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The questions by which one of several is chosen, and those by which it is judged afterwards.

    The best of several on one sample is better there than elsewhere: it was chosen for it."""
    order = rng.permutation(questions)
    half = questions // 2
    return np.sort(order[:half]), np.sort(order[half:])


def _resampled(scores: Scores, rng: np.random.Generator) -> Scores:
    size = len(scores)
    means = [scores[rng.integers(0, size, (count, size), dtype=np.int32)].mean(axis=1) for count in _batches(size)]
    return np.concatenate(means)


def _batches(size: int) -> list[int]:
    """How many samples are drawn at once, so that memory stays bounded."""
    each = max(1, min(SAMPLES, _AT_ONCE // max(1, size)))
    return [min(each, SAMPLES - begin) for begin in range(0, SAMPLES, each)]
