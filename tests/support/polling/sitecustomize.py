"""No notification reaches a worker: what it follows it finds by polling.

Python runs this file at its start when the folder is on PYTHONPATH; `pytest --polling` puts it there for the processes it
starts, and imports it itself. Pings pass, because a worker that hears none takes its connection for dead."""

from collections.abc import AsyncGenerator
from typing import Any

import psycopg

PING = "ping"
_notifies = psycopg.AsyncConnection.notifies


async def _pings(connection: psycopg.AsyncConnection[Any], **options: Any) -> AsyncGenerator[psycopg.Notify, None]:
    async for notification in _notifies(connection, **options):
        if notification.payload == PING:
            yield notification


psycopg.AsyncConnection.notifies = _pings  # type: ignore[method-assign]
