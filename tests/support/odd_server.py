"""An HTTP server that may answer with any bytes: what no well-behaved server sends. It runs in a thread of the test."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pybase64
from in_thread import in_thread
from numpy.typing import NDArray

DIMENSIONS = 16
MODEL = "stand-in"
# The bytes of an answer: the whole, or parts with pauses between them. The connection is closed after an answer without
# a length, and after parts.
Reply = bytes | AsyncIterator[bytes]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    nth: int  # on its connection, from 1
    when: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def texts(self) -> list[str]:
        found: list[str] = self.json["input"]
        return found


Answer = Callable[[Request], Reply]


def vector(text: str) -> NDArray[np.float32]:
    """The unit vector of a text, which is the fake SGLang's too."""
    raw = np.frombuffer(hashlib.shake_256(text.encode()).digest(DIMENSIONS), np.uint8).astype(np.float32) - 127.5
    unit: NDArray[np.float32] = raw / np.linalg.norm(raw)
    return unit


def base64(text: str) -> str:
    return pybase64.b64encode(vector(text).astype("<f4").tobytes()).decode()


def items(texts: list[str]) -> list[dict[str, object]]:
    return [{"object": "embedding", "index": n, "embedding": base64(text)} for n, text in enumerate(texts)]


def json_reply(value: object, status: int = 200, headers: str = "") -> bytes:
    return reply(json.dumps(value).encode(), status, "Content-Type: application/json\r\n" + headers)


def reply(body: bytes, status: int = 200, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def right(request: Request) -> bytes:
    """What a server answers that does all well, with nothing beyond OpenAI's paths."""
    if request.path.endswith("/models"):
        return json_reply({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
    if request.path.endswith("/embeddings"):
        return json_reply(
            {"object": "list", "data": items(request.texts), "model": MODEL, "usage": {"prompt_tokens": 9}}
        )
    return json_reply({"detail": "Not Found"}, 404)


@dataclass
class OddServer:
    """`answer` may be exchanged at any time. requests: those that were received."""

    answer: Answer = right
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @contextmanager
    def running(self) -> Iterator["OddServer"]:
        with in_thread(self._serve, "odd-server"):
            yield self

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 24)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                for nth in itertools.count(1):
                    request = await received(reader, nth)
                    if request is None:
                        break
                    self.requests.append(request)
                    answer = self.answer(request)
                    if isinstance(answer, bytes):
                        writer.write(answer)
                        await writer.drain()
                        if b"Content-Length" not in answer.partition(b"\r\n\r\n")[0]:
                            break
                    else:
                        async for part in answer:
                            writer.write(part)
                            await writer.drain()
                        break
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


async def received(reader: asyncio.StreamReader, nth: int) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))), nth)
