"""A TCP proxy in front of PostgreSQL's Unix socket that can cut, delay, swallow or refuse."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """`mode`: "pass", "delay" (0.3 s a packet), "swallow" (nothing goes through, nobody is told), "refuse"."""

    target: str  # the path of a Unix socket
    mode: str = "pass"
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def cut(self) -> None:
        """Close every connection in both directions at once."""
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self._writers)])

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
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

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
            upstream, downstream = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, downstream}
        self._writers |= pair
        try:
            await asyncio.gather(self._pump(reader, downstream), self._pump(upstream, writer))
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.mode == "delay":
                    await asyncio.sleep(0.3)
                if self.mode == "swallow":
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
