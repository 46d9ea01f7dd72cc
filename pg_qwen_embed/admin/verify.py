"""`verify`: count drift, and on request repair it, after what is missing of the embedding was created again."""

from dataclasses import dataclass

import psycopg

from pg_qwen_embed.admin import restore, status
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.report import Drift
from pg_qwen_embed.postgres import catalog, trust
from pg_qwen_embed.postgres.connection import Connection, connect
from pg_qwen_embed.postgres.drift import Repaired, is_unreadable, repair_now

PURPOSE = "pg_qwen_embed verify"


@dataclass(frozen=True, slots=True)
class Verified:
    """unreadable: rows that are not counted, because PostgreSQL cannot read their documents."""

    drift: Drift  # before the repair
    unreadable: int = 0
    enqueued: Repaired | None = None  # None: no repair was requested
    restored: tuple[str, ...] = ()  # what was created again


def verify(database_url: str, name: str, *, repair: bool) -> Verified:
    """Count drift. With `repair`, create again what is missing, and enqueue what has drifted. Raises UsageError, SetupError."""
    restored = _restored(database_url, name) if repair else []
    with connect(database_url, PURPOSE, tables_only=True) as connection:
        trust.require_trusted(connection, name)
        catalog.require_initialised(connection)
        target = catalog.embedding(connection, name).target
        drift, unreadable = _count(connection, target)
    return Verified(drift, unreadable, repair_now(database_url, target) if repair else None, tuple(restored))


def _restored(database_url: str, name: str) -> list[str]:
    with connect(database_url, PURPOSE) as connection:
        trust.require_trusted(connection, name)
        catalog.require_initialised(connection)
        return restore.restore(connection, name)


def _count(connection: Connection, target: Target) -> tuple[Drift, int]:
    """In one statement if every document can be read."""
    try:
        return status.drift(connection, target), 0
    except psycopg.Error as error:
        if not is_unreadable(error):
            raise
    return status.drift_by_page(connection, target)
