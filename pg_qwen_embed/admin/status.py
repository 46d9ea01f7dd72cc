"""How every embedding is doing, and whether its vectors match its rows."""

from psycopg.rows import dict_row

from pg_qwen_embed.domain.model import BackfillProgress, Drift, Embedding, Status
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import fragments, statement
from pg_qwen_embed.postgres.store import by_layout
from pg_qwen_embed.postgres.triggers import triggers

OLD_TRANSACTION = 60.0  # seconds


def status(connection: Connection, name: str | None = None) -> list[Status]:
    """The status of one embedding, or of all. Raises SetupError, UsageError."""
    catalog.require_initialised(connection)
    found = [catalog.any_embedding(connection, name)] if name else catalog.embeddings(connection)
    return [_status(connection, embedding) for embedding in found]


def drift(connection: Connection, embedding: Embedding) -> Drift:
    """Counts by fingerprint, over the whole source."""
    with connection.transaction():
        connection.execute(statement("see_every_row"))
        row = connection.execute(
            statement(
                "count_drift", by_layout(embedding, fragments.placeholders(embedding), "stored", "stored_by_row")
            ),
            {},
        ).fetchone()
    return Drift(*row) if row else Drift(0, 0, 0)


def _status(connection: Connection, embedding: Embedding) -> Status:
    generation = embedding.generation
    if embedding.source.problem:
        return Status(
            name=embedding.name, source=str(embedding.source.table), model=generation.model,
            dimensions=generation.dimensions, rows=0, vectors=0, truncated=0, pending=0, lag_seconds=0.0, failures=0,
            backfill=BackfillProgress("none", 0, 0), index="none", problem=embedding.source.problem,
        )  # fmt: skip
    expected = triggers(embedding)
    values = {
        "id": generation.id,
        "leader_lock": int(Lock.LEADER),
        "mismatch_lock": int(Lock.MODEL_MISMATCH),
        "old": OLD_TRANSACTION,
        "triggers": [trigger.name(embedding) for trigger in expected],
        "bodies": [trigger.body(embedding) for trigger in expected],
        "whatever_columns": [not trigger.columns(embedding) for trigger in expected],
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        row = (
            cursor.execute(
                statement(
                    "read_status", by_layout(embedding, fragments.placeholders(embedding), "stored", "stored_by_row")
                ),
                values,
            ).fetchone()
            or {}
        )
    index = fragments.identifier(fragments.index_name(embedding)).as_string(None)
    (index_state,) = connection.execute(statement("index_state"), {"index": index}).fetchone() or ("none",)
    return Status(
        name=embedding.name,
        source=str(embedding.source.table),
        model=generation.model,
        dimensions=generation.dimensions,
        rows=row["rows"],
        vectors=row["vectors"],
        truncated=row["cut"],
        chunks=row["chunks"],
        pending=row["pending"],
        lag_seconds=row["lag_seconds"],
        failures=row["failures"],
        backfill=BackfillProgress(
            row["state"], row["rows_done"], row["rows_total"] or row["rows"], row["started_at"], row["finished_at"]
        ),
        index=index_state,
        leader=row["leader"],
        broken_triggers=len(expected) - row["triggers"],
        vacuum_blocked_by=row["vacuum_blocked_by"],
        model_mismatch=row["model_mismatch"],
    )
