"""Repair of drift: rows whose vector is missing, stale or orphaned are found and put into the outbox.

Fingerprints also find what bypasses triggers (a partition attached, a restored dump, DISABLE TRIGGER). The scan goes
page by page in key order: no long transaction, no lock held for longer than a page. The worker does the embedding."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

PAGE = 500  # rows


@dataclass(frozen=True, slots=True)
class Repaired:
    """How many keys were enqueued, and how many rows were skipped because the application had them locked."""

    missing_or_stale: int
    orphaned: int
    locked: int = 0


def repair_now(url: str, target: Target) -> Repaired:
    """A full repair on a connection of its own, without pauses. Raises DatabaseUnavailable."""

    async def work() -> Repaired:
        async with await connect_async(url, "pg_qwen_embed verify") as connection:
            return await repair(connection, target)

    return asyncio.run(work())


async def repair(
    connection: AsyncConnection,
    target: Target,
    *,
    rows: bool = True,
    missing: bool = True,
    orphans: bool = True,
    pause: float = 0.0,
) -> Repaired:
    """Scan the source for rows, then the store for orphans.

    missing: include rows that never had a vector. pause: seconds between pages, to keep the load low."""
    names = Names(target)
    found = [
        await _scan(connection, target, _pages(page, beyond, names), missing, pause) if wanted else (0, 0)
        for page, beyond, wanted in (
            ("repair_page", "beyond", rows),
            ("repair_orphans_page", "store_beyond", orphans),
        )
    ]
    return Repaired(found[0][0], found[1][0], found[0][1])


def _pages(name: str, beyond: str, names: Names) -> tuple[sql.Composed, sql.Composed]:
    """The statement for the first page, and for the pages after it."""
    return (
        statement(name, names, beyond=TRUE),
        statement(name, names, beyond=statement(beyond, names)),
    )


async def _scan(
    connection: AsyncConnection,
    target: Target,
    pages: tuple[sql.Composed, sql.Composed],
    missing: bool,
    pause: float,
) -> tuple[int, int]:
    first, following = pages
    enqueued, locked, after = await _page(connection, target, first, missing, ())
    while after is not None:
        await asyncio.sleep(pause)
        more, left, after = await _page(connection, target, following, missing, after)
        enqueued, locked = enqueued + more, locked + left
    return enqueued, locked


async def _page(
    connection: AsyncConnection, target: Target, query: sql.Composed, missing: bool, after: Sequence[str]
) -> tuple[int, int, Sequence[str] | None]:
    values: dict[str, Any] = {"rows": PAGE, "missing": missing}
    values |= {f"after{n}": value for n, value in enumerate(after, 1)}
    async with connection.transaction():
        await connection.execute(statement("draw_transaction_id"))
        enqueued, locked, last = await (await connection.execute(query, values)).fetchone() or (0, 0, None)
        if enqueued:
            await connection.execute(statement("ring"), {"gate": int(Lock.GATE), "id": target.id})
    return enqueued, locked, last
