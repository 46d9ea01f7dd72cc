"""The encoder: the only way from text to vectors, for documents and for queries, so that the two can never differ.

An encoder is bound to one server and its identity. It checks the model's identity, puts the prompt in front, truncates
or divides what is too long, shortens the vectors and post-processes them. It does not choose a server, and it does not retry."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pg_qwen_embed.domain import vectors
from pg_qwen_embed.domain.change import LONGEST_DOCUMENT, Span
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import ModelMismatch
from pg_qwen_embed.domain.prompt import query_prompt
from pg_qwen_embed.domain.spec import Chunking, TooLong
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference import batching, truncation
from pg_qwen_embed.inference.chunking import Chunks, split
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.inference.vector_calls import Answer

TOO_LARGE = f"the document has more than {LONGEST_DOCUMENT:,} characters, longer than any model takes"
TOO_LARGE_FOR_CHUNKS = (
    f"the document has more than {LONGEST_DOCUMENT:,} characters, the most that are divided into chunks; "
    "divide it into several rows"
)


# Of texts at these positions, which are divided: the vectors of chunks that they had before, by the chunk's fingerprint.
Recall = Callable[[Sequence[int]], Awaitable[Mapping[bytes, Vectors]]]


class ServerHandle(Protocol):
    """A server, and its identity."""

    @property
    def server(self) -> EmbeddingServer: ...

    @property
    def info(self) -> ModelInfo: ...

    @property
    def longest(self) -> int | None:
        """Tokens of an input that every server with the model takes; None: no tokens are counted."""

    def check(self) -> None:
        """Called before each further part of a long request. Raises ModelMismatch if the model may have changed."""


@dataclass(frozen=True, slots=True)
class KnownServer:
    """The handle of a server whose identity was just read."""

    server: EmbeddingServer
    info: ModelInfo

    @property
    def longest(self) -> int | None:
        return self.info.longest

    def check(self) -> None:
        """Nothing to check: the identity was just read."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Documents as vectors of shape (rows, dimensions): a row for each text in order, or for each of its chunks.

    rejected: positions of texts without a row, each with the reason. truncated: positions of texts of which only the
    beginning was embedded. spans: those of the chunks of each text with rows; None where texts are not divided."""

    vectors: Vectors
    rejected: Mapping[int, str] = field(default_factory=dict)
    truncated: frozenset[int] = frozenset()
    spans: Sequence[Sequence[Span]] | None = None


class Encoder:
    """`documents` and `query` of one target at a time; between calls an encoder keeps only its token ratio."""

    def __init__(
        self, handle: ServerHandle, limits: batching.Limits | None = None, ratio: batching.TokenRatio | None = None
    ) -> None:
        """limits: the largest request, for the chunks of documents. ratio: it learns from what the server counts."""
        self._handle = handle
        self._limits = limits or batching.Limits()
        self._ratio = ratio or batching.TokenRatio()

    async def documents(
        self, target: Target, texts: Sequence[str], *, size: int | None = None, chunks: Chunks | None = None,
        urgent: bool = False, recall: Recall | None = None,
    ) -> Encoded:  # fmt: skip
        """The vectors of these texts, none of them blank.

        size: bytes of all texts in UTF-8, if known. chunks: the result of an earlier attempt, for documents that are
        divided. urgent: overtake waiting requests, where the server knows priorities. recall: which chunks need not be sent.
        Raises ModelMismatch, DocumentRejected when the server rejects the request (one bad text rejects all), and
        ServerUnavailable when the server is to blame."""
        self._check_identity(target)
        if target.spec.chunking:
            return await self._divided(
                target, target.spec.chunking, texts, chunks or Chunks(self._limits.documents), urgent, recall
            )
        return await self._whole(target, texts, size, urgent)

    async def queries(self, target: Target, instruction: str, texts: Sequence[str]) -> Vectors:
        """The unit vectors of queries, of shape (len(texts), dimensions). Raises as `documents`."""
        self._check_identity(target)
        prompts = [query_prompt(target.spec.prompt_style, instruction, text) for text in texts]
        return await self._embed(target, prompts, None, urgent=True)

    async def query(self, target: Target, instruction: str, text: str) -> Vectors:
        """The unit vector of a query, of shape (dimensions,). Raises as `documents`."""
        vector: Vectors = (await self.queries(target, instruction, [text]))[0]
        return vector

    def _check_identity(self, target: Target) -> None:
        mismatch = self._handle.info.mismatch(target)
        if mismatch:
            raise ModelMismatch(str(mismatch))

    async def _whole(self, target: Target, texts: Sequence[str], size: int | None, urgent: bool) -> Encoded:
        """One vector per text. Over-long texts: truncate or reject."""
        longest = self._handle.longest or 0  # no tokens are counted without it
        kept = [text[:LONGEST_DOCUMENT] for text in texts]
        tokens = await truncation.too_long(self._handle.server, kept, self._handle.longest)
        wrong = {n: f"the document has {own:,} tokens, and the server takes {longest:,}" for n, own in tokens.items()}
        wrong |= _too_large(texts)
        if not wrong:
            return Encoded(await self._embed(target, kept, size, urgent=urgent))
        if target.spec.too_long is TooLong.FAIL:
            kept = [text for n, text in enumerate(kept) if n not in wrong]
            return Encoded(await self._embed(target, kept, None, urgent=urgent), rejected=wrong)
        for n, beginning in (await truncation.truncate(self._handle.server, kept, tokens, longest)).items():
            kept[n] = beginning
        return Encoded(await self._embed(target, kept, None, urgent=urgent), truncated=frozenset(wrong))

    async def _divided(
        self, target: Target, chunking: Chunking, texts: Sequence[str], chunks: Chunks, urgent: bool,
        recall: Recall | None,
    ) -> Encoded:  # fmt: skip
        """One vector per chunk. Parts are sent one by one, and keep their vectors when a later part fails."""
        wrong = _too_large(texts, TOO_LARGE_FOR_CHUNKS)
        kept = [text for n, text in enumerate(texts) if n not in wrong]
        handle = self._handle
        if not chunks.fit(handle.info, handle.longest):
            spans = await split(handle.server, kept, chunking, handle.longest)
            chunks.begin(kept, spans, target.spec.dimensions, handle.info, handle.longest)
            positions = [n for n in range(len(texts)) if n not in wrong]
            several = [n for n, own in zip(positions, spans, strict=True) if len(own) > 1]
            if recall and several:
                chunks.use(await recall(several))
        while part := chunks.next_part(self._limits, self._ratio):
            handle.check()
            chunks.take(part, await self._embed(target, [chunks.texts[n] for n in part], None, urgent=urgent))
        return Encoded(chunks.vectors, rejected=wrong, spans=chunks.spans)

    async def _embed(self, target: Target, texts: Sequence[str], size: int | None, *, urgent: bool) -> Vectors:
        dimensions = target.spec.dimensions
        if not texts:
            return np.empty((0, dimensions), np.float32)
        wanted = target.spec.requested_dimensions
        found, tokens = await embed(self._handle.server, self._handle.info, texts, wanted, urgent=urgent)
        size = sum(len(text.encode()) for text in texts) if size is None else size
        self._ratio.counted(size, len(texts), tokens)
        return target.finished(found)


async def embed(
    server: EmbeddingServer, info: ModelInfo, texts: Sequence[str], dimensions: int, *, urgent: bool = False
) -> tuple[Vectors, int]:
    """Unit vectors of shape (len(texts), dimensions), shortened by the server or here, and the tokens it counted.

    Raises as `Encoder.documents`; ModelMismatch if the server answers under another name than it did before."""
    native = info.shortens_to(dimensions)
    answer = await server.embed(info, texts, dimensions if native else None, urgent=urgent)
    check_name(answer, info, server.url)
    if native or answer.vectors.shape[1] == dimensions:
        return vectors.unit_vectors(answer.vectors, len(texts), dimensions), answer.tokens
    return vectors.shorten(vectors.check(answer.vectors, len(texts), info.dimensions), dimensions), answer.tokens


def check_name(answer: Answer, info: ModelInfo, url: str) -> None:
    """Raises ModelMismatch if the server answers under another name than it did before."""
    if answer.model != info.answers_as:
        raise ModelMismatch(
            f"the server at {url} answers as {answer.model}, and was {info.answers_as} before; if several servers share "
            "this address, start them all with the same --served-model-name"
        )


def _too_large(texts: Sequence[str], sentence: str = TOO_LARGE) -> dict[int, str]:
    return {n: sentence for n, text in enumerate(texts) if len(text) > LONGEST_DOCUMENT}
