"""The status of embeddings, and the drift between vectors and rows. Nothing is changed."""

from collections.abc import Sequence

import psycopg
from psycopg.rows import dict_row

from pg_qwen_embed.admin import generations, guards, restore
from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.index import IndexKind
from pg_qwen_embed.domain.report import BackfillProgress, BackfillState, Drift, IndexState, OtherGeneration, Status
from pg_qwen_embed.domain.source import Problem, Remedy
from pg_qwen_embed.postgres import catalog, fits, rights, trust
from pg_qwen_embed.postgres.catalog import Registered
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.drift import look_at_page
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.index_names import index_text
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.sql import statement

LONGEST_SESSION = 200  # characters of what is said of a session: its name is chosen by whoever connects
OLD_TRANSACTION = 60.0  # seconds; an older one is reported as blocking vacuum


def status(connection: Connection, name: str | None = None) -> list[Status]:
    """The status of one embedding, or of all. Raises SetupError, UsageError."""
    catalog.require_initialised(connection)
    found = [catalog.find(connection, name)] if name else catalog.registered(connection)
    return [_visible(connection, one) for one in found]


def drift(connection: Connection, target: Target) -> Drift:
    """Counts of missing, stale and orphaned vectors, by fingerprint over the whole source."""
    with connection.transaction():
        connection.execute(statement("see_every_row", Names(target)), {})
        row = connection.execute(statement("count_drift", Names(target)), {}).fetchone()
    return Drift(*row) if row else Drift(0, 0, 0)


def drift_by_page(connection: Connection, target: Target) -> tuple[Drift, int]:
    """The same page by page, and how many rows were left out because PostgreSQL cannot read their documents."""
    names, missing, stale, unreadable = Names(target), 0, 0, 0
    after: tuple[str, ...] = ()
    last: Sequence[str] | None = ()
    while last is not None:
        of_page, last, left_out = _page(connection, names, after)
        missing, stale, unreadable = missing + of_page[0], stale + of_page[1], unreadable + left_out
        after = tuple(last or ())
    with connection.transaction():
        connection.execute(statement("see_every_row", names), {})
        (orphaned,) = connection.execute(statement("count_orphans", names), {}).fetchone() or (0,)
    return Drift(missing, stale, orphaned), unreadable


def _page(
    connection: Connection, names: Names, after: tuple[str, ...]
) -> tuple[tuple[int, int], Sequence[str] | None, int]:
    """What a page has missing and stale, its last key, and how many rows it left out. It is halved as in a repair."""
    query = statement("count_drift_of_page", names, beyond=statement("beyond", names) if after else TRUE)
    found, documents = look_at_page(connection, names, query, after)
    missing, stale, last = found[0] if found else (0, 0, None)
    return ((missing, stale), last, 0) if documents else ((0, 0), last, 1)


def _visible(connection: Connection, registered: Registered) -> Status:
    """The status, or why this role may not see it: the other embeddings are shown all the same."""
    try:
        return _status(connection, registered)
    except psycopg.errors.InsufficientPrivilege as error:
        reason = rights.explain(connection, error, rights.of_status(names_of(registered.embedding)))
        return _without_figures(registered.embedding, unreadable=reason)


def _status(connection: Connection, registered: Registered) -> Status:
    embedding = registered.embedding
    if registered.problem:
        return _without_figures(embedding, problem=registered.problem)
    target, names = embedding.target, Names(embedding.target)
    values = {
        "id": target.id,
        "leader_lock": int(Lock.LEADER),
        "mismatch_lock": int(Lock.MODEL_MISMATCH),
        "old": OLD_TRANSACTION,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(statement("read_status", names), values).fetchone()
    if row is None:
        return _without_figures(embedding, problem=Problem("the row of its backfill was deleted", Remedy.REPAIR))
    strangers = trust.strangers_at(connection, target, trust.strangers(connection))
    with connection.cursor(row_factory=dict_row) as cursor:
        query = statement("describe_index", names, index_state=statement("index_state"))
        index = cursor.execute(query, {"index": index_text(names), "name": embedding.name}).fetchone() or {}
    there = index["state"] != IndexState.NONE
    return Status(
        name=embedding.name,
        source=str(embedding.source.table),
        spec=target.spec,
        rows=row["rows"],
        vectors=row["vectors"],
        truncated=row["truncated"],
        chunks=row["chunks"],
        pending=row["pending"],
        lag_seconds=row["lag_seconds"],
        failures=row["failures"],
        backfill=BackfillProgress(
            BackfillState(row["state"]), row["rows_done"], row["rows_total"] or row["rows"], row["started_at"],
            row["finished_at"],
        ),
        index=IndexState(index["state"]),
        index_wanted=index["wanted"] and target.spec.index.kind is not IndexKind.NONE,
        ef_search=index["ef_search"] if there else None,
        recall=index["recall"] if there else None,
        looked_for=index["looked_for"] or 0,
        not_found=index["not_found"] or 0,
        leader=row["leader"] and shown(row["leader"], LONGEST_SESSION),
        strangers=tuple(f"{one.sentence}; {one.advice}" for one in strangers),
        broken_triggers=restore.broken_triggers(connection, target),
        namesake=registered.namesake,
        missing=(*restore.look_at_interface(connection, embedding).broken, *guards.unguarded(connection, target)),
        vacuum_blocked_by=row["vacuum_blocked_by"] and shown(row["vacuum_blocked_by"], LONGEST_SESSION),
        model_mismatch=row["model_mismatch"],
        fitted_on=fits.fitted_on(connection, target) if target.spec.post else None,
        generation=target.id,
        others=tuple(_other(connection, one, state.problem) for one, state in registered.targets if one.id != target.id),
    )  # fmt: skip


def _other(connection: Connection, target: Target, problem: Problem | None) -> OtherGeneration:
    spec, state = target.spec, target.generation.state.value
    if problem:
        return OtherGeneration(target.id, state, spec.model, spec.dimensions, 0, 0, 0, 0, problem.reason)
    found = generations.figures(connection, target)
    return OtherGeneration(
        target.id, state, spec.model, spec.dimensions, found.vectors, found.pending, found.failures, found.size
    )


def _without_figures(embedding: Embedding, *, problem: Problem | None = None, unreadable: str | None = None) -> Status:
    return Status(
        name=embedding.name, source=str(embedding.source.table), spec=embedding.live.spec,
        rows=0, vectors=0, truncated=0, pending=0, lag_seconds=0.0, failures=0,
        backfill=BackfillProgress(BackfillState.NONE, 0, 0), index=IndexState.NONE, unreadable=unreadable,
        problem=problem.reason if problem else None, remedy=problem.advice(embedding.name) if problem else None,
    )  # fmt: skip
