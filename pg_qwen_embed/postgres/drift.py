"""Repair of drift: rows whose vector is missing, stale or orphaned are found and put into the outbox.

Fingerprints also find what bypasses triggers (a partition attached, a restored dump, DISABLE TRIGGER). The scan goes
page by page in key order: no long transaction, no lock held for longer than a page. The worker does the embedding."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.postgres.connection import AsyncConnection, Connection, connect_async
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

PAGE = 500  # rows
LOOKS = 5  # of a command at a page with locked rows
LOCKED_PAUSE = 0.1  # seconds between them
UNREADABLE = (
    "22",
    "53200",
    "54",
    "XX",
)  # SQLSTATEs of what a document can cause: data, memory, a limit, the row's own page


@dataclass(frozen=True, slots=True)
class Repaired:
    """How many keys were enqueued, and how many rows were skipped because another session had them locked.

    unreadable: rows whose document PostgreSQL cannot read; they are enqueued, and the worker records them as failures."""

    missing_or_stale: int
    orphaned: int
    locked: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What a page was found to need. last: its last key; None where there was no further row."""

    enqueued: int
    locked: int
    last: Sequence[str] | None
    unreadable: int = 0

    def and_then(self, page: "_Found") -> "_Found":
        return _Found(
            self.enqueued + page.enqueued, self.locked + page.locked, page.last, self.unreadable + page.unreadable
        )


def look_at_page(
    connection: Connection, names: Names, query: sql.Composed, after: Sequence[str], *, binary: bool = False
) -> tuple[list[Any], bool]:
    """What `query` finds on the page after a key, and whether the documents were read.

    A page with a document that PostgreSQL cannot read is halved; the row that is left comes without its document."""
    values: dict[str, object] = {f"after{n}": value for n, value in enumerate(after, 1)}
    rows, documents = PAGE, True
    while True:
        try:
            with connection.transaction():
                connection.execute(statement("see_every_row", names), {})
                cursor = connection.cursor(binary=binary)
                found = cursor.execute(query, values | {"rows": rows, "documents": documents}).fetchall()
        except psycopg.Error as error:
            if not is_unreadable(error) or not documents:
                raise
            documents, rows = rows > 1, max(1, rows // 2)
        else:
            return found, documents


def repair_now(url: str, target: Target) -> Repaired:
    """A full repair on a connection of its own, without pauses. Raises DatabaseUnavailable."""

    async def work() -> Repaired:
        async with await connect_async(url, "pg_qwen_embed verify") as connection:
            return await repair(connection, target, looks=LOOKS)

    return asyncio.run(work())


async def repair(
    connection: AsyncConnection,
    target: Target,
    *,
    rows: bool = True,
    missing: bool = True,
    orphans: bool = True,
    pause: float = 0.0,
    looks: int = 1,
) -> Repaired:
    """Scan the source for rows, then the store for orphans.

    missing: include rows that never had a vector. pause: seconds between pages, to keep the load low. looks: how often it
    looks at a page with locked rows before it leaves these."""
    names = Names(target)
    found = [
        await _scan(connection, target, _pages(page, beyond, names), missing, pause, looks)
        if wanted
        else _Found(0, 0, None)
        for page, beyond, wanted in (
            ("repair_page", "beyond", rows),
            ("repair_orphans_page", "store_beyond", orphans),
        )
    ]
    of_rows, of_orphans = found
    return Repaired(of_rows.enqueued, of_orphans.enqueued, of_rows.locked, of_rows.unreadable)


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
    looks: int,
) -> _Found:
    first, following = pages
    found = await _readable_page(connection, target, first, missing, (), looks)
    while found.last is not None:
        await asyncio.sleep(pause)
        found = found.and_then(await _readable_page(connection, target, following, missing, found.last, looks))
    return found


async def _readable_page(
    connection: AsyncConnection, target: Target, query: sql.Composed, missing: bool, after: Sequence[str], looks: int
) -> _Found:
    """A page. One with a document that PostgreSQL cannot read is halved until that row stands alone."""
    rows = PAGE
    while True:
        try:
            return await _page(connection, target, query, missing, after, rows, looks=looks)
        except psycopg.Error as error:
            if not is_unreadable(error):
                raise
            if rows == 1:
                alone = await _page(connection, target, query, missing, after, rows, documents=False)
                return replace(alone, unreadable=1)
            rows //= 2


def is_unreadable(error: psycopg.Error) -> bool:
    """Whether a row's document can be the cause of an error."""
    return (error.sqlstate or "").startswith(UNREADABLE)


async def _page(
    connection: AsyncConnection, target: Target, query: sql.Composed, missing: bool, after: Sequence[str], rows: int,
    *, documents: bool = True, looks: int = 1,
) -> _Found:  # fmt: skip
    """A page. One with locked rows is given up, and looked at again after a moment: a worker holds its locks no longer."""
    values: dict[str, Any] = {"rows": rows, "missing": missing, "documents": documents}
    values |= {f"after{n}": value for n, value in enumerate(after, 1)}
    while True:
        async with connection.transaction() as transaction:
            await connection.execute(statement("draw_transaction_id"))
            enqueued, locked, last = await (await connection.execute(query, values)).fetchone() or (0, 0, None)
            if locked and looks > 1:
                raise psycopg.Rollback(transaction)
            if enqueued:
                await connection.execute(statement("ring"), {"gate": int(Lock.GATE), "id": target.id})
            return _Found(enqueued, locked, last)
        looks -= 1
        await asyncio.sleep(LOCKED_PAUSE)
