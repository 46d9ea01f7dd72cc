"""Vectors as numpy arrays: checked, normalised, shortened. Pure: whole batches."""

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.errors import ServerFault

Vectors = NDArray[np.float32]

_MIN_NORM = 1e-6
_UNIT = 1e-5  # how far the square of a length is from 1 at most: far below what a halfvec can tell


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` of each vector, normalised again (Matryoshka). Shape (rows, dimensions). Raises ServerFault."""
    return unit_vectors(np.ascontiguousarray(vectors[:, :dimensions]), len(vectors), dimensions)


def normalise(vectors: Vectors) -> Vectors:
    return _scaled(vectors, _squares(vectors))


def unit_vectors(vectors: Vectors, rows: int, dimensions: int) -> Vectors:
    """What `check` gives, each of length 1. Raises ServerFault."""
    return _scaled(vectors, _checked(vectors, rows, dimensions))


def _scaled(vectors: Vectors, squares: Vectors) -> Vectors:
    if len(squares) and float(np.abs(squares - 1).max()) < _UNIT:
        return vectors  # servers normalise too
    quotients: Vectors = np.divide(vectors, np.sqrt(squares)[:, np.newaxis], dtype=np.float32)
    return quotients


def _squares(vectors: Vectors) -> Vectors:
    """The square of each length, shape (rows,). Infinite above a length of 1.8e19 as well: no such vector can be stored."""
    squares: Vectors = np.einsum("ij,ij->i", vectors, vectors)
    return squares


def check(vectors: Vectors, rows: int, dimensions: int) -> Vectors:
    """The vectors, if they may be written: one per text, the right length, finite, not zero. Else ServerFault."""
    _checked(vectors, rows, dimensions)
    return vectors


def _checked(vectors: Vectors, rows: int, dimensions: int) -> Vectors:
    """The squares of their lengths."""
    if vectors.shape != (rows, dimensions):
        raise ServerFault(
            f"the server answered {vectors.shape[0]} vectors of {vectors.shape[1]} dimensions "
            f"where {rows} of {dimensions} were asked for"
        )
    squares = _squares(vectors)
    if not np.isfinite(squares).all():
        raise ServerFault("the server answered a vector that holds NaN, infinity or a number near it")
    if rows and float(squares.min()) < _MIN_NORM**2:
        raise ServerFault("the server answered a zero vector")
    return squares
