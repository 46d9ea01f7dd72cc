"""An event loop whose clock stands still while something runs and jumps to the next timer when nothing does.

Minutes pass at once, and the time of every step is exact. For code that waits only for timers and its own tasks."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Sleeps by adding to the clock."""

    now = 1000.0  # some time after the machine was started, as clocks have it

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("everybody waits, and no timer is set")
        self.now += 0 if found else max(timeout or 0.0, 0.0)
        return found


class VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, with a clock of its own."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(coroutine)
