"""Answers of an embedding server: each item is checked, and an answer that is odd in one of them is no answer."""

import base64
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.errors import ServerFault
from pg_qwen_embed.inference.answers import NoVectors, decoded, is_crowded, largest

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
rows = st.integers(1, 8).flatmap(lambda d: st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=1, max_size=6))


def b64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def answer(*embeddings: object, indexes: list[Any] | None = None) -> dict[str, Any]:
    indexes = list(range(len(embeddings))) if indexes is None else indexes
    return {"data": [{"index": n, "embedding": one} for n, one in zip(indexes, embeddings, strict=True)]}


@given(rows, st.booleans(), st.randoms(use_true_random=False))
def test_vectors_come_in_the_order_of_their_index(wanted: list[list[float]], floats: bool, rng: Any) -> None:
    items = answer(*(one if floats else b64(one) for one in wanted))["data"]
    rng.shuffle(items)
    found, as_floats = decoded({"data": items}, len(wanted))
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))
    assert as_floats is floats


def test_items_without_an_index_are_in_the_order_of_the_texts() -> None:
    found, _ = decoded({"data": [{"embedding": [1.0]}, {"embedding": [2.0], "index": None}]}, 2)
    assert found.tolist() == [[1.0], [2.0]]


ONE, TWO = [1.0, 2.0], [3.0, 4.0]
UNEVEN = [base64.b64encode(raw).decode() for raw in (struct.pack("<3f", 1, 2, 3), struct.pack("<1f", 4))]


@pytest.mark.parametrize(
    "odd",
    [
        answer(*UNEVEN),  # together they have the right length
        answer(b64(ONE), b64([1.0])), answer(ONE, [1.0]), answer([], []), answer("", ""),
        answer(ONE, b64(TWO)), answer(ONE, None), answer(ONE, [True, False]), answer(ONE, ["1.0", "2.0"]),
        answer(ONE, [None, 1.0]), answer(ONE, [[1.0], [2.0]]), answer(ONE, [{}, 1.0]), answer(ONE, {"0": 1.0}),
        answer("AAAA", "AAAA"), answer("%%%%", "%%%%"), answer("AAAAA", "AAAAA"), answer("ä", "ä"),
        answer(ONE, TWO, indexes=[0, 0]), answer(ONE, TWO, indexes=[1, 2]), answer(ONE, TWO, indexes=[False, True]),
        answer(ONE, TWO, indexes=[0, None]), answer(ONE, TWO, indexes=["0", "1"]), answer(ONE, TWO, indexes=[0.0, 1.0]),
        answer(ONE, TWO, indexes=[-1, 0]), answer(ONE, TWO, ONE), answer(ONE), {"data": [1, 2]}, {"data": "ab"},
        {"data": {"0": 1}},
    ],
)  # fmt: skip
def test_an_answer_that_is_odd_in_one_item_is_none(odd: dict[str, Any]) -> None:
    with pytest.raises(ServerFault):
        decoded(odd, 2)


@pytest.mark.parametrize("odd", [{}, {"data": None}, {"data": []}, answer(None, None), {"data": [{}, {}]}])
def test_an_answer_without_vectors_is_told_from_a_wrong_one(odd: dict[str, Any]) -> None:
    with pytest.raises(NoVectors):
        decoded(odd, 2)


def test_a_number_beyond_32_bits_becomes_infinity_without_a_warning() -> None:
    found, _ = decoded(answer([1e300, 1.0]), 1)
    assert np.isinf(found[0, 0])


@given(st.integers(1, 64), st.sampled_from([16, 1024, 4096]))
def test_every_answer_that_is_right_fits_the_bound(count: int, dimensions: int) -> None:
    item = len('{"object":"embedding","index":10000,"embedding":""},')
    assert count * (item + 24 * dimensions) < largest(count, dimensions, floats=True)
    assert count * (item + 4 * -(-4 * dimensions // 3)) < largest(count, dimensions, floats=False)


def test_an_answer_of_many_small_objects_is_not_parsed() -> None:
    assert is_crowded(b'{"data": [' + b"{}," * 5000 + b"]}", 64)
    assert not is_crowded(b'{"data": [' + b'{"embedding": [1.0]},' * 64 + b"]}", 64)
