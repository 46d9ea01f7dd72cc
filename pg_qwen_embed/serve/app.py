"""The local embedding server: an embedder as a service behind SGLang's endpoints, and the process that runs it.

The event loop parses requests. One thread embeds and writes the answers, so that /ready is answered meanwhile. A long
request is divided, and gives way to others between its parts. What requests may cost together is bounded (bounds.py). The
queued requests of a client that disconnects are dropped."""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
from aiohttp import web

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.prompt import PACKAGED_MODEL
from pg_qwen_embed.serve import bounds, endpoints, protocol
from pg_qwen_embed.serve.embedders import Embedder, load, unit
from pg_qwen_embed.serve.protocol import DetokenizeRequest, EmbeddingRequest, Load, ServedModel, TokenizeRequest

DEFAULT_MODEL = Path(__file__).parent / "model"
DEFAULT_MODEL_NAME = PACKAGED_MODEL
SHUTDOWN_TIMEOUT = 0.3  # seconds for unfinished requests when the server stops; aiohttp applies it twice

T = TypeVar("T")


def serve(host: str, port: int, model_path: Path | None, api_key: str | None) -> None:
    """Serve the model in a folder, or the packaged one, until SIGTERM or SIGINT. Port 0: a free one.

    Raises UsageError if the model or the address cannot be used."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    listener = _bind(host, port)  # first: loading a model can take long
    if api_key is None and not _is_loopback(listener):
        print(_open_to_others(listener), file=sys.stderr, flush=True)
    embedder = load(model_path or DEFAULT_MODEL)
    name = str(model_path) if model_path else DEFAULT_MODEL_NAME
    server = LocalServer(embedder, name, api_key)
    asyncio.run(_serve_until_stopped(server, listener))
    if server.load.running:
        # Python would wait until the thread has embedded its texts, but no client is left to read the answer.
        os._exit(0)


def _exit(number: int, _: FrameType | None) -> None:
    """Stopped before the server runs."""
    sys.exit(0)


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} of {host} is taken; choose another with --port (0: any free one)") from error
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from error


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _open_to_others(listener: socket.socket) -> str:
    return (
        f"Warning: whoever can connect to {_address(listener)} may use this server, because it has no API key; set "
        "PG_QWEN_EMBED_API_KEY, give --api-key-file, or listen on 127.0.0.1"
    )


async def _serve_until_stopped(server: "LocalServer", listener: socket.socket) -> None:
    stop = asyncio.Event()
    runner = web.AppRunner(
        create_app(server),
        access_log=None,
        auto_decompress=False,  # 16 kB could become 16 MB; SGLang takes no compressed requests either
        handler_cancellation=True,
        keepalive_timeout=endpoints.KEEP_ALIVE,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await server.warm_up()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(f"serving {_description(server.served)} on http://{_address(listener)}/v1", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _description(model: ServedModel) -> str:
    return f"{model.name} ({model.facts.dimensions} dimensions)"


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def create_app(server: "LocalServer") -> web.Application:
    """The server without its socket. At its start it embeds one word; after that it is /ready."""
    app = endpoints.create_app(server)
    app.cleanup_ctx.append(server.lifespan)
    app.on_shutdown.append(server.stop)
    return app


class EmbeddingThread:
    """The only thread that uses the embedder. Counts the inputs that it embeds and those that wait for it."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self.running = 0
        self.waiting = 0
        self._closed = False

    async def run(self, job: Callable[[], T], *, inputs: int = 1) -> T:
        def work() -> T:
            self.waiting -= inputs
            self.running = inputs
            try:
                return job()
            finally:
                self.running = 0

        if self._closed:
            raise asyncio.CancelledError("the server stops")  # aiohttp closes the connection
        self.waiting += inputs
        future = self._executor.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancel():  # it had not started
                self.waiting -= inputs
            raise

    async def run_in_order(self, jobs: Sequence[Callable[[], T]], inputs: Sequence[int]) -> list[T]:
        """The jobs of one request, in order; those of others come between them. inputs: of each job."""
        later = sum(inputs)
        self.waiting += later
        found = []
        try:
            for job, count in zip(jobs, inputs, strict=True):
                self.waiting -= count
                later -= count
                found.append(await self.run(job, inputs=count))
        finally:
            self.waiting -= later
        return found

    def close(self) -> None:
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)


class LocalServer:
    """The service: everything that takes time goes to the embedding thread."""

    def __init__(self, embedder: Embedder, model_name: str, api_key: str | None) -> None:
        self.served = ServedModel(model_name, embedder.facts)
        self.api_key = api_key
        self.is_ready = False
        self._embedder = embedder
        self._thread = EmbeddingThread()

    @property
    def load(self) -> Load:
        return Load(self._thread.running, self._thread.waiting)

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        warming = asyncio.create_task(self.warm_up())
        yield
        warming.cancel()
        self._thread.close()

    async def warm_up(self) -> None:
        await self.check_health()
        self.is_ready = True

    async def stop(self, _: web.Application) -> None:
        self.is_ready = False

    async def check_health(self) -> None:
        await self._thread.run(partial(self._embedder.embed, ["ready"]))

    async def embed(self, request: EmbeddingRequest) -> bytes:
        rows: list[object] = []
        counted = 0

        def work(texts: Sequence[str], last: bool) -> bytes:
            nonlocal counted
            raw, tokens = self._embedder.embed(texts)
            rows.extend(protocol.written(unit(raw, texts, request.dimensions), base64=request.base64))
            counted += tokens
            if not last:
                return b""
            return protocol.embeddings_answer(protocol.items(rows), tokens=counted, model_name=self.served.name)

        return await self._by_parts(work, request.texts)

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        rows: list[object] = []

        def work(texts: Sequence[str], last: bool) -> bytes:
            for text in texts:
                ids = self._embedder.tokenize(text, add_special_tokens=request.add_special_tokens)
                rows.append(np.array(ids, np.uint32))  # a list takes nine times the memory
            if not last:
                return b""
            return protocol.tokenize_answer(rows, single=request.single, max_length=self.served.facts.context_length)

        return await self._by_parts(work, request.texts)

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        return await self._thread.run(partial(self._detokenize, request))

    async def _by_parts(self, work: Callable[[Sequence[str], bool], bytes], texts: Sequence[str]) -> bytes:
        """Calls `work` in the embedding thread, for one part of the texts after another; the last call writes the answer."""
        parts = list(bounds.parts(texts))
        jobs = [partial(work, part, number == len(parts)) for number, part in enumerate(parts, 1)]
        return (await self._thread.run_in_order(jobs, list(map(len, parts))))[-1]

    def _detokenize(self, request: DetokenizeRequest) -> bytes:
        """In the embedding thread."""
        texts = [
            self._embedder.detokenize(row, skip_special_tokens=request.skip_special_tokens) for row in request.rows
        ]
        return protocol.detokenize_answer(texts, single=request.single)
