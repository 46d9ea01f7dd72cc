"""Signals to the worker's loop: any service sets them, and the loop takes them, so that no service calls upward."""

import asyncio


class Signals:
    """`look` wakes the loop; the others also say what it should do first."""

    def __init__(self) -> None:
        self._look = asyncio.Event()
        self._registry = False
        self._denied = False
        self.stopping = asyncio.Event()

    def look(self) -> None:
        """There may be work."""
        self._look.set()

    def registry(self) -> None:
        """The registry or a source may have changed; or a server came or went, and an embedding has another model now."""
        self._registry = True
        self.look()

    def denied(self) -> None:
        """PostgreSQL denied something: the role may lack a right."""
        self._denied = True
        self.registry()

    def take_denied(self) -> bool:
        taken, self._denied = self._denied, False
        return taken

    def stop(self) -> None:
        self.stopping.set()
        self.look()

    def begin(self) -> None:
        """To be called before reading: a signal from now on ends the next `wait`."""
        self._look.clear()

    def take_registry(self) -> bool:
        taken, self._registry = self._registry, False
        return taken

    async def wait(self, seconds: float | None) -> None:
        """Wait for a signal, or until the time is over; None: without a limit."""
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            return
