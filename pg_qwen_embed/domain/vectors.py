"""Vectors as numpy arrays of shape (rows, dimensions): checked, normalised, shortened, in whole batches. Pure."""

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.errors import ServerFault, UsageError

Vectors = NDArray[np.float32]

_MIN_NORM = 1e-6
_UNIT = 1e-5  # largest deviation of a squared length from 1: far below the resolution of a halfvec


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` of each vector, normalised again. Raises ServerFault.

    Models trained for it keep their quality (Kusupati et al., "Matryoshka Representation Learning", 2022)."""
    return unit_vectors(np.ascontiguousarray(vectors[:, :dimensions]), len(vectors), dimensions)


def normalise(vectors: Vectors) -> Vectors:
    """Each vector divided by its length."""
    return _scaled(vectors, _squares(vectors))


def unit_vectors(vectors: Vectors, rows: int, dimensions: int) -> Vectors:
    """The vectors, checked as by `check` and scaled to length 1. Raises ServerFault."""
    return _scaled(vectors, _checked(vectors, rows, dimensions))


def _scaled(vectors: Vectors, squares: Vectors) -> Vectors:
    if len(squares) and float(np.abs(squares - 1).max()) < _UNIT:
        return vectors  # servers normalise too
    quotients: Vectors = np.divide(vectors, np.sqrt(squares)[:, np.newaxis], dtype=np.float32)
    return quotients


def _squares(vectors: Vectors) -> Vectors:
    """The squared length of each vector, shape (rows,). A length above 1.8e19 overflows; no such vector can be stored."""
    squares: Vectors = np.einsum("ij,ij->i", vectors, vectors)
    return squares


def check(vectors: Vectors, rows: int, dimensions: int) -> Vectors:
    """The vectors, if they may be written: one per text, the right length, finite, not zero. Raises ServerFault."""
    _checked(vectors, rows, dimensions)
    return vectors


def _checked(vectors: Vectors, rows: int, dimensions: int) -> Vectors:
    """Their squared lengths. Raises ServerFault as `check` does."""
    if vectors.shape != (rows, dimensions):
        raise ServerFault(
            f"the server answered {vectors.shape[0]} vectors of {vectors.shape[1]} dimensions "
            f"where {rows} of {dimensions} were requested"
        )
    squares = _squares(vectors)
    if not np.isfinite(squares).all():
        raise ServerFault("the server answered a vector that holds NaN, infinity or a number near it")
    if rows and float(squares.min()) < _MIN_NORM**2:
        raise ServerFault("the server answered a zero vector")
    return squares


def as_literal(vector: object) -> str:
    """One vector as PostgreSQL writes it: of a sequence, an array, or pgvector's Vector and HalfVector. Raises UsageError."""
    for method in ("tolist", "to_list"):
        if hasattr(vector, method):
            vector = getattr(vector, method)()
    try:
        numbers = [float(number) for number in vector]  # type: ignore[attr-defined]  # an error says so
    except (TypeError, ValueError):
        raise UsageError("a query is a text or a vector: one number for each dimension") from None
    if not numbers or not np.isfinite(numbers).all():
        raise UsageError("a vector has at least one number, and each is finite")
    return f"[{','.join(map(repr, numbers))}]"
