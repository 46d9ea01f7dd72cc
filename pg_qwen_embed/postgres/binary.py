"""Arrays in PostgreSQL's binary format, built from whole numpy batches, not row by row in Python. Pure.

The array format is that of array_send() (PostgreSQL, src/backend/utils/adt/arrayfuncs.c): number of dimensions,
has-NULLs flag, element type, then per dimension its length and lower bound, then each element with its length.
A halfvec is sent as int16 dimensions, int16 unused, then that many float16 (pgvector, src/halfvec.c)."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.vectors import Vectors

BOOL_OID = 16
INT8_OID = 20
BYTEA_OID = 17
TEXT_OID = 25
REAL_OID = 700
_HEADER = struct.Struct(">iiIii")


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


def real_array(values: NDArray[np.float32]) -> bytes:
    """real[] in binary."""
    elements = np.empty(len(values), np.dtype([("length", ">i4"), ("value", ">f4")]))
    elements["length"] = 4
    elements["value"] = values
    return _array(REAL_OID, elements)


def text_array(values: Sequence[str]) -> bytes:
    """text[] in binary."""
    if not values:
        return struct.pack(">iiI", 0, 0, TEXT_OID)
    encoded = [value.encode() for value in values]
    elements = [piece for one in encoded for piece in (len(one).to_bytes(4, "big"), one)]
    return b"".join((_HEADER.pack(1, 0, TEXT_OID, len(encoded), 1), *elements))


def halfvec_array(parts: Sequence[Vectors], halfvec_oid: int) -> bytes:
    """halfvec[] in binary, from arrays of shape (rows, dimensions), one after another."""
    rows, dimensions = sum(map(len, parts)), parts[0].shape[1] if parts else 0
    fields = [("length", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("values", ">f2", (dimensions,))]
    elements = np.empty(rows, np.dtype(fields))
    elements["length"] = 4 + 2 * dimensions
    elements["dimensions"] = dimensions
    elements["unused"] = 0
    if parts:
        np.concatenate(parts, out=elements["values"], casting="same_kind")
    return _array(halfvec_oid, elements)


def halfvec(vector: Vectors) -> bytes:
    """One halfvec in binary, from an array of shape (dimensions,)."""
    return struct.pack(">hh", len(vector), 0) + vector.astype(">f2").tobytes()


def from_halfvec(value: bytes) -> Vectors:
    """The vector of one halfvec in binary, of shape (dimensions,)."""
    return np.frombuffer(value, ">f2", offset=4).astype(np.float32)


def _array(element_oid: int, elements: NDArray[np.void]) -> bytes:
    if not len(elements):
        return struct.pack(">iiI", 0, 0, element_oid)
    return b"".join((_HEADER.pack(1, 0, element_oid, len(elements), 1), elements.data))  # copied once
