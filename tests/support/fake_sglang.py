"""The fake SGLang of the tests: the local server's protocol and endpoints, in front of a model that hashes texts.

It runs in a thread of the test. Its records can be read and its switches set at any time; a switch counts from the next
request on. The switches and records come with the bases; each is one concern and uses its own fields only."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from fake_faults import PROBE as PROBE
from fake_faults import Faults, Holds
from fake_model import ByteTokenizer, HashModel
from in_thread import end, in_thread

from pg_qwen_embed.serve import protocol
from pg_qwen_embed.serve.endpoints import create_app, json_response
from pg_qwen_embed.serve.protocol import EmbeddingRequest, Load


@dataclass(eq=False)
class FakeSGLang(HashModel, ByteTokenizer, Faults, Holds):
    api_key: str | None = None
    certificate: ssl.SSLContext | None = None  # then it speaks TLS
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies of /v1/embeddings
    texts: list[str] = field(default_factory=list)  # every input that got a right vector, the probe left out
    looks: int = 0  # at /model_info
    url: str = ""
    port: int = 0  # the same again when it is restarted
    is_ready = True

    @contextmanager
    def running(self) -> Iterator["FakeSGLang"]:
        with in_thread(self._serve, "fake-sglang"):
            yield self

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = create_app(self)
        app.middlewares.append(self._observe)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.certificate)
        await site.start()
        self.port = runner.addresses[0][1]
        self.url = f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}/v1"
        ready.set()
        await stop.wait()
        await end(runner)

    @web.middleware
    async def _observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Records requests before they are parsed. Faults below the protocol are answered here."""
        if request.path == "/model_info":
            self.looks += 1
        if self.tokenizing and request.path.endswith(("/tokenize", "/server_info")):
            return json_response(
                protocol.detail_answer("no"), int(self.tokenizing) if self.tokenizing.isdigit() else 200
            )
        if request.path == "/v1/embeddings":
            with suppress(orjson.JSONDecodeError):
                self.requests.append(orjson.loads(await request.read()))
            if self.fault == "html":
                return web.Response(text="<html>It works!</html>", content_type="text/html")
        return await handler(request)

    # The service

    @property
    def load(self) -> Load:
        return Load(running=sum(map(len, self.waiting)))

    async def check_health(self) -> None:
        pass

    async def embed(self, request: EmbeddingRequest) -> bytes:
        number = len(self.requests)
        await self.pass_holds(request.texts)
        tokens = self._count(request.texts)
        self.check(request.texts, number)
        if self.fault == "hang":
            await asyncio.Event().wait()
        vectors = np.stack([self.vector(text, request.dimensions) for text in request.texts]).astype(np.float32)
        rows = protocol.written(self.spoiled(vectors), base64=request.base64 and not self.floats)
        if self.fault is None:
            self.texts.extend(text for text in request.texts if text != PROBE)
        items = self.rearranged(protocol.items(rows), request.texts)
        return protocol.embeddings_answer(items, tokens=tokens, model_name=self.model)

    def _count(self, texts: list[str]) -> int:
        """Their tokens together. Raises RequestError for one that is too long."""
        counts = [len(self.tokens(text)) for text in texts]
        for tokens in counts:
            if tokens >= self.context_length:
                raise protocol.input_too_long(tokens, self.context_length)
        return sum(counts)
