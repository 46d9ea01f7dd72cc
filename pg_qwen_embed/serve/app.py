"""The local embedding server over HTTP: SGLang's endpoints in front of an embedder.

The event loop parses requests; one thread embeds and words the answers, so that /ready is answered meanwhile. The queue
before that thread is unbounded, as SGLang's is; what a client that went away had queued is dropped."""

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.serve import protocol
from pg_qwen_embed.serve.embedders import Embedder, load, unit
from pg_qwen_embed.serve.protocol import DetokenizeRequest, EmbeddingRequest, Refusal, TokenizeRequest

DEFAULT_MODEL = Path(__file__).parent / "model"
DEFAULT_MODEL_NAME = "pg-qwen-embed-stand-in"
MAX_BODY = 64 << 20
KEEP_ALIVE = 5  # seconds; SGLang's, so that a client that copes with one copes with the other
DRAIN = 0.3  # seconds that requests under way are given when the server stops; aiohttp takes them twice

_log = logging.getLogger(__name__)
T = TypeVar("T")


def serve(host: str, port: int, model_path: Path | None, api_key: str | None) -> None:
    """Serve the model of a folder (the packaged one if none) until SIGTERM or SIGINT. Port 0: a free one.

    Raises UsageError if the model or the address cannot be used."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    listener = _bind(host, port)  # first: loading a model can take long
    embedder = load(model_path or DEFAULT_MODEL)
    app = create_app(embedder, api_key=api_key, model_name=str(model_path) if model_path else DEFAULT_MODEL_NAME)
    asyncio.run(_serve_until_told(app, listener))
    if app[SERVER].worker.running:
        # Python would wait for the thread, however long its texts are; nobody is left to hear the answer.
        os._exit(0)


def _leave(number: int, _: FrameType | None) -> None:
    """Told to stop before there is anything to stop."""
    sys.exit(0)


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} of {host} is taken; choose another with --port (0: any free one)") from error
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from error


async def _serve_until_told(app: web.Application, listener: socket.socket) -> None:
    told = asyncio.Event()
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, keepalive_timeout=KEEP_ALIVE, shutdown_timeout=DRAIN
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        server = app[SERVER]
        await server.warm_up()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        host, port, *_ = listener.getsockname()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(f"serving {server.model_name} ({server.model.dimensions} dimensions) on http://{where}/v1", flush=True)
        await told.wait()
    finally:
        await runner.cleanup()


def create_app(embedder: Embedder, *, api_key: str | None, model_name: str) -> web.Application:
    """The server without its socket. It embeds one word when it starts and is /ready after that."""
    server = Server(embedder, model_name)
    guards = [_refusals_as_json] if api_key is None else [_bearer(api_key), _refusals_as_json]
    app = web.Application(middlewares=guards, client_max_size=MAX_BODY)
    app[SERVER] = server
    app.cleanup_ctx.append(server.lifespan)
    app.on_shutdown.append(server.stop)
    for path, handler in (
        ("/ready", server.ready),
        ("/health", server.health),
        ("/v1/models", server.models),
        ("/model_info", server.model_info),
        ("/server_info", server.server_info),
        ("/v1/loads", server.loads),
    ):
        app.router.add_get(path, handler, allow_head=False)
    app.router.add_post("/v1/embeddings", server.embeddings)
    for prefix in ("", "/v1"):
        app.router.add_post(f"{prefix}/tokenize", server.tokenize)
        app.router.add_post(f"{prefix}/detokenize", server.detokenize)
    return app


class Worker:
    """The one thread that embeds, and the count of inputs in it and before it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self.running = 0
        self.waiting = 0

    async def run(self, job: Callable[[], T], *, inputs: int = 1) -> T:
        def work() -> T:
            self.waiting -= inputs
            self.running = inputs
            try:
                return job()
            finally:
                self.running = 0

        self.waiting += inputs
        future = self._thread.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancel():  # it had not started
                self.waiting -= inputs
            raise

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Server:
    """The endpoints. Each parses, has the worker do what takes time, and answers bytes."""

    def __init__(self, embedder: Embedder, model_name: str) -> None:
        self.embedder = embedder
        self.model = embedder.facts
        self.model_name = model_name
        self.worker = Worker()
        self.is_ready = False

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        warming = asyncio.create_task(self.warm_up())
        yield
        warming.cancel()
        self.worker.close()

    async def warm_up(self) -> None:
        await self.worker.run(self._embed_one)
        self.is_ready = True

    async def stop(self, _: web.Application) -> None:
        self.is_ready = False

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_ready else 503)

    async def health(self, _: web.Request) -> web.Response:
        if not self.is_ready:
            return web.Response(status=503)
        await self.worker.run(self._embed_one)
        return web.Response()

    async def embeddings(self, request: web.Request) -> web.Response:
        asked = protocol.parse_embeddings(*await _body(request), self.model, self.model_name)
        return _json(await self.worker.run(partial(self._embed, asked), inputs=len(asked.texts)))

    async def tokenize(self, request: web.Request) -> web.Response:
        asked = protocol.parse_tokenize(*await _body(request))
        return _json(await self.worker.run(partial(self._tokenize, asked)))

    async def detokenize(self, request: web.Request) -> web.Response:
        asked = protocol.parse_detokenize(*await _body(request))
        return _json(await self.worker.run(partial(self._detokenize, asked)))

    async def models(self, _: web.Request) -> web.Response:
        return _json(protocol.models_answer(self.model, self.model_name, created=int(time.time())))

    async def model_info(self, _: web.Request) -> web.Response:
        return _json(protocol.model_info_answer(self.model, self.model_name))

    async def server_info(self, _: web.Request) -> web.Response:
        return _json(protocol.server_info_answer(self.model, self.model_name))

    async def loads(self, _: web.Request) -> web.Response:
        return _json(protocol.loads_answer(running=self.worker.running, waiting=self.worker.waiting))

    # In the worker's thread

    def _embed(self, asked: EmbeddingRequest) -> bytes:
        vectors, tokens = self.embedder.embed(asked.texts)
        vectors = unit(vectors, asked.texts, asked.dimensions)
        return protocol.embeddings_answer(vectors, tokens=tokens, base64=asked.base64, model_name=self.model_name)

    def _embed_one(self) -> None:
        self.embedder.embed(["ready"])

    def _tokenize(self, asked: TokenizeRequest) -> bytes:
        rows = [self.embedder.tokenize(text, add_special_tokens=asked.add_special_tokens) for text in asked.texts]
        return protocol.tokenize_answer(rows, self.model, single=asked.single)

    def _detokenize(self, asked: DetokenizeRequest) -> bytes:
        texts = [self.embedder.detokenize(row, skip_special_tokens=asked.skip_special_tokens) for row in asked.rows]
        return protocol.detokenize_answer(texts, single=asked.single)


SERVER = web.AppKey("server", Server)


async def _body(request: web.Request) -> tuple[bytes, str]:
    return await request.read(), request.headers.get("Content-Type", "")


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _bearer(api_key: str) -> Middleware:
    expected = api_key.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        known = scheme.lower() == "bearer" and secrets.compare_digest(key.encode(errors="replace"), expected)
        if known or request.path.startswith(("/ready", "/health")):
            return await handler(request)
        return _json(b'{"error":"Unauthorized"}', 401)

    return check


@web.middleware
async def _refusals_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return _json(refusal.body(), refusal.status)
    except web.HTTPException as error:
        answer = _json(protocol.detail_answer(error.reason), error.status)
        answer.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
        return answer
    except Exception as error:
        _log.exception("request failed", extra={"path": request.path})
        return _json(protocol.internal_error(error).body(), 500)
