"""`verify`: count drift, and on request mend what caused it and what it left."""

from dataclasses import dataclass

from pg_qwen_embed.admin import attach, status
from pg_qwen_embed.domain.model import Drift
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.postgres.drift import Repaired, repair_now


@dataclass(frozen=True, slots=True)
class Verified:
    drift: Drift  # as it was found
    enqueued: Repaired | None = None


def verify(database_url: str, name: str, *, repair: bool) -> Verified:
    """With `mend` missing triggers are made anew, and what has drifted is enqueued. Raises UsageError."""
    with connect(database_url, "pg_qwen_embed verify") as connection:
        embedding = catalog.embedding(connection, name)
        if repair and status.status(connection, name)[0].broken_triggers:
            attach.restore_triggers(connection, embedding)
        found = status.drift(connection, embedding)
    return Verified(found, repair_now(database_url, embedding) if repair else None)
