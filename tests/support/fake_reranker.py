"""The fake reranker of the tests: SGLang 0.5.23 with Qwen3-Reranker in front of /v1/rerank, as its source says.

The score of a document is the share of the query's words that it has. Token counts are those of the fake SGLang: bytes."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from in_thread import end, in_thread

from pg_qwen_embed.serve.endpoints import json_response
from pg_qwen_embed.serve.protocol import RequestError, input_too_long

EMBEDS = (
    "This model does not appear to be an embedding model by default. Please add `--is-embedding` when launching the server "
    "or try another model."
)


@dataclass(eq=False)
class FakeReranker:
    """fault: what is wrong with every answer: a status, "no template", "html", "hang", "dict", "index_twice", "too_few",
    "nan" or "text". None: nothing. Tests set the fields while it runs."""

    api_key: str | None = None
    context_length: int = 100_000
    fault: str | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # Authorization of each request
    url: str = ""

    @contextmanager
    def running(self) -> Iterator["FakeReranker"]:
        with in_thread(self._serve, "fake-reranker"):
            yield self

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_get("/model_info", self._model_info)
        app.router.add_post("/v1/rerank", self._rerank)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await end(runner)

    async def _model_info(self, _: web.Request) -> web.Response:
        return json_response(orjson.dumps({"model_path": "Qwen3-Reranker", "is_generation": True}))

    async def _rerank(self, request: web.Request) -> web.Response:
        sent = request.headers.get("Authorization", "")
        self.keys.append(sent)
        if self.api_key is not None and sent != f"Bearer {self.api_key}":
            return json_response(b'{"error":"Unauthorized"}', 401)
        try:
            return self._spoiled(self._answer(await request.read())) or await self._silence()
        except RequestError as error:
            return json_response(error.body(), error.status)

    async def _silence(self) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def _answer(self, body: bytes) -> list[dict[str, Any]]:
        fields = parsed(body)
        self.requests.append(fields)
        if self.fault == "no template":
            raise RequestError(EMBEDS)
        if self.fault and self.fault.isdigit():
            raise RequestError("The test wants it.", status=int(self.fault), kind=self.fault)
        for document in fields["documents"]:
            tokens = len(f"{fields.get('instruct', '')}{fields['query']}{document}".encode())
            if tokens >= self.context_length:
                raise input_too_long(tokens, self.context_length)
        found = [_item(fields, n) for n in range(len(fields["documents"]))]
        return sorted(found, key=lambda item: -item["score"])[: fields.get("top_n")]

    def _spoiled(self, found: list[dict[str, Any]]) -> web.Response | None:
        match self.fault:
            case "html":
                return web.Response(text="<html>It works!</html>", content_type="text/html")
            case "hang":
                return None
            case "dict":
                return json_response(orjson.dumps({"results": found}))
            case "index_twice":
                found = [item | {"index": 0} for item in found]
            case "too_few":
                found = found[1:]
            case "nan":
                found = [item | {"score": None} for item in found]  # what JSON has for it
            case "text":
                found = [item | {"score": "0.5"} for item in found]
        return json_response(orjson.dumps(found))


def parsed(body: bytes) -> dict[str, Any]:
    """A request that SGLang takes. Raises RequestError with its words."""
    fields: Any = None
    with suppress(orjson.JSONDecodeError):
        fields = orjson.loads(body)
    if not isinstance(fields, dict) or not {"query", "documents"} <= fields.keys():
        raise RequestError("1 validation error:\n  {'type': 'missing'}", kind="Bad Request")
    if fields.get("top_n") is not None and fields["top_n"] < 1:
        raise RequestError("1 validation error:\n  {'type': 'value_error'}", kind="Bad Request")
    query, documents = fields["query"], fields["documents"]
    if not query:
        raise RequestError("Query cannot be empty")
    if not query.strip():
        raise RequestError("Query cannot be empty or whitespace only")
    if not documents:
        raise RequestError("Documents cannot be empty")
    for document in documents:
        if not document:
            raise RequestError("Each document must be a non-empty string")
        if not document.strip():
            raise RequestError("Each document cannot be empty or whitespace only")
    return fields


def _item(fields: dict[str, Any], n: int) -> dict[str, Any]:
    document = fields["documents"][n]
    words = fields["query"].lower().split()
    score = sum(word in document.lower() for word in words) / len(words)
    shown = {"document": document} if fields.get("return_documents", True) else {}
    return {"score": score, **shown, "index": n, "meta_info": None}
