"""A TCP proxy in front of PostgreSQL that can close, delay, swallow or refuse connections, or vanish."""

import asyncio
import ctypes
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

SO_ATTACH_FILTER = 26  # Linux; Python has no name for it
DROP = struct.pack("HBBI", 6, 0, 0, 0)  # one instruction of BPF: keep nothing of the packet

READY = b"Z\0\0\0\5"  # ReadyForQuery, the last message of an answer; one byte follows


@dataclass
class Proxy:
    """`mode`: `pass`, `delay` (0.3 s per packet), `swallow` (packets disappear without an error), `refuse`."""

    target: str | tuple[str, int]  # the path of a Unix socket, or an address
    mode: str = "pass"
    port: int = 0
    answers: int = 0  # how often PostgreSQL said that it is ready for the next request, on connections without TLS
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def cut(self) -> None:
        """Close every connection in both directions at once."""
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self._writers)])

    def vanish(self) -> None:
        """Act like a machine without power: no packet is acknowledged or answered, and nothing is closed. Linux only."""
        self.mode = "refuse"
        asyncio.run_coroutine_threadsafe(self._go_deaf(), self._loop).result()

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        ready, stopping = threading.Event(), asyncio.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stopping.wait()
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                _, stuck = await asyncio.wait(left, timeout=1)
                for task in stuck:
                    task.cancel()

        thread = threading.Thread(target=self._loop.run_until_complete, args=(serve(),), name="proxy")
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            self._loop.call_soon_threadsafe(stopping.set)
            thread.join()
            self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            writer.transport.abort()
            return
        try:
            upstream, downstream = await self._open()
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, downstream}
        self._writers |= pair
        try:
            await asyncio.gather(self._pump(reader, downstream), self._pump(upstream, writer, count=True))
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _go_deaf(self) -> None:
        """Have the kernel drop every packet before it acknowledges it: from outside, the machine is gone."""
        filtering = ctypes.create_string_buffer(DROP)
        program = struct.pack("HP", len(DROP) // 8, ctypes.addressof(filtering))
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self.answers += count and data[-6:-1] == READY
                if self.mode == "delay":
                    await asyncio.sleep(0.3)
                if self.mode == "swallow":
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
