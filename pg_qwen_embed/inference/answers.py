"""Answers of /v1/embeddings: which bytes can be one, and the vectors in it, every item checked. Pure.

A wrong vector under a row is worse than none, so an answer that is odd in any item is rejected as a whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pybase64

from pg_qwen_embed.domain.errors import ServerFault
from pg_qwen_embed.domain.vectors import Vectors

MOST_DIMENSIONS = 65_536  # of a model whose dimensions are not known yet
SMALL = 1 << 20  # bytes: an answer whose size does not depend on the request
OVERHEAD = 1 << 16  # bytes of an answer, in addition to its items
ITEM = 1024  # bytes of an item, in addition to its vector
FLOAT = 32  # bytes of a number in JSON, with its comma
BASE64 = 6  # bytes of a number in base64, of which there are 16/3
PARTS = 16  # lists and objects of an item, at most
_NUMBERS = {float, int}


class NoVectors(ServerFault):
    """A request for vectors was answered without any."""


def largest(rows: int, dimensions: int, *, floats: bool) -> int:
    """Bytes that an answer to this request may have."""
    return OVERHEAD + rows * (ITEM + dimensions * (FLOAT if floats else BASE64))


def is_crowded(content: bytes, rows: int) -> bool:
    """Whether it has more lists and objects than an answer for so few rows needs: parsed, each takes many times its bytes."""
    return content.count(b"{") + content.count(b"[") > 1000 + PARTS * rows


def decoded(answer: dict[str, Any], expected: int) -> tuple[Vectors, bool]:
    """The vectors in the order of the texts, of shape (expected, dimensions), and whether they came as lists of floats.

    Raises ServerFault; NoVectors for an answer without any."""
    items = answer.get("data")
    if not items or not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise NoVectors(f"the server answered no list of vectors to {expected} texts")
    embeddings = [item.get("embedding") for item in _ordered(items, expected)]
    if all(embedding is None for embedding in embeddings):
        raise NoVectors(f"the server answered no vectors to {expected} texts")
    if all(isinstance(embedding, str) for embedding in embeddings):
        return _from_base64(embeddings), False
    return _from_floats(embeddings), True


def _ordered(items: Sequence[dict[str, Any]], expected: int) -> Sequence[dict[str, Any]]:
    """By their `index`. Where no item has one, they are in the order of the texts."""
    if len(items) != expected:
        raise ServerFault(f"the server answered {len(items)} vectors to {expected} texts")
    indexes = [item.get("index") for item in items]
    if all(index is None for index in indexes):
        return items
    if not all(type(index) is int for index in indexes) or sorted(indexes) != list(range(expected)):  # type: ignore[type-var]
        raise ServerFault(
            f"the server answered {len(items)} vectors whose `index` is not each number below {expected} once"
        )
    return sorted(items, key=lambda item: item["index"])


def _from_base64(embeddings: Sequence[Any]) -> Vectors:
    try:
        raw = [pybase64.b64decode(embedding, validate=True) for embedding in embeddings]
    except ValueError:
        raise ServerFault("the server answered an embedding that is not base64") from None
    _one_length([len(one) for one in raw])
    if len(raw[0]) % 4:
        raise ServerFault("the server answered an embedding in base64 that is no sequence of 32-bit floats")
    return np.frombuffer(b"".join(raw), dtype="<f4").reshape(len(raw), -1)


def _from_floats(embeddings: Sequence[Any]) -> Vectors:
    if not all(isinstance(one, list) and set(map(type, one)) <= _NUMBERS for one in embeddings):
        raise ServerFault("the server answered an embedding that is no list of numbers")
    _one_length([len(one) for one in embeddings])
    with np.errstate(over="ignore"):  # a number beyond 32 bits becomes infinity, which is found later
        return np.array(embeddings, dtype=np.float32).reshape(len(embeddings), -1)


def _one_length(lengths: Sequence[int]) -> None:
    if min(lengths) != max(lengths) or not lengths[0]:
        raise ServerFault("the server's answer holds no list of embeddings of one length")
