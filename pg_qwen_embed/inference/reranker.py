"""The client of a reranker: SGLang's /v1/rerank, with Qwen3-Reranker or a cross encoder.

The server writes the prompt: SGLang puts instruction, query and document into its chat template. A server that serves an
embedding model answers the same path with numbers that are no scores, so what it serves is looked at first."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import orjson

from pg_qwen_embed.domain.errors import DocumentRejected, ProtocolError, ServerFault
from pg_qwen_embed.domain.texts import storable
from pg_qwen_embed.inference import answers
from pg_qwen_embed.inference.transport import ANY_REJECTION, Call, Role, Transport
from pg_qwen_embed.settings import Settings

TIMEOUT = 60.0  # seconds: it reads every document
CHECK_INTERVAL = 30.0  # seconds between looks at what it serves
ROLE = Role("reranker", "PG_QWEN_EMBED_RERANKER_URL", "PG_QWEN_EMBED_RERANKER_API_KEY")
HOW_TO_START = "start SGLang for Qwen3-Reranker with --chat-template and without --is-embedding"


class Reranker:
    """`open` it first; any number of tasks. Its settings are those of the reranker alone."""

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        """Raises UsageError for a CA file or a proxy that cannot be used."""
        self._settings = settings
        self._transport = Transport(settings, timeout, once_more=True, role=ROLE)
        self._checked_at = -math.inf  # the loop's time

    def open(self) -> None:
        self._transport.open()

    async def close(self) -> None:
        await self._transport.close()

    async def scores(self, instruction: str, query: str, documents: Sequence[str]) -> list[float]:
        """The score of each document, in their order: the higher the better. No document may be blank.

        Raises DocumentRejected, ServerUnavailable."""
        await self._check()
        texts = [storable(query), *documents]
        body: dict[str, Any] = {"query": texts[0], "documents": documents, "return_documents": False}
        if instruction:
            body["instruct"] = instruction
        most = answers.OVERHEAD + answers.ITEM * len(documents)
        url = f"{self._settings.shown_server_url}/rerank"
        try:
            answer = await self._transport.call(Call("POST", url, orjson.dumps(body), most, texts=texts, has_list=True))
        except DocumentRejected as error:
            hint = f"; {HOW_TO_START}" if "--is-embedding" in str(error) else ""
            raise DocumentRejected(f"{self._server} rejects the documents: {error}{hint}") from None
        return self._in_order(answer or {}, len(documents))

    async def _check(self) -> None:
        """Raises ProtocolError for a server that serves an embedding model."""
        now = asyncio.get_running_loop().time()
        if now - self._checked_at < CHECK_INTERVAL:
            return
        url = f"{self._settings.server_root}/model_info"
        info = await self._transport.call(Call("GET", url, missing=ANY_REJECTION)) or {}
        plan = info.get("embedding")
        if isinstance(plan, dict) and plan.get("task") == "embed":
            raise ProtocolError(f"{self._server} serves an embedding model, which is no reranker; {HOW_TO_START}")
        self._checked_at = now

    def _in_order(self, answer: dict[str, Any], count: int) -> list[float]:
        items = answer.get("data")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ServerFault(f"{self._server} answered no list of scores")
        by_index = {index: item.get("score") for item in items if type(index := item.get("index")) is int}
        if len(items) != count or by_index.keys() != set(range(count)):
            raise ServerFault(
                f"{self._server} answered {len(items)} scores whose `index` is not each number below {count} once"
            )
        found = [by_index[n] for n in range(count)]
        if not all(type(score) in (int, float) and math.isfinite(score) for score in found):
            raise ServerFault(f"{self._server} answered a score that is no number")
        return [float(score) for score in found]

    @property
    def _server(self) -> str:
        return self._transport.server
