"""The embedding servers of a client, and its reranker: whose turn it is, and whether they still serve the model.

A server that fails moves to the end. The vectors come from the encoder, as those of documents do."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DocumentRejected, ModelMismatch, ServerUnavailable
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.rerank import documents_of, ranked
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.batching import BYTES_PER_TOKEN, Limits, pack
from pg_qwen_embed.inference.encoder import Encoder, KnownServer
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.reranker import Reranker
from pg_qwen_embed.inference.sglang import ASK_TIMEOUT, IDENTITY_CHECK_INTERVAL, EmbeddingServer
from pg_qwen_embed.search.tasks import together
from pg_qwen_embed.settings import Settings

REQUESTS_AT_ONCE = 4  # of one call with many texts

T = TypeVar("T")


class CachedServer:
    """A server with its identity, which is confirmed when it is older than IDENTITY_CHECK_INTERVAL."""

    def __init__(self, server: EmbeddingServer) -> None:
        self.server = server
        self._known: dict[str, tuple[ModelInfo, float]] = {}  # by the wanted model, and when it was confirmed

    async def queries(self, target: Target, texts: Sequence[str]) -> Vectors:
        """The unit vectors of queries. Raises ModelMismatch, ServerUnavailable, DocumentRejected."""
        info = await self._identity(target.spec.model)
        try:
            return await self._encode(info, target, texts)
        except ModelMismatch:
            if info.mismatch(target):  # as it was confirmed
                raise
            self.forget()  # it has changed since
        return await self._encode(await self._identity(target.spec.model), target, texts)

    def forget(self) -> None:
        """Confirm the identity again next time."""
        self._known.clear()

    async def _encode(self, info: ModelInfo, target: Target, texts: Sequence[str]) -> Vectors:
        return await Encoder(KnownServer(self.server, info)).queries(target, target.embedding.instruction, texts)

    async def _identity(self, wanted: str) -> ModelInfo:
        """wanted: the model, where the server has several."""
        now = asyncio.get_running_loop().time()
        info, confirmed_at = self._known.get(wanted, (None, 0.0))
        if info is not None and now - confirmed_at < IDENTITY_CHECK_INTERVAL:
            return info
        if info is None or not await self.server.still_serves(info):
            info = await self.server.model_info(wanted)
        self._known[wanted] = info, now
        return info


class Servers:
    """All servers of a client, in the order of use."""

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError for a CA file or a proxy that cannot be used."""
        self._servers = [CachedServer(EmbeddingServer(one, ASK_TIMEOUT, once_more=True)) for one in settings.servers]
        self.reranker = Reranker(settings.reranker) if settings.reranker else None

    async def open(self) -> None:
        for one in self._servers:
            await one.server.__aenter__()
        if self.reranker:
            self.reranker.open()

    async def close(self) -> None:
        for one in self._servers:
            await one.server.__aexit__(None, None, None)
        if self.reranker:
            await self.reranker.close()

    async def query(self, target: Target, text: str) -> Vectors:
        """The unit vector of a query, shape (dimensions,). Raises ModelMismatch, ServerUnavailable, DocumentRejected."""
        vector: Vectors = (await self._first(lambda server: server.queries(target, [text])))[0]
        return vector

    async def ranked(self, instruction: str, query: str, hits: Sequence[Hit], limit: int) -> list[Hit]:
        """The best of these hits, by the reranker. Raises ServerUnavailable, DocumentRejected."""
        documents = documents_of(hits)
        if not documents or self.reranker is None:
            return ranked(hits, {}, limit)
        scores = await self.reranker.scores(instruction, query, list(documents.values()))
        return ranked(hits, dict(zip(documents, scores, strict=True)), limit)

    async def queries(self, target: Target, texts: Sequence[str]) -> Vectors:
        """The unit vectors of queries, shape (len(texts), dimensions), with several requests at once. Equal texts are sent
        once. Raises as `query`; DocumentRejected names the position."""
        own = list(dict.fromkeys(texts))
        vectors = np.empty((len(own), target.spec.dimensions), np.float32)
        room = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def fill(positions: list[int]) -> None:
            async with room:
                vectors[positions] = await self._whole_or_in_halves(target, own, positions, texts)

        requests = pack([len(text.encode(errors="replace")) for text in own], Limits(), BYTES_PER_TOKEN)
        await together([fill(positions) for positions in requests])
        where = {text: n for n, text in enumerate(own)}
        return vectors[[where[text] for text in texts]]

    async def _whole_or_in_halves(
        self, target: Target, own: Sequence[str], positions: Sequence[int], texts: Sequence[str]
    ) -> Vectors:
        """A rejected request does not say which of its texts is meant: its halves are sent until one stands alone."""
        chosen = [own[n] for n in positions]
        try:
            return await self._first(lambda server: server.queries(target, chosen))
        except DocumentRejected as error:
            if len(chosen) == 1:
                where = texts.index(chosen[0])
                raise DocumentRejected(f"the query at position {where}: {error}") from None
        half = len(chosen) // 2
        parts = [
            await self._whole_or_in_halves(target, own, part, texts) for part in (positions[:half], positions[half:])
        ]
        return np.concatenate(parts)

    async def _first(self, ask: Callable[[CachedServer], Awaitable[T]]) -> T:
        """The answer of the first server that has the model and answers."""
        problems: list[ServerUnavailable] = []
        for server in list(self._servers):
            try:
                return await ask(server)
            except ModelMismatch as error:
                problems.append(error)
            except ServerUnavailable as error:
                problems.insert(0, error)
                self._servers.sort(key=lambda one: one is server)  # to the end; the others keep their order
        for server in self._servers:  # one of them may be repaired meanwhile
            server.forget()
        raise problems[0]
