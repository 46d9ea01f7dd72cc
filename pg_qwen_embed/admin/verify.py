"""`verify`: count drift, and on request repair it, after what is missing of the embedding was created again."""

from dataclasses import dataclass

import psycopg

from pg_qwen_embed.admin import restore, status
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.report import Drift
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import connect, first_line
from pg_qwen_embed.postgres.drift import Repaired, is_unreadable, repair_now


@dataclass(frozen=True, slots=True)
class Verified:
    drift: Drift | None  # before the repair; None: a document that PostgreSQL cannot read prevents the count
    enqueued: Repaired | None = None  # None: no repair was requested
    restored: tuple[str, ...] = ()  # what was created again


def verify(database_url: str, name: str, *, repair: bool) -> Verified:
    """Count drift. With `repair`, create again what is missing, and enqueue what has drifted. Raises UsageError.

    A document that PostgreSQL cannot read prevents the count, but not the repair."""
    with connect(database_url, "pg_qwen_embed verify") as connection:
        catalog.require_initialised(connection)
        restored = restore.restore(connection, name).parts if repair else []
        target = catalog.embedding(connection, name).target
        try:
            found = status.drift(connection, target)
        except psycopg.Error as error:
            if not is_unreadable(error):
                raise
            if not repair:
                raise UsageError(
                    f"{name}: PostgreSQL cannot read a document ({first_line(error)}), so drift cannot be counted; "
                    f"run: pg-qwen-embed verify {name} --repair, then see: pg-qwen-embed failures list {name}"
                ) from None
            found = None
    return Verified(found, repair_now(database_url, target) if repair else None, tuple(restored))
