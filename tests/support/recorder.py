"""A proxy in front of a real embedding server that records the text of every requested embedding."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from fake_sglang import PROBE
from yarl import URL


@dataclass
class Recorder:
    target: str  # the server's URL, with its /v1
    texts: list[str] = field(default_factory=list)  # in the order of their requests; the probe is left out
    url: str = ""

    @contextmanager
    def running(self) -> Iterator["Recorder"]:
        loop, ready, stopping = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            app = web.Application(client_max_size=64 << 20)
            app.router.add_route("*", "/{path:.*}", self._forward)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            async with aiohttp.ClientSession() as self._session:
                ready.set()
                await stopping.wait()
                await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="recorder")
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            loop.close()

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.path == "/v1/embeddings":
            self._record(json.loads(body)["input"])
        url = URL(self.target).with_path(request.path).with_query(request.query)
        headers = {"Content-Type": request.headers.get("Content-Type", "")}
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)

    def _record(self, given: str | list[str]) -> None:
        self.texts += [text for text in ([given] if isinstance(given, str) else given) if text != PROBE]
