"""Chunking: documents in parts that the model takes, divided by boundaries.py and counted by the server's own tokenizer.

No chunk has more tokens than requested, special tokens included. Where the server does not count, tokens are estimated
from bytes."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pg_qwen_embed.domain.change import Span, fingerprint
from pg_qwen_embed.domain.errors import DocumentRejected
from pg_qwen_embed.domain.spec import Chunking
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference import batching, boundaries, truncation
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import EmbeddingServer

MOST_CHUNKS = 4096  # of a document: they are written together, and an index makes that slow
Piece = tuple[int, Span]  # which text, and where in it


@dataclass(slots=True)
class Chunks:
    """The chunks of a request's documents and the vectors made so far, kept from attempt to attempt.

    most: chunks that go to the server at once. vectors: shape (chunks, dimensions), complete when no part is left."""

    most: int
    texts: list[str] = field(default_factory=list)
    spans: Sequence[Sequence[Span]] = ()  # of each document
    vectors: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _made_for: tuple[ModelInfo | None, int | None] = (None, None)  # the server's identity, and its longest input
    _left: list[int] = field(default_factory=list)
    _came_further: bool = False

    def fit(self, info: ModelInfo, longest: int | None) -> bool:
        """Whether the documents were divided for this server."""
        return self._made_for == (info, longest)

    def begin(
        self, documents: Sequence[str], spans: Sequence[Sequence[Span]], dimensions: int, info: ModelInfo,
        longest: int | None,
    ) -> None:  # fmt: skip
        self.spans = spans
        self.texts = [text[begin:end] for text, own in zip(documents, spans, strict=True) for begin, end in own]
        self.vectors = np.empty((len(self.texts), dimensions), np.float32)
        self._made_for = info, longest
        self._left = list(range(len(self.texts)))

    def use(self, known: Mapping[bytes, Vectors]) -> None:
        """Take the vectors of chunks whose text is known, by its fingerprint."""
        if known:
            prints = [fingerprint(text.encode()) for text in self.texts]
            for n in self._left:
                if prints[n] in known:
                    self.vectors[n] = known[prints[n]]
            self._left = [n for n in self._left if prints[n] not in known]

    def next_part(self, limits: batching.Limits, token_ratio: batching.TokenRatio) -> list[int]:
        """Positions to embed together; none when all are done."""
        limits = replace(limits, documents=min(limits.documents, self.most))
        lengths = [len(self.texts[n].encode()) for n in self._left[: limits.documents]]
        return [self._left[n] for n in next(batching.pack(lengths, limits, token_ratio.bytes_per_token), ())]

    def take(self, part: Sequence[int], vectors: Vectors) -> None:
        self.vectors[part] = vectors
        done = set(part)
        self._left = [n for n in self._left if n not in done]
        self._came_further = True

    def came_further(self) -> bool:
        """Whether a part was embedded since the last call."""
        came_further, self._came_further = self._came_further, False
        return came_further


async def split(
    server: EmbeddingServer, texts: Sequence[str], wanted: Chunking, longest: int | None
) -> list[list[Span]]:
    """The chunks of each text, in order. A short text is one chunk. No chunk is blank unless its text is.

    longest: tokens the server takes. Raises DocumentRejected, ServerUnavailable."""
    most = min(wanted.tokens, longest or wanted.tokens)
    overlap = min(wanted.overlap, most // 2)
    done: list[list[Span]] = [[] for _ in texts]
    pieces: list[Piece] = [(n, (0, len(text))) for n, text in enumerate(texts)]
    while pieces:
        parts = [texts[n][begin:end] for n, (begin, end) in pieces]
        over = await _too_long(server, parts, most, counts=longest is not None)
        for position, (n, span) in enumerate(pieces):
            if position not in over:
                done[n].append(span)
        if not over:
            break
        pieces = await asyncio.to_thread(_divided, texts, [(pieces[n], over[n]) for n in over], most, overlap)
    ordered = [boundaries.in_order(spans) for spans in done]
    longest_one = max(map(len, ordered), default=0)
    if longest_one > MOST_CHUNKS:
        raise DocumentRejected(
            f"the document has {longest_one:,} chunks of {wanted.tokens} tokens, and at most {MOST_CHUNKS:,} are kept; "
            "attach with more --chunk-tokens"
        )
    return ordered


async def _too_long(server: EmbeddingServer, parts: Sequence[str], most: int, *, counts: bool) -> dict[int, int]:
    """The positions of parts with more than `most` tokens, each with its number of tokens."""
    if counts:
        return await truncation.too_long(server, parts, most)
    estimates = [int(len(part.encode()) / batching.BYTES_PER_TOKEN) + truncation.SPECIAL_TOKENS for part in parts]
    return {n: tokens for n, tokens in enumerate(estimates) if tokens > most}


def _divided(texts: Sequence[str], over: Sequence[tuple[Piece, int]], most: int, overlap: int) -> list[Piece]:
    found: list[Piece] = []
    for (n, span), tokens in over:
        if span[1] - span[0] < 2:
            raise DocumentRejected(f"one character of the document has {tokens} tokens, and a chunk at most {most}")
        found += [(n, own) for own in boundaries.divide(texts[n], span, tokens=tokens, most=most, overlap=overlap)]
    return found
