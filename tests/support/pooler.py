"""A minimal connection pooler in transaction mode: all clients share one session on PostgreSQL's Unix socket.

Like PgBouncer with `pool_mode = transaction`, it gives the session to a client that begins something, until the
transaction ends, and reports a made-up process id to each client. For trust authentication, and without COPY."""

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


@dataclass
class Pooler:
    target: str  # the path of a Unix socket
    port: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _greeting: bytes = b""
    _upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @contextmanager
    def running(self) -> Iterator["Pooler"]:
        loop, ready, stopping = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            self._turn = asyncio.Lock()
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stopping.wait()
            server.close()
            if self._upstream:
                self._upstream[1].transport.abort()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="pooler")
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            startup = await _startup(reader, writer)
            async with self._turn:
                await self._open(startup)
            number = next(self._numbers)
            writer.write(self._greeting + _message(b"K", struct.pack(">ii", number, 0)) + _message(b"Z", b"I"))
            while await self._transaction(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _open(self, startup: bytes) -> None:
        """The one session, opened as the first client asks, and PostgreSQL's messages at its start."""
        if self._upstream:
            return
        self._upstream = upstream, downstream = await asyncio.open_unix_connection(self.target)
        downstream.write(startup)
        while (kind_and_body := await _read(upstream))[0] != b"Z":
            if kind_and_body[0] != b"K":
                self._greeting += _message(*kind_and_body)

    async def _transaction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Forward until the session is idle again; False when the client leaves."""
        first = await _read(reader)
        assert self._upstream
        async with self._turn:
            state, message = b"", first
            while state != b"I":
                if message[0] == b"X":
                    return False
                self._upstream[1].write(_message(*message))
                if message[0] in b"QS":
                    state = await self._answer(writer)
                if state != b"I":
                    message = await _read(reader)
        return True

    async def _answer(self, writer: asyncio.StreamWriter) -> bytes:
        assert self._upstream
        while True:
            kind, body = await _read(self._upstream[0])
            writer.write(_message(kind, body))
            if kind == b"Z":
                return body


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    while True:
        (length,) = struct.unpack(">i", head := await reader.readexactly(4))
        body = await reader.readexactly(length - 4)
        if struct.unpack(">i", body[:4])[0] not in (SSL_REQUEST, GSS_REQUEST):
            return head + body
        writer.write(b"N")


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = struct.unpack(">ci", await reader.readexactly(5))
    return kind, await reader.readexactly(length - 4)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body
