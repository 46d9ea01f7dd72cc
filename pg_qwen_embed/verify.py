"""`verify`: count drift, and on request mend what caused it and what it left."""

from dataclasses import dataclass

from pg_qwen_embed import attach, catalog, repair, status
from pg_qwen_embed.database import connect
from pg_qwen_embed.model import Drift


@dataclass(frozen=True, slots=True)
class Verified:
    drift: Drift  # as it was found
    enqueued: repair.Repaired | None = None


def verify(database_url: str, name: str, *, mend: bool) -> Verified:
    """With `mend` missing triggers are made anew, and what has drifted is enqueued. Raises UsageError."""
    with connect(database_url, "pg_qwen_embed verify") as connection:
        embedding = catalog.embedding(connection, name)
        if mend and status.status(connection, name)[0].triggers_amiss:
            attach.restore_triggers(connection, embedding)
        found = status.drift(connection, embedding)
    return Verified(found, repair.repair_now(database_url, embedding) if mend else None)
