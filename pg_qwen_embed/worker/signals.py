"""What the loop should hear of. Set by whichever service saw it, taken by the loop: nothing calls upward."""

import asyncio


class Signals:
    """`look` wakes the loop; the others say what it should do first."""

    def __init__(self) -> None:
        self._look = asyncio.Event()
        self._registry = True  # not read yet
        self._servers = False
        self.stopping = asyncio.Event()

    def look(self) -> None:
        """There may be work."""
        self._look.set()

    def registry(self) -> None:
        """The registry, or a source, may have changed."""
        self._registry = True
        self.look()

    def servers(self) -> None:
        """A server came or went; an embedding may be served by another model now."""
        self._servers = True
        self.registry()

    def stop(self) -> None:
        self.stopping.set()
        self.look()

    def begin(self) -> None:
        """Before a look: what is signalled from here on is heard by the next `wait`."""
        self._look.clear()

    def take_registry(self) -> bool:
        taken, self._registry = self._registry, False
        return taken

    def take_servers(self) -> bool:
        taken, self._servers = self._servers, False
        return taken

    async def wait(self, seconds: float | None) -> None:
        """Until something is signalled, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            return
