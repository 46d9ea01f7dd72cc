"""The connection that listens. It does nothing else: psycopg holds a connection's lock while it waits on it."""

from collections.abc import AsyncIterator

from psycopg import sql

from pg_qwen_embed.postgres.connection import connect_async
from pg_qwen_embed.postgres.sql import statement

APPLICATION_NAME = "pg_qwen_embed worker: listen"
REGISTRY = "registry"  # the payload when an embedding was attached or detached; else it is a generation's id
PING = "ping"  # on the worker's own channel


async def notifications(url: str, own_channel: str) -> AsyncIterator[str | None]:
    """Payloads as they arrive. The first is None: LISTEN has run, and nothing sent before it was delivered."""
    async with await connect_async(url, APPLICATION_NAME) as connection:
        for channel in ("qwen_embed", own_channel):
            await connection.execute(statement("listen", channel=sql.Identifier(channel)))
        yield None
        async for notification in connection.notifies():
            yield notification.payload
