"""What a client has open in one event loop, and for how long.

It is open for the life of an asynchronous generator, which asyncio ends when its event loop ends. So a client that was
never closed leaves nothing open there."""

import asyncio
import ctypes
from collections.abc import AsyncGenerator

from pg_qwen_embed.postgres.client_pool import ClientPool
from pg_qwen_embed.search.servers import Servers


class Opened:
    def __init__(self, servers: Servers, database_url: str) -> None:
        self.servers = servers
        self.database = ClientPool(database_url)
        self.reading = asyncio.Lock()  # the registry is read by one task


Life = AsyncGenerator[None, None]

_left: set[Life] = set()  # of clients that are gone; held here until their loops have ended them
_ending: set[asyncio.Task[None]] = set()  # the loop itself holds no task


class Lives:
    """What a client has open in each event loop. It holds no client."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[Opened, Life]] = {}

    def here(self) -> Opened | None:
        """What is open in the running loop."""
        found = self._by_loop.get(asyncio.get_running_loop())
        return found[0] if found else None

    async def begin(self, opened: Opened) -> None:
        """Open it in the running loop. Nothing is awaited, so no other task comes between."""
        for loop in [loop for loop in self._by_loop if loop.is_closed()]:
            del self._by_loop[loop]
        life = _live(opened)
        self._by_loop[asyncio.get_running_loop()] = opened, life
        await anext(life)

    async def end(self) -> None:
        """Close what is open: here, and in other loops that run in other threads."""
        here = asyncio.get_running_loop()
        while self._by_loop:
            loop, (_, life) = self._by_loop.popitem()
            if loop is here:
                await life.aclose()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_end(life), loop))

    def leave(self) -> None:
        """The client is gone, in whichever thread. A loop that ends before it gets to its task ends the generator itself."""
        _left.difference_update([life for life in _left if _has_ended(life)])
        for loop, (_, life) in self._by_loop.items():
            if not loop.is_closed():
                _left.add(life)
                loop.call_soon_threadsafe(_begin_to_end, loop, life)
        self._by_loop.clear()

    def leave_to_parent(self) -> None:
        """In a forked process."""
        for loop, opened in self._by_loop.items():
            leave_to_parent(loop)
            leave_to_parent(opened)
        self._by_loop.clear()


async def _live(opened: Opened) -> Life:
    await opened.servers.open()
    try:
        yield
    finally:
        opened.database.close()
        await opened.servers.close()


def _has_ended(life: Life) -> bool:
    return getattr(life, "ag_frame", None) is None


def _begin_to_end(loop: asyncio.AbstractEventLoop, life: Life) -> None:
    _ending.add(task := loop.create_task(_end(life)))
    task.add_done_callback(_ending.discard)


async def _end(life: Life) -> None:
    await life.aclose()
    _left.discard(life)


def leave_to_parent(inherited: object) -> None:
    """In a forked process: never let Python destroy this object.

    A loop shares its epoll instance with the parent's, and a connection its socket. To close them here would take them
    away from the parent; not to close them would be a warning for each at the end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
