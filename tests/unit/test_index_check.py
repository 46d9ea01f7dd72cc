"""What a check of an index counts, which width it takes, and which queries it makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import HNSW, Index, IndexKind, check, parse, plan_build
from pg_qwen_embed.domain.index_check import Point, apart, enough, matches, turned, widths
from pg_qwen_embed.domain.vectors import normalise

distances = st.lists(st.floats(0, 2, allow_nan=False), max_size=12).map(sorted)


@pytest.mark.parametrize(
    ("exact", "found", "count"),
    [
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], 3),
        ([0.1, 0.2, 0.3], [0.2, 0.3, 0.4], 2),
        ([0.1, 0.9, 0.9], [0.9, 0.9, 0.9], 2),  # many at one distance do not hide that a nearer one is missing
        ([0.5, 0.5], [0.5], 1),
        ([0.1], [], 0),
        ([], [0.1], 0),
    ],
)
def test_distances_are_matched_each_once(exact: list[float], found: list[float], count: int) -> None:
    assert matches(exact, found) == count


@given(distances, distances)
def test_no_more_is_matched_than_there_is(exact: list[float], found: list[float]) -> None:
    assert matches(exact, found) <= min(len(exact), len(found))
    assert matches(exact, exact) == len(exact)


def points(*recalls: float) -> list[Point]:
    return [Point(width, recall, 1.0, 2.0) for width, recall in zip(widths(HNSW), recalls, strict=False)]


@pytest.mark.parametrize(
    ("recalls", "width"),
    [
        ((0.9, 0.97, 0.98, 0.99), 40),
        ((0.98, 0.9, 0.99), 10),
        ((0.5, 0.8, 0.9495, 0.95, 0.95), 40),  # none finds enough: the narrowest that finds about as much as any
        ((0.5, 0.6), 20),
    ],
)
def test_the_narrowest_search_that_is_enough_is_taken(recalls: tuple[float, ...], width: int) -> None:
    assert enough(points(*recalls), 0.98).width == width


def test_vectors_that_are_unlike_the_many_are_looked_for_first() -> None:
    rng = np.random.default_rng(3)
    many = normalise(np.ones((2000, 8), np.float32) + 1e-3 * rng.standard_normal((2000, 8), dtype=np.float32))
    few = normalise(rng.standard_normal((4, 8), dtype=np.float32))
    found = apart(np.concatenate([many, few]), 10)
    assert {2000, 2001, 2002, 2003} <= set(found)
    assert len(set(found)) == 10


def test_queries_are_turned_away_from_stored_vectors() -> None:
    rng = np.random.default_rng(3)
    vectors = normalise(rng.standard_normal((50, 64), dtype=np.float32))
    queries = turned(vectors, rng)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    assert abs(float(np.mean(np.sum(vectors * queries, axis=1))) - 0.9) < 0.05


@pytest.mark.parametrize("text", ["hnsw", "hnsw-binary", "hnsw-prefix:512", "ivfflat", "none", "hnsw:m=8,ef_construction=32",
                                  "hnsw-prefix:64,m=4", "ivfflat:lists=100"])  # fmt: skip
def test_an_index_is_written_as_it_is_read(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "dimensions", "fits"),
    [
        ("hnsw", 4000, True), ("hnsw", 4001, False), ("ivfflat", 4001, False), ("hnsw-binary", 16000, True),
        ("hnsw-binary", 16001, False), ("none", 16000, True), ("hnsw", 0, False), ("hnsw-prefix:512", 512, True),
        ("hnsw-prefix:513", 512, False), ("hnsw-prefix:4001", 8000, False), ("hnsw:m=40", 512, False),
    ],
)  # fmt: skip
def test_vectors_fit_the_index(text: str, dimensions: int, fits: bool) -> None:
    if fits:
        check(parse(text), dimensions)
        return
    with pytest.raises(UsageError):
        check(parse(text), dimensions)


@given(
    st.sampled_from(IndexKind), st.integers(1, 16000), st.integers(0, 10**9), st.integers(0, 10**6), st.integers(1, 256)
)
def test_a_build_takes_no_more_than_the_server_has(
    kind: IndexKind, dimensions: int, vectors: int, shared: int, cpus: int
) -> None:
    plan = plan_build(Index(kind), dimensions, vectors, shared_buffers=shared, configured=64, cpus=cpus)
    assert 64 <= plan.memory <= max(256, shared)
    assert 0 <= plan.workers <= min(4, cpus)
