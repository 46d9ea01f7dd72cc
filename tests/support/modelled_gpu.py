"""A fake SGLang that takes the time of a modelled GPU: a process for the benchmarks.

    python tests/support/modelled_gpu.py --parallel 1 --fixed-ms 5 --token-us 5 [--dimensions 256] [--vectors FILE]

A request takes `fixed-ms`, and `token-us` for each of its tokens (a token is four characters of text). `parallel`
requests run at once, the others wait in order. With both times 0 the server costs next to nothing. The vectors are
written beforehand: each text gets one of 4,096 random ones, by the checksum of its last 128 characters. With `--vectors
FILE`, a NumPy array, a text that begins with a number gets the row of that number. There is no tokenizer: a worker
counts nothing and truncates nothing.

`GET /counters`: what was done. `POST /counters`: the same, then zero. `GET /log`: [seconds of this machine's monotonic
clock, tokens] of each request. `POST /away` {"seconds": 5, "status": 503}: requests get this status for so long; without
a status their connections are closed, those of running requests too. The process ends with SIGTERM."""

import argparse
import asyncio
import gc
import heapq
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from numpy.typing import NDArray

from pg_qwen_embed.serve import protocol
from pg_qwen_embed.serve.endpoints import create_app, json_response
from pg_qwen_embed.serve.protocol import (
    DetokenizeRequest,
    EmbeddingRequest,
    Load,
    ModelFacts,
    RequestError,
    ServedModel,
    TokenizeRequest,
)

MODEL = "modelled-gpu"
CONTEXT = 32_768
VECTORS = 4096
TAIL = 128  # characters
CONTROLS = {"/counters", "/log", "/away"}  # for the benchmarks, not SGLang's


@dataclass
class Timing:
    """When a modelled GPU is done. Times in seconds."""

    parallel: int
    fixed: float
    per_token: float
    free_at: list[float] = field(init=False)  # a heap: when each of the parallel ones has done its work

    def __post_init__(self) -> None:
        self.free_at = [0.0] * self.parallel

    def end(self, now: float, seconds: float) -> float:
        """Of work that arrives now. It begins when one is free, not when this process wakes: a GPU has its next work
        queued."""
        end = max(now, self.free_at[0]) + seconds
        heapq.heapreplace(self.free_at, end)
        return end


@dataclass
class Counters:
    """busy: seconds of work done, so that `busy / parallel / wall` is the share of the possible."""

    busy: float = 0.0
    texts: int = 0
    tokens: int = 0
    requests: int = 0
    first: float = 0.0
    last: float = 0.0

    def begun(self, now: float, end: float, texts: int) -> None:
        if texts > 1:  # not the probe with which a client learns the length of a vector
            self.first = self.first or now
        self.last = max(self.last, end)

    def done(self, seconds: float, tokens: int, texts: int) -> None:
        self.busy += seconds
        self.texts += texts
        self.tokens += tokens
        self.requests += 1

    def as_json(self) -> bytes:
        return orjson.dumps(asdict(self) | {"wall": self.last - self.first})


class WrittenVectors:
    """The vectors of texts as they stand in an answer. The random ones are written once."""

    def __init__(self, dimensions: int, by_number: NDArray[np.float32] | None) -> None:
        rows = np.random.default_rng(0).standard_normal((VECTORS, dimensions)).astype(np.float32)
        self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._base64 = protocol.written(self._rows, base64=True)
        self._floats = [
            orjson.Fragment(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))
            for row in protocol.written(self._rows, base64=False)
        ]
        self._by_number = by_number

    def of(self, texts: list[str], *, base64: bool) -> Sequence[object]:
        if self._by_number is None:
            written = self._base64 if base64 else self._floats
            return [written[crc32(text[-TAIL:].encode()) % VECTORS] for text in texts]
        return protocol.written(np.stack([self._row(text, self._by_number) for text in texts]), base64=base64)

    def _row(self, text: str, by_number: NDArray[np.float32]) -> NDArray[np.float32]:
        number = text.partition(" ")[0]
        row: NDArray[np.float32] = (
            by_number[int(number)] if number.isdecimal() else self._rows[crc32(text[-TAIL:].encode()) % VECTORS]
        )
        return row


@dataclass
class Absence:
    """A hiccup of the server. Running requests are known, so that their connections can be closed."""

    until: float = 0.0
    status: int = 0  # 0: connections are closed
    active: dict[int, web.Request] = field(default_factory=dict)

    def begin(self, seconds: float, status: int) -> None:
        self.until, self.status = time.perf_counter() + seconds, status
        if not status:
            for request in [*self.active.values()]:
                _close(request)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in CONTROLS:
            return await handler(request)
        if time.perf_counter() < self.until:
            if self.status:
                raise RequestError("The request queue is full.", status=self.status, kind=str(self.status))
            _close(request)
        self.active[id(request)] = request
        try:
            return await handler(request)
        finally:
            del self.active[id(request)]


def _close(request: web.Request) -> None:
    """As a server that has died."""
    if request.transport:
        request.transport.abort()


class ModelledGpu:
    """The service behind SGLang's endpoints."""

    api_key = None
    is_ready = True

    def __init__(self, timing: Timing, vectors: WrittenVectors, dimensions: int) -> None:
        # A client may ask for the whole vector by its length, and for no other.
        facts = ModelFacts(
            ("ModelledGpu",), dimensions, CONTEXT, supports_dimensions=True, matryoshka_dimensions=(dimensions,)
        )
        self.served = ServedModel(MODEL, facts)
        self.counters = Counters()
        self.log: list[tuple[float, int]] = []  # when a request was done, and its tokens
        self._timing = timing
        self._vectors = vectors
        self._inputs = 0

    @property
    def load(self) -> Load:
        return Load(running=self._inputs)

    async def check_health(self) -> None:
        pass

    async def embed(self, request: EmbeddingRequest) -> bytes:
        tokens = sum(map(len, request.texts)) // 4 + len(request.texts)
        await self._work(tokens, len(request.texts))
        items = protocol.items(self._vectors.of(request.texts, base64=request.base64))
        return protocol.embeddings_answer(items, tokens=tokens, model_name=MODEL)

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        raise web.HTTPNotFound

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        raise web.HTTPNotFound

    async def _work(self, tokens: int, texts: int) -> None:
        now, seconds = time.perf_counter(), self._timing.fixed + self._timing.per_token * tokens
        end = self._timing.end(now, seconds)
        self.counters.begun(now, end, texts)
        self._inputs += texts
        try:
            await asyncio.sleep(end - now)
        finally:
            self._inputs -= texts
        self.counters.done(seconds, tokens, texts)
        self.log.append((end, tokens))


class Controls:
    """What the benchmarks ask and tell."""

    def __init__(self, gpu: ModelledGpu, absence: Absence) -> None:
        self._gpu = gpu
        self._absence = absence

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/counters", self.counters)
        app.router.add_post("/counters", self.reset)
        app.router.add_get("/log", self.log)
        app.router.add_post("/away", self.away)

    async def counters(self, _: web.Request) -> web.Response:
        return json_response(self._gpu.counters.as_json())

    async def reset(self, _: web.Request) -> web.Response:
        before, self._gpu.counters = self._gpu.counters, Counters()
        return json_response(before.as_json())

    async def log(self, _: web.Request) -> web.Response:
        return json_response(orjson.dumps(self._gpu.log))

    async def away(self, request: web.Request) -> web.Response:
        wanted: dict[str, Any] = await request.json(loads=orjson.loads)
        self._absence.begin(wanted["seconds"], wanted.get("status", 0))
        return json_response(b"{}")


async def serve(gpu: ModelledGpu) -> None:
    app = create_app(gpu)
    absence = Absence()
    app.middlewares.append(absence.middleware)
    Controls(gpu, absence).add_to(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    gc.freeze()  # what was loaded stays; collections would be the costliest part of a cheap server
    gc.set_threshold(50_000, 50, 50)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"serving {MODEL} on http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--fixed-ms", type=float, default=5)
    parser.add_argument("--token-us", type=float, default=5)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--vectors")
    options = parser.parse_args()
    # A plain view: each access to a memmap costs more than the copy of its row.
    by_number = np.load(options.vectors, mmap_mode="r").view(np.ndarray) if options.vectors else None
    timing = Timing(options.parallel, options.fixed_ms / 1e3, options.token_us / 1e6)
    asyncio.run(serve(ModelledGpu(timing, WrittenVectors(options.dimensions, by_number), options.dimensions)))


if __name__ == "__main__":
    main()
