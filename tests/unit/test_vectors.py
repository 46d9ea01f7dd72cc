"""Vectors: PostgreSQL reads the arrays we write, and nothing is believed that is no vector."""

from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pytest
from harness import Cluster
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pg_qwen_embed.domain import vectors
from pg_qwen_embed.domain.errors import ServerFault
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary
from pg_qwen_embed.postgres.connection import BinaryValue, Connection, connect

halves = st.floats(-60000, 60000, width=16)
matrices = st.tuples(st.integers(0, 5), st.integers(1, 40)).flatmap(
    lambda shape: npst.arrays(np.float32, shape, elements=halves)
)


@pytest.fixture(scope="module", params=[16, 18])
def connection(request: pytest.FixtureRequest, clusters: Callable[[int], Cluster]) -> Iterator[Connection]:
    with clusters(request.param).database() as url, connect(url, "test") as connection:
        yield connection


def fetched(connection: psycopg.Connection[tuple[object]], query: str, value: bytes) -> object:
    (found,) = connection.execute(query, [BinaryValue(value)]).fetchone() or ()
    return found


def test_integers_arrive_as_they_were_sent(connection: Connection) -> None:
    @given(st.lists(st.integers(-(2**63), 2**63 - 1)))
    def check(values: list[int]) -> None:
        assert fetched(connection, "SELECT %b::bigint[]", binary.int8_array(values)) == values

    check()


def test_booleans_arrive_as_they_were_sent(connection: Connection) -> None:
    @given(st.lists(st.booleans()))
    def check(values: list[bool]) -> None:
        assert fetched(connection, "SELECT %b::boolean[]", binary.bool_array(values)) == values

    check()


def test_bytes_arrive_as_they_were_sent(connection: Connection) -> None:
    @given(st.integers(0, 20).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size))))
    def check(values: list[bytes]) -> None:
        assert fetched(connection, "SELECT %b::bytea[]", binary.bytea_array(values)) == values

    check()


def test_half_vectors_arrive_as_they_were_sent(connection: Connection) -> None:
    (oid,) = connection.execute("SELECT 'halfvec'::regtype::oid").fetchone() or ()

    @given(matrices, st.lists(st.integers(0, 5), max_size=3))
    def check(values: Vectors, truncated: list[int]) -> None:
        query = "SELECT array_agg(v::real[]) FROM unnest(%b::halfvec[]) v"
        found = fetched(connection, query, binary.halfvec_array(np.split(values, sorted(truncated)), oid))
        assert np.array_equal(np.array(found or [], np.float32).reshape(values.shape), values)
        for row in values:
            one = fetched(connection, "SELECT (%b::halfvec)::real[]", binary.halfvec(row))
            assert np.array_equal(np.array(one, np.float32), row)

    check()


@given(npst.arrays(np.float32, (3, 8), elements=st.floats(0.5, 100, width=32)), st.integers(1, 8))
def test_a_shortened_vector_is_its_normalised_beginning(values: Vectors, dimensions: int) -> None:
    short = vectors.shorten(values, dimensions)
    assert short.shape == (3, dimensions)
    assert short.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-5)
    cosine = np.sum(short * values[:, :dimensions], axis=1) / np.linalg.norm(values[:, :dimensions], axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "rows", "dimensions", "words"),
    [
        (np.ones((2, 4)), 3, 4, "2 vectors of 4 dimensions where 3 of 4"),
        (np.ones((2, 4)), 2, 5, "2 vectors of 4 dimensions where 2 of 5"),
        (np.array([[1, np.nan]]), 1, 2, "NaN, infinity"),
        (np.array([[1, 0], [np.inf, 1]]), 2, 2, "NaN, infinity"),
        (np.array([[1e30, 0]]), 1, 2, "NaN, infinity or a number near it"),
        (np.array([[1, 0], [0, 0]]), 2, 2, "zero vector"),
    ],
)
def test_what_is_no_vector_is_the_servers_fault(values: Vectors, rows: int, dimensions: int, words: str) -> None:
    with pytest.raises(ServerFault, match=words):
        vectors.check(values.astype(np.float32), rows, dimensions)


def test_good_vectors_pass_as_they_are() -> None:
    good = np.eye(3, dtype=np.float32)
    assert vectors.check(good, 3, 3) is good
    assert vectors.check(np.zeros((0, 3), np.float32), 0, 3).shape == (0, 3)


@given(npst.arrays(np.float32, (3, 8), elements=st.floats(-10, 10, width=32).filter(lambda x: abs(x) > 0.1)))
def test_vectors_are_divided_by_their_lengths(values: Vectors) -> None:
    expected = values / np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.unit_vectors(values, 3, 8), expected, rtol=1e-5)


def test_unit_vectors_stay_as_they_are_and_one_that_is_longer_does_not() -> None:
    units = np.eye(3, dtype=np.float32)
    assert vectors.unit_vectors(units, 3, 3) is units
    longer = units.copy()
    longer[1] *= 1.0001
    np.testing.assert_allclose(vectors.unit_vectors(longer, 3, 3), units, atol=1e-6)


def test_vector_whose_beginning_is_zero_cannot_be_shortened() -> None:
    with pytest.raises(ServerFault, match="zero vector"):
        vectors.shorten(np.array([[0, 0, 1]], np.float32), 2)
