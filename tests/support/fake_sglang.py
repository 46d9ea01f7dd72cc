"""An embedding server for the tests: it answers as SGLang 0.5.23 does, with vectors made from a hash of the text.

It runs in a thread of the test. What it has seen can be read at any time, and its switches set: they count from the
next request on."""

import asyncio
import base64
import hashlib
import json
import ssl
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

END = 256  # the token that the tokenizer adds, and whose vector is the text's; the others are the text's bytes
PROBE = "dimensions"  # the text by which a client learns the length of a vector


@dataclass(eq=False)
class FakeSGLang:
    """`fault`: None, or how requests for embeddings go wrong: a status like "503", "html", "nan", "zero", "too_few",
    "too_short", "index_twice", "hang"."""

    model: str = "stand-in"
    dimensions: int = 16
    weight_version: str | None = "default"
    priorities: str | None = None  # started with --enable-priority-scheduling; which go first: "high" or "low"
    supports_dimensions: bool = True
    matryoshka_dimensions: tuple[int, ...] = ()
    api_key: str | None = None
    certificate: ssl.SSLContext | None = None  # then it speaks TLS
    context_length: int = 32_768  # of tokens, which are bytes here
    ends: bool = True  # the tokenizer appends the token that is pooled
    tokenizing: str = ""  # how /tokenize and /server_info go wrong: "403", "400", "nothing"
    detokenizes: bool = True
    decodes_otherwise: bool = False  # the tokenizer does not write back what it has read, as those of words do not
    tokenizes: bool = True  # servers before 0.5 do not
    poison: str | None = None  # a text that holds it has its whole request refused
    most_inputs: int = 1 << 30  # of a request: more get 503
    overloads: bool = False  # the poison gets 503 instead
    refuses_every: int = 0  # so-many-eth request gets 503; 0 for none
    fault: str | None = None
    disordered: bool = False  # items in another order than asked, each with its index
    floats: bool = False  # answers floats though base64 was asked for, as servers before 0.5.17 do
    delay: float = 0.0
    looks: int = 0  # at /model_info
    requests: list[dict[str, Any]] = field(default_factory=list)  # bodies of /v1/embeddings
    texts: list[str] = field(default_factory=list)  # every input answered with a vector, the probe left out
    waiting: list[list[str]] = field(default_factory=list)  # inputs of requests that are held back now
    most_waiting: int = 0  # requests at once
    url: str = ""
    port: int = 0  # the one it had, when it is started again
    _holds: dict[int, Callable[[list[str]], bool]] = field(default_factory=dict)

    @contextmanager
    def hold(self, condition: Callable[[list[str]], bool]) -> Iterator[None]:
        """Requests whose inputs meet the condition are answered only when the block is left."""
        token = id(condition)
        self._holds[token] = condition
        try:
            yield
        finally:
            del self._holds[token]

    def vector(self, text: str, dimensions: int | None = None) -> NDArray[np.float32]:
        """The unit vector of a text."""
        raw = hashlib.shake_256(text.encode()).digest(self.dimensions)
        found = np.frombuffer(raw, np.uint8).astype(np.float32)[: dimensions or self.dimensions] - 127.5
        unit: NDArray[np.float32] = found / np.linalg.norm(found)
        return unit

    @contextmanager
    def running(self) -> Iterator["FakeSGLang"]:
        loop = asyncio.new_event_loop()
        ready = threading.Event()
        stopping = asyncio.Event()

        async def serve() -> None:
            runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.certificate)
            await site.start()
            self.port = runner.addresses[0][1]
            scheme = "https" if self.certificate else "http"
            self.url = f"{scheme}://127.0.0.1:{self.port}/v1"
            ready.set()
            await stopping.wait()
            await runner.cleanup()
            await asyncio.sleep(0.01)  # closed transports say goodbye in the next turns of the loop

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="stand-in")
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            loop.close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20, middlewares=[_in_fastapis_words, self._authorised])
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/health", self._ready)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/model_info", self._model_info)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_post("/v1/embeddings", self._embeddings)
        return app

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        if self.api_key is not None and request.path not in ("/ready", "/health") and given != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        model: dict[str, Any] = {"id": self.model, "object": "model", "owned_by": "sglang", "root": self.model}
        model["max_model_len"] = self.context_length
        return web.json_response({"object": "list", "data": [model]})

    def _otherwise(self) -> web.Response:
        status = int(self.tokenizing) if self.tokenizing.isdigit() else 200
        return web.json_response({"detail": "no"}, status=status)

    async def _server_info(self, _: web.Request) -> web.Response:
        if self.tokenizing:
            return self._otherwise()
        about: dict[str, Any] = {"version": "0.5.23", "max_req_input_len": self.context_length - 6}
        about["enable_priority_scheduling"] = self.priorities is not None
        about["schedule_low_priority_values_first"] = self.priorities == "low"
        return web.json_response(about)

    async def _tokenize(self, request: web.Request) -> web.Response:
        if not self.tokenizes:
            raise web.HTTPNotFound
        if self.tokenizing:
            return self._otherwise()
        body = json.loads(await request.read())
        special = self.ends and body.get("add_special_tokens", True)
        rows = [_tokens(text, special=special) for text in _listed(body["prompt"])]
        single = isinstance(body["prompt"], str)
        answer = {
            "tokens": rows[0] if single else rows,
            "count": len(rows[0]) if single else [len(row) for row in rows],
        }
        return web.json_response(answer | {"max_model_len": 131_072})  # of the tokenizer, not of the model

    async def _detokenize(self, request: web.Request) -> web.Response:
        if not self.detokenizes:
            raise web.HTTPNotFound
        body = json.loads(await request.read())
        rows = body["tokens"] if isinstance(body["tokens"][0], list) else [body["tokens"]]
        texts = [_text(row, skip_special=body.get("skip_special_tokens", True)) for row in rows]
        if self.decodes_otherwise:
            texts = [" ".join(text) for text in texts]
        return web.json_response({"text": texts if rows is body["tokens"] else texts[0]})

    async def _model_info(self, _: web.Request) -> web.Response:
        self.looks += 1
        abilities = {
            "supports_dimensions": self.supports_dimensions,
            "matryoshka_dimensions": list(self.matryoshka_dimensions) or None,
            "normalize": True,
        }
        about: dict[str, Any] = {"model_path": self.model, "architectures": ["Qwen3ForCausalLM"]}
        if self.weight_version is not None:
            about["weight_version"] = self.weight_version
        return web.json_response(about | {"embedding": abilities})

    def _is_overloaded(self, texts: list[str]) -> bool:
        now_and_then = self.refuses_every and len(self.requests) % self.refuses_every == 0
        poisoned = self.overloads and any(self.poison and self.poison in text for text in texts)
        return len(texts) > self.most_inputs or bool(now_and_then or poisoned)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = _object(await request.read())
        if body is None or not _is_input(body.get("input")):
            return _error(400, "1 validation error: ...", "Bad Request")
        self.requests.append(body)
        texts = _listed(body["input"])
        await self._hold_back(texts)
        if refusal := self._rejection(texts, body.get("dimensions")):
            return _error(400, refusal, "BadRequestError")
        if self._is_overloaded(texts):
            return _error(503, "The request queue is full.", "503")
        if body.get("encoding_format", "float") not in ("float", "base64"):
            return _error(400, "encoding_format must be either 'float' or 'base64'", "BadRequestError")
        if self.fault == "html":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if self.fault and self.fault.isdigit():
            return _error(int(self.fault), "The request queue is full.", self.fault)
        if self.fault == "hang":
            await asyncio.Event().wait()
        items = self._items(texts, body.get("dimensions"), body.get("encoding_format") == "base64" and not self.floats)
        if self.fault is None:
            self.texts.extend(text for text in texts if text != PROBE)
        tokens = sum(len(_tokens(text)) for text in texts)
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": items, "model": self.model, "usage": usage})

    async def _hold_back(self, texts: list[str]) -> None:
        await asyncio.sleep(self.delay)
        self.waiting.append(texts)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        try:
            while any(condition(texts) for condition in list(self._holds.values())):  # noqa: ASYNC110  # no event for it
                await asyncio.sleep(0.005)
        finally:
            self.waiting.remove(texts)

    def _rejection(self, texts: list[str], dimensions: int | None) -> str | None:
        if texts in ([], [""]):
            return "Input cannot be empty"
        for index, text in enumerate(texts):
            if not text.strip():
                return f"Input at index {index} cannot be empty or whitespace only"
            if self.poison is not None and self.poison in text and not self.overloads:
                return "The input (10002 tokens) is longer than the model's context length (512 tokens)."
            if (tokens := len(_tokens(text))) >= self.context_length:
                longest = f"the model's context length ({self.context_length} tokens)"
                return f"The input ({tokens} tokens) is longer than {longest}."
        return None if dimensions is None else self._cannot_be(dimensions)

    def _cannot_be(self, dimensions: int) -> str | None:
        if dimensions <= 0:
            return "Requested dimensions must be greater than 0"
        if dimensions > self.dimensions:
            return f"Provided dimensions are greater than max embedding dimension: {self.dimensions}"
        if not self.supports_dimensions:
            return f"Model '{self.model}' does not support matryoshka representation"
        if self.matryoshka_dimensions and dimensions not in self.matryoshka_dimensions:
            return f"Model '{self.model}' only supports {list(self.matryoshka_dimensions)} matryoshka dimensions"
        return None

    def _items(self, texts: list[str], dimensions: int | None, as_base64: bool) -> list[dict[str, Any]]:
        vectors = [self.vector(text, dimensions) for text in texts]
        if self.fault == "nan":
            vectors[-1] = np.full_like(vectors[-1], np.nan)
        if self.fault == "zero":
            vectors[-1] = np.zeros_like(vectors[-1])
        if self.fault == "too_short":
            vectors = [vector[:-1] for vector in vectors]
        items = [
            {"object": "embedding", "index": index, "embedding": _written(vector, as_base64)}
            for index, vector in enumerate(vectors)
        ]
        if self.fault == "too_few":
            items.pop()
        if self.fault == "index_twice":
            items[-1]["index"] = 0
            items.append(items[-1])
        return items[::-1] if self.disordered else items


@web.middleware
async def _in_fastapis_words(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return web.json_response({"detail": error.reason}, status=error.status)
    return answer


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_input(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _tokens(text: str, *, special: bool = True) -> list[int]:
    return [*unicodedata.normalize("NFC", text).encode(), *([END] if special else [])]


def _text(tokens: list[int], *, skip_special: bool) -> str:
    text = bytes(token for token in tokens if token != END).decode(errors="replace")
    return text + ("" if skip_special else "<|endoftext|>" * tokens.count(END))


def _written(vector: NDArray[np.float32], as_base64: bool) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()


def _error(status: int, message: str, kind: str) -> web.Response:
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return web.json_response(body, status=status)
