"""Vectors as numpy arrays, and arrays as PostgreSQL's binary format. Pure: whole batches, nothing per row in Python.

The array format is that of array_send() (PostgreSQL, src/backend/utils/adt/arrayfuncs.c): number of dimensions,
has-NULLs flag, element type, then per dimension its length and lower bound, then each element with its length.
A halfvec is sent as int16 dimensions, int16 unused, then that many float16 (pgvector, src/halfvec.c)."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.errors import ServerFault

Vectors = NDArray[np.float32]

BOOL_OID = 16
INT8_OID = 20
BYTEA_OID = 17
_HEADER = struct.Struct(">iiIii")
_MIN_NORM = 1e-6
_UNIT = 1e-5  # how far the square of a length is from 1 at most: far below what a halfvec can tell


def int8_array(values: Sequence[int] | NDArray[np.int64]) -> bytes:
    """bigint[] in binary."""
    elements = np.empty(len(values), np.dtype([("length", ">i4"), ("value", ">i8")]))
    elements["length"] = 8
    elements["value"] = values
    return _array(INT8_OID, elements)


def bool_array(values: Sequence[bool]) -> bytes:
    """boolean[] in binary."""
    elements = np.empty(len(values), np.dtype([("length", ">i4"), ("value", "?")]))
    elements["length"] = 1
    elements["value"] = values
    return _array(BOOL_OID, elements)


def bytea_array(values: Sequence[bytes]) -> bytes:
    """bytea[] in binary; every element has the same length."""
    width = len(values[0]) if values else 0
    elements = np.empty(len(values), np.dtype([("length", ">i4"), ("value", f"V{width}")]))
    elements["length"] = width
    elements["value"] = np.frombuffer(b"".join(values), dtype=f"V{width}") if width else b""
    return _array(BYTEA_OID, elements)


def halfvec_array(parts: Sequence[Vectors], halfvec_oid: int) -> bytes:
    """halfvec[] in binary, from arrays of shape (rows, dimensions), one after another."""
    rows, dimensions = sum(map(len, parts)), parts[0].shape[1]
    fields = [("length", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("values", ">f2", (dimensions,))]
    elements = np.empty(rows, np.dtype(fields))
    elements["length"] = 4 + 2 * dimensions
    elements["dimensions"] = dimensions
    elements["unused"] = 0
    np.concatenate(parts, out=elements["values"], casting="same_kind")
    return _array(halfvec_oid, elements)


def halfvec(vector: Vectors) -> bytes:
    """One halfvec in binary, from an array of shape (dimensions,)."""
    return struct.pack(">hh", len(vector), 0) + vector.astype(">f2").tobytes()


def _array(element_oid: int, elements: NDArray[np.void]) -> bytes:
    if not len(elements):
        return struct.pack(">iiI", 0, 0, element_oid)
    return b"".join((_HEADER.pack(1, 0, element_oid, len(elements), 1), elements.data))  # copied once


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
