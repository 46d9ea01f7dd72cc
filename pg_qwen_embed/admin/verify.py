"""`verify`: count drift, and on request repair it, after what is missing of the embedding was created again."""

from dataclasses import dataclass

from pg_qwen_embed.admin import restore, status
from pg_qwen_embed.domain.report import Drift
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.postgres.drift import Repaired, repair_now


@dataclass(frozen=True, slots=True)
class Verified:
    drift: Drift  # before the repair
    enqueued: Repaired | None = None  # None: no repair was requested
    restored: tuple[str, ...] = ()  # what was created again


def verify(database_url: str, name: str, *, repair: bool) -> Verified:
    """Count drift. With `repair`, create again what is missing, and enqueue what has drifted. Raises UsageError."""
    with connect(database_url, "pg_qwen_embed verify") as connection:
        catalog.require_initialised(connection)
        restored = restore.restore(connection, name).parts if repair else []
        target = catalog.embedding(connection, name).target
        found = status.drift(connection, target)
    return Verified(found, repair_now(database_url, target) if repair else None, tuple(restored))
