"""The session locks of a worker: leadership, model mismatches, and the gates by which writers notify a sleeping worker."""

from collections.abc import Iterable

from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import statement


async def take(connection: AsyncConnection, lock: Lock, ids: Iterable[int]) -> list[int]:
    """Take the locks of these generations; returns the generations whose lock no other session holds."""
    return await _taken(connection, "take_locks", lock, list(ids))


async def release(connection: AsyncConnection, lock: Lock, id_: int) -> None:
    await connection.execute(statement("release_lock"), {"lock": int(lock), "id": id_})


async def close_gates(connection: AsyncConnection, ids: Iterable[int]) -> list[int]:
    """Close the gates of these generations; returns the generations whose gate is closed.

    A gate stays open while a writer that found it open is in flight: it will not notify, so the worker may not sleep yet."""
    return await _taken(connection, "close_gates", Lock.GATE, list(ids))


async def open_gates(connection: AsyncConnection, ids: list[int]) -> None:
    if ids:
        await connection.execute(statement("open_gates"), {"lock": int(Lock.GATE), "ids": ids})


async def _taken(connection: AsyncConnection, name: str, lock: Lock, ids: list[int]) -> list[int]:
    if not ids:
        return []
    cursor = await connection.execute(statement(name), {"lock": int(lock), "ids": ids})
    return [row[0] for row in await cursor.fetchall()]
