"""Which rows are odd, and how they are counted."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.odd_vectors import MOST_KEYS, Census, Key, Kind, Looked


def unit(seed: int, dimensions: int = 32) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).normal(size=dimensions)
    return np.asarray(found / np.linalg.norm(found), np.float16).astype(np.float32)


def row(
    n: int, *, letters: int | None = 4, document: bytes | None = None, vector: NDArray[np.float32] | None = None
) -> Looked:
    return Looked((str(n),), letters, document or str(n).encode(), unit(n) if vector is None else vector)


def odd(rows: Iterable[Looked], page: int = 7) -> dict[Kind, tuple[int, list[Key]]]:
    census, rows = Census(), list(rows)
    for n in range(0, len(rows), page):
        census.add(rows[n : n + page])
    return {kind: (count, keys) for kind, count, keys in census.odd()}


def test_rows_of_which_nothing_is_odd_are_not_reported() -> None:
    assert odd(map(row, range(100))) == {}


def test_blank_and_short_documents_are_reported_and_unreadable_ones_are_not() -> None:
    rows = [row(1), Looked(("2",), 0, None, None), row(3, letters=2), row(4, letters=3), row(5, letters=None)]
    assert odd(rows) == {Kind.BLANK: (1, [("2",)]), Kind.SHORT: (1, [("3",)])}


def test_a_vector_whose_length_is_not_one_and_a_flat_one_are_reported() -> None:
    flat = np.full(32, 1 / np.sqrt(32), np.float32)
    rows = [
        row(1, vector=unit(1) * np.float32(1.02)),
        row(2, vector=flat),
        row(3, vector=-flat),
        row(4, vector=unit(4) * 0),
    ]
    found = odd([*rows, *map(row, range(10, 30))])
    assert found[Kind.LENGTH] == (2, [("1",), ("4",)])
    assert found[Kind.FLAT] == (3, [("2",), ("3",), ("4",)])


def test_few_dimensions_are_flat_by_chance() -> None:
    assert Kind.FLAT not in odd([row(1, vector=np.full(4, 0.5, np.float32))])


def test_a_vector_of_different_documents_is_reported_and_copies_of_one_document_only_if_they_are_many() -> None:
    same = unit(1)
    assert odd(row(n, vector=same) for n in range(3)) == {Kind.SHARED: (3, [("0",), ("1",), ("2",)])}
    copies = [row(n, vector=same, document=b"the same") for n in range(25)]
    assert odd(copies[:19]) == {}
    assert odd(copies)[Kind.FREQUENT][0] == 25
    assert odd([*copies, *map(row, range(100, 3000))]) == {}  # fewer than one in a hundred


def test_all_rows_of_a_kind_are_counted_and_the_first_keys_are_kept() -> None:
    (found,) = odd(Looked((str(n),), 0, None, None) for n in range(100)).values()
    assert found == (100, [(str(n),) for n in range(MOST_KEYS)])


def test_the_chunks_of_a_row_are_one_row() -> None:
    census = Census()
    census.add([Looked(("1", "a"), 2, bytes([n]), unit(n)) for n in range(3)])
    assert (census.rows, census.vectors) == (1, 3)
    assert [(kind, rows) for kind, rows, _ in census.odd()] == [(Kind.SHORT, 1)]
