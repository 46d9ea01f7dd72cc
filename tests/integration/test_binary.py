"""Arrays in PostgreSQL's binary format: PostgreSQL reads back the values that were written."""

from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pytest
from harness import Cluster
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

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
    (oid,) = connection.execute("SELECT 'public.halfvec'::regtype::oid").fetchone() or ()

    @given(matrices, st.lists(st.integers(0, 5), max_size=3))
    def check(values: Vectors, truncated: list[int]) -> None:
        query = "SELECT array_agg(v::real[]) FROM unnest(%b::public.halfvec[]) v"
        found = fetched(connection, query, binary.halfvec_array(np.split(values, sorted(truncated)), oid))
        assert np.array_equal(np.array(found or [], np.float32).reshape(values.shape), values)
        for row in values:
            one = fetched(connection, "SELECT (%b::public.halfvec)::real[]", binary.halfvec(row))
            assert np.array_equal(np.array(one, np.float32), row)

    check()
