"""A server of the tests, which runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

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
