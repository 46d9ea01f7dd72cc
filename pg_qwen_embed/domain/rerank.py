"""A second look at what a search found: a reranker reads the query and each document together. Pure.

The search finds candidates, the reranker gives each a score, and the best of them are the result. What it is sent is
bounded in number and in bytes."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.query import Wanted
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.texts import storable

DEFAULT_CANDIDATES = 50
MOST_CANDIDATES = 200  # of one request
MOST_BYTES = (
    8192  # of a document, about 2,000 tokens: Qwen3-Reranker reads no more than 8,192 of them in its own examples
)
DOCUMENT = "pg_qwen_embed: document"  # in the row of a hit, until it has its score

NO_RERANKER = "no reranker is set: pass reranker=URL to Client, or set PG_QWEN_EMBED_RERANKER_URL"


def candidates_of(limit: int, wanted: int | None) -> int:
    """How many rows a search finds for the reranker: as many as are returned, at least. Raises UsageError."""
    if limit > MOST_CANDIDATES:
        raise UsageError(f"a rerank returns {MOST_CANDIDATES} rows at most, and the limit is {limit}")
    if wanted is not None and not 1 <= wanted <= MOST_CANDIDATES:
        raise UsageError(f"a rerank takes from 1 to {MOST_CANDIDATES} candidates, and not {wanted}")
    return max(limit, DEFAULT_CANDIDATES if wanted is None else wanted)


def for_reranker(wanted: Wanted, query: object, candidates: int | None, *, is_wanted: bool) -> Wanted:
    """What a search finds for the reranker. Raises UsageError for a rerank that cannot be."""
    if not is_wanted:
        raise UsageError("candidates are those of a rerank, and there is none")
    if not isinstance(query, str):
        raise UsageError("a reranker reads the text of a query; a vector has none")
    return replace(wanted, limit=candidates_of(wanted.limit, candidates), documents=True)


def documents_of(hits: Sequence[Hit]) -> dict[int, str]:
    """The document of each hit by its position, taken out of its row. A row without a text has none."""
    found = {n: beginning(document) for n, hit in enumerate(hits) if (document := hit.row.pop(DOCUMENT, None))}
    return {n: document for n, document in found.items() if document.strip()}


def beginning(document: object) -> str:
    """What is sent of a document: whole characters."""
    return storable(str(document)).encode()[:MOST_BYTES].decode(errors="ignore")


def ranked(hits: Sequence[Hit], scores: dict[int, float], limit: int) -> list[Hit]:
    """The best hits, best first. Equal scores keep the order of the search; hits without a score come last."""
    scored = [replace(hit, rerank_score=scores.get(n)) for n, hit in enumerate(hits)]
    return sorted(scored, key=lambda hit: math.inf if hit.rerank_score is None else -hit.rerank_score)[:limit]
