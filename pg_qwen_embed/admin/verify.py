"""`verify`: count drift, and on request repair it and the triggers that may have caused it."""

from dataclasses import dataclass

from pg_qwen_embed.admin import attach, status
from pg_qwen_embed.domain.report import Drift
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.postgres.drift import Repaired, repair_now


@dataclass(frozen=True, slots=True)
class Verified:
    drift: Drift  # before the repair
    enqueued: Repaired | None = None  # None: no repair was requested


def verify(database_url: str, name: str, *, repair: bool) -> Verified:
    """Count drift. With `repair`, create broken triggers again and enqueue what has drifted. Raises UsageError."""
    with connect(database_url, "pg_qwen_embed verify") as connection:
        target = catalog.embedding(connection, name).target
        if repair and status.status(connection, name)[0].broken_triggers:
            attach.restore_triggers(connection, target)
        found = status.drift(connection, target)
    return Verified(found, repair_now(database_url, target) if repair else None)
