"""The connections of a client in one event loop: opened when they are needed, bounded, used again, and replaced.

Whoever needs a connection opens it, so the error is his own and comes at once. There is no task in the background, so
an event loop may end at any time. psycopg_pool, which the worker uses, opens connections in tasks of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg.pq import TransactionStatus

from pg_qwen_embed.postgres.connection import AsyncConnection, configure_client, connect_async

MOST = 8  # connections; a search holds one for about a millisecond
MAX_IDLE = 60.0  # seconds until a connection that nobody needs is closed, when another one is given back
PURPOSE = "pg_qwen_embed client"


class ClientPool:
    def __init__(self, url: str, most: int = MOST) -> None:
        self._url = url
        self._room = asyncio.Semaphore(most)
        self._free: list[
            tuple[AsyncConnection, float]
        ] = []  # with the time when it was given back; the newest is the last
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Raises DatabaseUnavailable."""
        async with self._room:
            connection = self._newest() or await connect_async(self._url, PURPOSE, configure_client)
            try:
                yield connection
            finally:
                self._give_back(connection)

    def drop(self) -> None:
        """Close those that nobody uses: one of them was lost, so the others may be too."""
        free, self._free = self._free, []
        for connection, _ in free:
            _finish(connection)

    def close(self) -> None:
        """Those in use are closed when they are given back."""
        self._closed = True
        self.drop()

    def _newest(self) -> AsyncConnection | None:
        while self._free:
            connection, _ = self._free.pop()
            if _is_usable(connection):
                return connection
            _finish(connection)
        return None

    def _give_back(self, connection: AsyncConnection) -> None:
        now = asyncio.get_running_loop().time()
        if self._closed or not _is_usable(connection):
            _finish(connection)
        else:
            self._free.append((connection, now))
        while self._free and now - self._free[0][1] > MAX_IDLE:
            _finish(self._free.pop(0)[0])


def _is_usable(connection: AsyncConnection) -> bool:
    """Whether it is at rest: not lost, and not in a transaction or a request that was left."""
    return not connection.closed and connection.pgconn.transaction_status == TransactionStatus.IDLE


def _finish(connection: AsyncConnection) -> None:
    """At once, and without the event loop, which may have ended."""
    connection.pgconn.finish()
