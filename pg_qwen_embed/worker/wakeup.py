"""The wake-up service: hears notifications, finds out that a connection is dead, and hears of a stop."""

import asyncio
from typing import NoReturn

from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.listener import PING, REGISTRY, notifications
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.worker.signals import Signals

LONGEST_STATEMENT = 60.0  # seconds


class WakeUp:
    """`start` it in a task group. Its tasks raise DatabaseUnavailable when a connection is lost."""

    def __init__(self, url: str, reader: AsyncConnection, signals: Signals, *, ping: float) -> None:
        """reader: the connection of the loop. ping: seconds between pings, and for an answer; 0 for none."""
        self._url = url
        self._reader = reader
        self._signals = signals
        self._every = ping
        self._channel = f"qwen_embed_{reader.info.backend_pid}"
        self._pinged = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> None:
        group.create_task(self._listen())
        if self._every:
            group.create_task(self._ping())

    async def _listen(self) -> NoReturn:
        async for payload in notifications(self._url, self._channel):
            if payload == PING:
                self._pinged.set()
            elif payload in (None, REGISTRY):
                self._signals.registry()
            else:
                self._signals.look()
        raise DatabaseUnavailable("the connection that listens was closed")

    async def _ping(self) -> NoReturn:
        """A connection may be dead though nobody says so: the one that reads calls the one that listens."""
        while True:
            await asyncio.sleep(self._every)
            if self._reader.lock.locked():  # it is at work; a statement that never ends is found out here too
                await self._freed()
                continue
            self._pinged.clear()
            try:
                async with asyncio.timeout(self._every):
                    await self._reader.execute(statement("ping"), {"channel": self._channel})
                    await self._pinged.wait()
            except TimeoutError:
                raise DatabaseUnavailable(f"a connection has been silent for {self._every:.0f} s") from None

    async def _freed(self) -> None:
        """Wait for the statement that is running on the connection that reads."""
        try:
            async with asyncio.timeout(LONGEST_STATEMENT), self._reader.lock:
                return
        except TimeoutError:
            raise DatabaseUnavailable(f"a statement has not ended in {LONGEST_STATEMENT:.0f} s") from None
