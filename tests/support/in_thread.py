"""A server of the tests, which runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

Serve = Callable[[threading.Event, asyncio.Event], Awaitable[None]]


@contextmanager
def in_thread(serve: Serve, name: str) -> Iterator[None]:
    """Run `serve(ready, stop)`: it sets the first when it can be reached, and ends when the second is set."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(ready, stop),), name=name)
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def end(runner: web.AppRunner) -> None:
    """Stop a server, and leave none of its connections open."""
    transports = [one.transport for one in runner.server.connections] if runner.server else []
    await runner.cleanup()
    for transport in transports:  # one that waits for its client to read on would not close by itself
        if transport is not None:
            transport.abort()
    await asyncio.sleep(0.01)  # transports finish closing in the next iterations of the loop
