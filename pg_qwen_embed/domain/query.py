"""What a search asks for, checked once, at the edge. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import MOST_EF_SEARCH
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.vectors import Vectors

MOST_ROWS = 2**31 - 1  # PostgreSQL's integer, which is what the functions take
# Vectors that the index looks at for each row that is wanted, so that it misses few of the nearest (`make bench-queries`).
LOOKS = 3.0
LOOKS_FILTERED = 6.0
SAMPLE = 500  # rows of the source that are looked at to learn how many meet a condition
COSTS = 10.0  # what the index does for a vector, in comparisons of a vector without it (`make bench-queries`)
READING = 0.02  # what it takes to look at a row for whether it meets a condition, in such comparisons
LARGEST = 65504.0  # of a halfvec's numbers

BLANK = "the query is blank: there is nothing to search for"
MODES = ("vector", "words", "hybrid")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many rows of a search, and how they are to be found."""

    limit: int = 10
    mode: str = "vector"
    exact: bool = False  # compare every vector: no index
    ef_search: int | None = None  # None: the default of the embedding
    documents: bool = False  # with the document of each row

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"a limit of {self.limit} finds nothing; it must be 1 or more")
        if self.limit > MOST_ROWS:
            raise UsageError(f"a limit of {self.limit} is more than PostgreSQL takes; it must be {MOST_ROWS:,} or less")
        if self.mode not in MODES:
            raise UsageError(f"there is no search mode {self.mode!r}; there are: {', '.join(MODES)}")
        if self.ef_search is not None and not 1 <= self.ef_search <= MOST_EF_SEARCH:
            raise UsageError(f"ef_search is {self.ef_search}; it must be from 1 to {MOST_EF_SEARCH:,}")


def query_texts(texts: Sequence[str]) -> list[str]:
    """The texts, each of which can be embedded as a query. Raises UsageError, with the position of one that cannot."""
    if isinstance(texts, str):
        raise UsageError("several queries are a list of texts; embed_query takes a single text")
    found = list(texts)
    for position, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(f"the query at position {position} is no text but {_kind(text)}")
        if not text.strip():
            raise UsageError(f"the query at position {position} is blank: there is nothing to search for")
    return found


def query_vector(name: str, spec: Spec, given: Any) -> Vectors:
    """A vector that an application has, of shape (dimensions,): an array, numbers, or a type of the package pgvector.

    Raises UsageError for one that cannot be compared with the vectors of the embedding."""
    try:
        vector = np.asarray(given.to_numpy() if hasattr(given, "to_numpy") else given, dtype=np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"a query is a text or a vector of numbers, and not {_kind(given)}") from None
    if vector.ndim == 0:
        raise UsageError(f"a query is a text or a vector of numbers, and not {_kind(given)}")
    if vector.ndim != 1:
        raise UsageError(f"a query is a text or one vector, and not an array of shape {vector.shape}")
    if len(vector) != spec.dimensions:
        raise UsageError(f"{name} has vectors of {spec.dimensions} dimensions, and the query has {len(vector)}")
    if not (np.abs(vector) <= LARGEST).all():  # NaN neither
        raise UsageError(f"the query has a number that a halfvec cannot hold: NaN, or one beyond {LARGEST:.0f}")
    if not vector.astype(np.float16).any():
        raise UsageError("the query is a zero vector: it has no direction")
    return vector


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
