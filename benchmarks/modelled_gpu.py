"""An embedding server that takes the time of a modelled GPU, and counts how long it was busy.

    python benchmarks/modelled_gpu.py --parallel 1 --fixed-ms 5 --token-us 5 [--dimensions 256] [--vectors FILE]

A request takes `fixed-ms`, and `token-us` for each of its tokens (a token is four bytes of text); `parallel` requests
run at once, the others wait in order; without a time of its own it is a server that costs next to nothing. The vectors,
in base64 or as floats, are written beforehand: one of 4,096 random ones, by a checksum of the text; with `--vectors FILE`,
an array of numpy's, a text that begins with a number gets the row of that number. `GET /counters` tells
what was done, `GET /log` when: [seconds of this machine's monotonic clock, tokens] of each request. `POST /counters` sets
it to nothing. `POST /away` {"seconds": 5, "status": 503} is a hiccup: requests get this
status, or without one have their connections closed, those under way as well. Ends with SIGTERM."""

import argparse
import asyncio
import base64
import heapq
import json
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from numpy.typing import NDArray

MODEL = "modelled-gpu"
VECTORS = 4096


@dataclass
class Gpu:
    """busy: seconds of work done, so that `busy / parallel / wall` is the share of its ceiling."""

    parallel: int
    fixed: float
    per_token: float
    dimensions: int
    vectors: NDArray[np.float32] | None = None
    free_at: list[float] = field(init=False)  # when each of the parallel ones is done with what it has
    busy: float = 0.0
    texts: int = 0
    tokens: int = 0
    requests: int = 0
    first: float = 0.0
    last: float = 0.0
    log: list[tuple[float, int]] = field(default_factory=list)
    active: dict[int, web.Request] = field(default_factory=dict)
    away_until: float = 0.0
    away_status: int = 0

    def __post_init__(self) -> None:
        self.free_at = [0.0] * self.parallel
        rows = np.random.default_rng(0).standard_normal((VECTORS, self.dimensions)).astype("<f4")
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.encoded = [base64.b64encode(row.tobytes()).decode() for row in rows]
        self.floats = [orjson.Fragment(orjson.dumps(row.astype(float).tolist())) for row in rows]

    async def work(self, tokens: int, texts: int) -> None:
        """Begins when it is here and one is free, not when this process comes to look: a GPU has its next work queued."""
        seconds, now = self.fixed + self.per_token * tokens, time.perf_counter()
        end = max(now, heapq.heappop(self.free_at)) + seconds
        heapq.heappush(self.free_at, end)
        if texts > 1:  # not the probe with which a command learns what is served
            self.first = self.first or now
        self.last = max(self.last, end)
        await asyncio.sleep(end - now)
        self.busy += seconds
        self.texts += texts
        self.tokens += tokens
        self.requests += 1
        self.log.append((end, tokens))

    @web.middleware
    async def away(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not request.path.startswith("/v1/"):  # told what to do, or asked what was done
            told: web.StreamResponse = await handler(request)
            return told
        if time.perf_counter() < self.away_until:
            if self.away_status:
                message = {"object": "error", "message": "The request queue is full.", "type": "503", "param": None,
                           "code": 503}  # fmt: skip
                return web.json_response(message, status=self.away_status)
            _close(request)
        self.active[id(request)] = request
        try:
            answer: web.StreamResponse = await handler(request)
        finally:
            del self.active[id(request)]
        return answer

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        asked = orjson.loads(await request.read())
        texts = asked["input"]
        texts = [texts] if isinstance(texts, str) else texts
        tokens = sum(len(text) for text in texts) // 4 + len(texts)
        await self.work(tokens, len(texts))
        answer = self.as_base64 if asked.get("encoding_format") == "base64" else self.as_floats
        data = [{"object": "embedding", "index": n, "embedding": answer(text)} for n, text in enumerate(texts)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = orjson.dumps({"object": "list", "data": data, "model": MODEL, "usage": usage})
        return web.Response(body=body, content_type="application/json")

    def as_base64(self, text: str) -> str:
        row = self._of_number(text)
        return self.encoded[_checksum(text)] if row is None else base64.b64encode(row.tobytes()).decode()

    def as_floats(self, text: str) -> orjson.Fragment | list[float]:
        row = self._of_number(text)
        return self.floats[_checksum(text)] if row is None else row.astype(float).tolist()

    def _of_number(self, text: str) -> NDArray[np.float32] | None:
        number = "" if self.vectors is None else text.partition(" ")[0]
        return self.vectors[int(number)] if self.vectors is not None and number.isdecimal() else None

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "max_model_len": 32_768}]})

    async def counters(self, request: web.Request) -> web.Response:
        found = {"busy": self.busy, "texts": self.texts, "tokens": self.tokens, "requests": self.requests,
                 "wall": self.last - self.first}  # fmt: skip
        if request.method == "POST":
            self.busy = self.first = self.last = 0.0
            self.texts = self.tokens = self.requests = 0
        return web.json_response(found)

    async def logged(self, _: web.Request) -> web.Response:
        return web.json_response(self.log)

    async def go_away(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        self.away_until, self.away_status = time.perf_counter() + asked["seconds"], asked.get("status", 0)
        if not self.away_status:
            for other in list(self.active.values()):
                _close(other)
        return web.json_response({})


def _checksum(text: str) -> int:
    return zlib.crc32(text.encode()) % VECTORS


def _close(request: web.Request) -> None:
    """As a server that has died."""
    if request.transport:
        request.transport.abort()


async def serve(gpu: Gpu) -> None:
    app = web.Application(client_max_size=64 << 20, middlewares=[gpu.away])
    app.router.add_post("/v1/embeddings", gpu.embeddings)
    app.router.add_get("/v1/models", gpu.models)
    app.router.add_route("*", "/counters", gpu.counters)
    app.router.add_get("/log", gpu.logged)
    app.router.add_post("/away", gpu.go_away)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"serving {MODEL} on http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--fixed-ms", type=float, default=5)
    parser.add_argument("--token-us", type=float, default=5)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--vectors")
    wanted = parser.parse_args()
    vectors = np.load(wanted.vectors, mmap_mode="r") if wanted.vectors else None
    asyncio.run(serve(Gpu(wanted.parallel, wanted.fixed_ms / 1e3, wanted.token_us / 1e6, wanted.dimensions, vectors)))


if __name__ == "__main__":
    main()
