"""`verify`: count drift, and on request repair it, after what is missing of the embedding was created again."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import psycopg

from pg_qwen_embed.admin import restore, status
from pg_qwen_embed.domain.embedding import GenerationState, Target
from pg_qwen_embed.domain.report import BackfillState, Drift
from pg_qwen_embed.postgres import catalog, trust
from pg_qwen_embed.postgres.connection import Connection, connect
from pg_qwen_embed.postgres.drift import Repaired, is_unreadable, repair_now
from pg_qwen_embed.postgres.sql import statement

PURPOSE = "pg_qwen_embed verify"


@dataclass(frozen=True, slots=True)
class Verified:
    """unreadable: rows that are not counted, because PostgreSQL cannot read their documents."""

    drift: Drift  # before the repair
    unreadable: int = 0
    enqueued: Repaired | None = None  # None: no repair was requested
    restored: tuple[str, ...] = ()  # what was created again


def verify(database_url: str, name: str, *, repair: bool) -> Verified:
    """Count drift, in every generation whose backfill is done. With `repair`, create again what is missing, and enqueue what
    has drifted. Raises UsageError, SetupError."""
    restored = _restored(database_url, name) if repair else []
    with connect(database_url, PURPOSE, tables_only=True) as connection:
        trust.require_trusted(connection, name)
        catalog.require_initialised(connection)
        targets = [one for one in catalog.embedding(connection, name).targets if _is_filled(connection, one)]
        counted = [_count(connection, target) for target in targets]
    drift = Drift(*(sum(part) for part in zip(*(astuple(one) for one, _ in counted), strict=True)))
    unreadable = max(number for _, number in counted)  # rows of the source, which each generation reads
    enqueued = [repair_now(database_url, target) for target in targets] if repair else []
    return Verified(drift, unreadable, _together(enqueued), tuple(restored))


def _is_filled(connection: Connection, target: Target) -> bool:
    """Whether the vectors of a generation should be there: one that is being built gets them from its backfill."""
    if target.generation.state is not GenerationState.BUILDING:
        return True
    row = connection.execute(statement("read_backfill_state"), {"id": target.id}).fetchone()
    return row is not None and BackfillState(row[0]) in (BackfillState.DONE, BackfillState.INDEXING)


def _together(repaired: Sequence[Repaired]) -> Repaired | None:
    return Repaired(*(sum(part) for part in zip(*map(astuple, repaired), strict=True))) if repaired else None


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
