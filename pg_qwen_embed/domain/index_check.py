"""What an index finds of what exact search finds, and the width of search that is enough. Pure; randomness is passed in.

Queries that nobody has are made of stored vectors: each is turned away from its own by a random angle (cosine 0.9). A stored
vector itself would be too easy, because the graph was built around it. These are easier than queries that were never stored too:
their recall is up to 0.014 higher (benchmarks/indexes.py prints both).

A recall says nothing of rows that few queries are near to: rows apart from many that are nearly identical can be missing from
all paths of a graph. So vectors that are far from each other are looked for by themselves, too."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.index import Index, IndexKind
from pg_qwen_embed.domain.vectors import Vectors, normalise

COSINE = 0.9  # of a made-up query and the stored vector that it is made of
EQUAL = 1e-6  # distances that differ by less are one
ITSELF = 1e-5  # how far a vector may be from itself, after rounding
DEFAULT_RECALL = 0.98
AUTOMATIC_RECALL = 0.995  # of the worker's few made-up queries: so that it is above 0.98 for others
AS_GOOD = 0.002  # of recall: a width that finds so much less than the widest is taken where none finds enough

_EF_SEARCH = (10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
_PROBES = (1, 2, 5, 10, 20, 40, 80, 160, 320)


@dataclass(frozen=True, slots=True)
class Point:
    """What searches of one width found, and the milliseconds that they took."""

    width: int
    recall: float
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class IndexCheck:
    """What was measured. width: the one that is recorded: ef_search, or probes of an ivfflat index.

    not_found: of the vectors that were looked for by themselves, those that such a search does not find."""

    points: tuple[Point, ...]
    exact: Point  # width 0
    wanted: float
    k: int
    queries: int
    width: int
    recall: float
    looked_for: int
    not_found: int

    @property
    def reached(self) -> bool:
        return self.recall >= self.wanted


def widths(index: Index) -> tuple[int, ...]:
    """Those that are tried, in their order."""
    if index.kind is not IndexKind.IVFFLAT:
        return _EF_SEARCH
    return tuple(n for n in _PROBES if index.lists is None or n <= 2 * index.lists)


def matches(exact: Sequence[float], found: Sequence[float]) -> int:
    """How many of the exact distances were found. Both are sorted. Rows at one distance stand for each other."""
    count = position = 0
    for distance in exact:
        while position < len(found) and found[position] < distance - EQUAL:
            position += 1
        if position < len(found) and found[position] <= distance + EQUAL:
            count += 1
            position += 1
    return count


def point(width: int, found: int, possible: int, milliseconds: Sequence[float]) -> Point:
    """The point of these searches. possible: how many rows exact searches found."""
    recall = found / possible if possible else 1.0
    p95 = statistics.quantiles(milliseconds, n=20)[-1] if len(milliseconds) > 1 else milliseconds[0]
    return Point(width, recall, statistics.median(milliseconds), p95)


def enough(points: Sequence[Point], wanted: float) -> Point:
    """The narrowest search that finds as much as is wanted; else the narrowest that finds about as much as any."""
    for one in points:
        if one.recall >= wanted:
            return one
    best = max(one.recall for one in points)
    return next(one for one in points if one.recall >= best - AS_GOOD)


def apart(vectors: Vectors, count: int) -> list[int]:
    """vectors: of length 1. The numbers of vectors that are far from each other: each is the farthest from those before it.

    So the few that are unlike the many come first (Gonzalez, "Clustering to minimize the maximum intercluster distance",
    1985)."""
    chosen: list[int] = []
    nearest = np.full(len(vectors), -np.inf, np.float32)  # similarity to the nearest chosen one
    for _ in range(min(count, len(vectors))):
        last = int(np.argmin(nearest))
        chosen.append(last)
        nearest = np.maximum(nearest, vectors @ vectors[last])
        nearest[chosen] = np.inf
    return chosen


def turned(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    """Each vector, turned by a random angle."""
    noise = normalise(rng.standard_normal(vectors.shape, dtype=np.float32))
    weight = np.float32((1 / COSINE**2 - 1) ** 0.5)
    queries: NDArray[np.float32] = normalise(normalise(vectors) + weight * noise)
    return queries
