"""Ranked lists: the documents nearest to each question, and the fusion of two lists. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.vectors import Vectors, normalise

_AT_ONCE = 16_000_000  # similarities in memory at once


def as_stored(vectors: Vectors, dimensions: int) -> Vectors:
    """The first dimensions of unit vectors, as the store would have them: of length 1, and rounded to a halfvec."""
    if dimensions < vectors.shape[1]:
        vectors = normalise(np.ascontiguousarray(vectors[:, :dimensions]))
    rounded: Vectors = vectors.astype(np.float16).astype(np.float32)
    return rounded


def nearest(queries: Vectors, vectors: Vectors, owners: NDArray[np.int64], k: int) -> list[list[int]]:
    """For each query the `k` nearest documents, nearest first. All vectors have length 1, so every distance orders them alike.

    owners: the document of each vector, in ascending order; a document counts with its nearest vector. Of documents at one
    distance the first comes first."""
    if not len(vectors):
        return [[] for _ in range(len(queries))]
    documents, begins = np.unique(owners, return_index=True)
    found: list[list[int]] = []
    step = max(1, _AT_ONCE // len(vectors))
    for begin in range(0, len(queries), step):
        similarities = queries[begin : begin + step] @ vectors.T
        if len(documents) < len(vectors):
            similarities = np.maximum.reduceat(similarities, begins, axis=1)
        found += [documents[_best(row, k)].tolist() for row in similarities]
    return found


def fused(by_vector: Sequence[int], by_words: Sequence[int], k: int, *, rrf_k: float, text_weight: float) -> list[int]:
    """The `k` best of both lists by reciprocal rank fusion, as the function `<name>_hybrid` joins them."""
    scores: dict[int, float] = {}
    ranks: dict[int, int] = {}
    for ranked, weight in ((by_vector, 1.0), (by_words, text_weight)):
        for rank, document in enumerate(ranked, 1):
            scores[document] = scores.get(document, 0.0) + weight / (rrf_k + rank)
            ranks[document] = min(rank, ranks.get(document, rank))
    return sorted(scores, key=lambda one: (-scores[one], ranks[one], one))[:k]


def _best(similarities: Vectors, k: int) -> NDArray[np.int64]:
    """The positions of the `k` largest, the largest first; of equal ones the first."""
    if k < len(similarities):
        edge = np.partition(similarities, -k)[-k]
        positions = np.flatnonzero(similarities >= edge)
    else:
        positions = np.arange(len(similarities))
    order: NDArray[np.int64] = positions[np.lexsort((positions, -similarities[positions]))][:k]
    return order
