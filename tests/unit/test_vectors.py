"""Vectors: what is not a valid vector is not accepted, and a shortened vector is valid again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pg_qwen_embed.domain import vectors
from pg_qwen_embed.domain.errors import ServerFault
from pg_qwen_embed.domain.vectors import Vectors


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


@given(npst.arrays(np.float32, (3, 8), elements=st.floats(-10, -0.125, width=32) | st.floats(0.125, 10, width=32)))
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
