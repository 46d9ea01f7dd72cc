"""Rows whose vector is odd: what a person should look at before believing that searches find them. Pure.

A vector is odd in itself (its length, numbers that are all the same), by its document (blank, or hardly anything), or
because many rows have the same one. Keys are kept for the first rows of each kind, and all are counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

import numpy as np

from pg_qwen_embed.domain.vectors import Vectors

MOST_KEYS = 20  # of each kind
LENGTH_TOLERANCE = 0.01  # far above the rounding of half precision
FLATNESS = 0.98  # squared cosine between a vector and one whose numbers are all the same
FEWEST_DIMENSIONS = 8  # below, a vector may be flat by chance
SHORT = 2  # characters that are no blanks
DIFFERENT_DOCUMENTS = 3  # that have one vector
FREQUENT_ROWS, FREQUENT_SHARE = 20, 0.01  # of one document

Key = tuple[str, ...]


class Kind(StrEnum):
    BLANK = "the document is blank, so the row has no vector"
    SHORT = f"the document has {SHORT} characters or fewer"
    LENGTH = "the length of the vector is not 1"
    FLAT = "all numbers of the vector are nearly the same"
    SHARED = "different documents have the same vector"
    FREQUENT = "many rows have the same document, and so the same vector"


@dataclass(frozen=True, slots=True)
class Looked:
    """A vector that was looked at, or a row without one. letters: of the document that are no blanks, up to SHORT + 1; None:
    the document could not be read. document: its fingerprint."""

    key: Key
    letters: int | None
    document: bytes | None
    vector: Vectors | None


@dataclass(slots=True)
class Odd:
    """The rows of a kind."""

    rows: int = 0
    keys: list[Key] = field(default_factory=list)

    def add(self, key: Key) -> None:
        if key in self.keys:
            return  # another chunk of it
        self.rows += 1
        if len(self.keys) < MOST_KEYS:
            self.keys.append(key)


@dataclass(slots=True)
class Same:
    """Rows that have one vector."""

    rows: int = 0
    keys: list[Key] = field(default_factory=list)
    documents: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Census:
    """`add` page by page, then `odd`."""

    rows: int = 0
    vectors: int = 0
    _odd: dict[Kind, Odd] = field(default_factory=lambda: {kind: Odd() for kind in Kind})
    _same: dict[bytes, Same] = field(default_factory=dict)
    _last: Key = ()

    def add(self, page: Sequence[Looked]) -> None:
        """The rows of a page, and each chunk of a row, in order."""
        for one in page:
            self.rows += one.key != self._last
            self._last = one.key
            if one.letters == 0:
                self._odd[Kind.BLANK].add(one.key)
            elif one.letters is not None and one.letters <= SHORT:
                self._odd[Kind.SHORT].add(one.key)
        found = [one for one in page if one.vector is not None]
        if found:
            self._add_vectors(found, np.stack([one.vector for one in found if one.vector is not None]))

    def _add_vectors(self, found: Sequence[Looked], vectors: Vectors) -> None:
        self.vectors += len(found)
        squares = np.einsum("ij,ij->i", vectors, vectors)
        flat = vectors.sum(axis=1) ** 2 >= FLATNESS * vectors.shape[1] * squares
        for one, vector, square, is_flat in zip(found, vectors, squares, flat, strict=True):
            if abs(float(square) ** 0.5 - 1) > LENGTH_TOLERANCE:
                self._odd[Kind.LENGTH].add(one.key)
            if is_flat and vectors.shape[1] >= FEWEST_DIMENSIONS:
                self._odd[Kind.FLAT].add(one.key)
            same = self._same.setdefault(blake2b(vector.tobytes(), digest_size=12).digest(), Same())
            same.rows += 1
            if len(same.keys) < MOST_KEYS:
                same.keys.append(one.key)
            if one.document is not None and len(same.documents) < DIFFERENT_DOCUMENTS:
                same.documents.add(one.document)

    def odd(self) -> Iterator[tuple[Kind, int, list[Key]]]:
        """Each kind that was found, how many rows, and the keys of the first ones. Of one vector, one kind."""
        for kind, found in self._odd.items():
            if found.rows:
                yield kind, found.rows, found.keys
        frequent = max(FREQUENT_ROWS, FREQUENT_SHARE * self.vectors)
        for same in sorted(self._same.values(), key=lambda same: -same.rows):
            if len(same.documents) >= DIFFERENT_DOCUMENTS:
                yield Kind.SHARED, same.rows, same.keys
            elif same.rows >= frequent:
                yield Kind.FREQUENT, same.rows, same.keys
