"""The wake-up service: it listens for notifications, and notices a dead connection by pings."""

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
        """reader: the loop's connection. ping: seconds between pings, and the timeout of an answer; 0: no pings."""
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
        """Notice a dead connection that reports no error: the one that reads notifies the one that listens."""
        while True:
            await asyncio.sleep(self._every)
            if self._reader.lock.locked():  # it is in use; a statement that never ends is noticed here too
                await self._freed()
                continue
            self._pinged.clear()
            try:
                async with asyncio.timeout(self._every):
                    cursor = await self._reader.execute(statement("ping"), {"channel": self._channel})
                    sent, _ = await cursor.fetchone() or (False, None)
                    if sent:
                        await self._pinged.wait()
            except TimeoutError:
                raise DatabaseUnavailable(f"a connection has been silent for {self._every:.0f} s") from None

    async def _freed(self) -> None:
        """Wait for the statement that runs on the reading connection."""
        try:
            async with asyncio.timeout(LONGEST_STATEMENT), self._reader.lock:
                return
        except TimeoutError:
            raise DatabaseUnavailable(f"a statement has not ended in {LONGEST_STATEMENT:.0f} s") from None
