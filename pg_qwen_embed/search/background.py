"""An event loop in a thread of its own, for callers that have none.

It starts with the first request and ends with `close`. Whoever waits for a request when it ends gets a UsageError. A
process that was forked has no such thread: it needs another Background."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.search.async_client import CLOSED
from pg_qwen_embed.search.tasks import ended

CLOSE_TIMEOUT = 5.0  # seconds for the connections to close

T = TypeVar("T")


class Background:
    """Runs coroutines for synchronous callers, in any thread. `end` is the last one."""

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work_at_end = end
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises UsageError after `close`."""
        with self._lock:
            if self.closed:
                work.close()
                raise UsageError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop or self._start())
        try:
            return future.result()
        except CancelledError:
            raise UsageError(CLOSED) from None
        finally:
            future.cancel()  # where the caller was interrupted

    def close(self) -> None:
        """Safe to call twice, and from any thread: Python may collect a Client in the loop's own."""
        with self._lock:
            closed, self.closed = self.closed, True
        if closed or self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(self._loop), self._loop)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_TIMEOUT)

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(loop,), name="pg_qwen_embed client", daemon=True)
        self._thread.start()
        return loop

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        await ended([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
        await self._work_at_end()
        loop.stop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
