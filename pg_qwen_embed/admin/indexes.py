"""The indexes of embeddings as an administrator handles them: list, build, drop and measure.

A build is the worker's own (postgres/index.py): CONCURRENTLY, and one session at a time. One that is ended early leaves
nothing behind. What was measured is recorded, and searches use it from then on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from pg_qwen_embed.admin.transaction import ATTEMPTS, LOCK_TIMEOUT, in_short_transaction, lock_embedding, run
from pg_qwen_embed.domain import index as kinds
from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.events import Events
from pg_qwen_embed.domain.index import Index, IndexKind
from pg_qwen_embed.domain.index_check import AUTOMATIC_RECALL, IndexCheck, Point
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import INDEX_FROM, IndexState
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import catalog, index, index_check, interface, trust
from pg_qwen_embed.postgres.connection import Connection, first_line
from pg_qwen_embed.postgres.index_names import index_text
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Listed:
    """An index, and what is known of it. size: bytes. vectors: about. recall: None until it is measured."""

    embedding: str
    kind: str
    state: IndexState
    wanted: bool
    size: int | None
    vectors: int | None
    ef_search: int
    recall: float | None
    looked_for: int | None
    not_found: int | None
    measured_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def listing(connection: Connection, name: str | None = None) -> list[Listed]:
    """The index of one embedding, or of all. Raises SetupError, UsageError."""
    catalog.require_initialised(connection)
    found = [catalog.find(connection, name)] if name else catalog.registered(connection)
    return [_listed(connection, one.embedding) for one in found]


def _listed(connection: Connection, embedding: Embedding) -> Listed:
    names = Names(embedding.target)
    values = {"index": index_text(names), "name": embedding.name}
    with connection.cursor(row_factory=dict_row) as cursor:
        query = statement("describe_index", names, index_state=statement("index_state"))
        row = cursor.execute(query, values).fetchone() or {}
    spec = embedding.live.spec
    wanted = row.pop("wanted") and spec.index.kind is not IndexKind.NONE
    return Listed(embedding.name, str(spec.index), IndexState(row.pop("state")), wanted, **row)


# Build and drop.


def build(
    connection: Connection,
    url: str,
    name: str,
    progress: index.Watch | None,
    *,
    kind: Index | None = None,
    again: bool = False,
) -> IndexCheck | None:
    """Build the index of an embedding, and keep it from now on; it is measured, unless it is small. Raises UsageError.

    again: also if it is there; it serves until the next one is ready. kind: another than it was attached with."""
    embedding = _embedding(connection, name)
    target = _with(embedding, kind or embedding.live.spec.index).target
    if target.spec.index.kind is IndexKind.NONE:
        raise UsageError(f"{name} is of the kind none: it has no index; add --index hnsw, for instance")
    kinds.check(target.spec.index, target.spec.dimensions)
    names = Names(target)
    (state,) = connection.execute(statement("index_state"), {"index": index_text(names)}).fetchone() or ("none",)
    changes = target.spec.index != embedding.live.spec.index
    if IndexState(state) is IndexState.VALID and not again:
        raise UsageError(f"{name} has its index already; to build it again run: {command('index rebuild {}', name)}")
    again = again or changes
    if not again:
        _want(connection, target, wanted=True)
    try:
        _run(url, target, index.build(url, target, Events(), progress, again=again), cleanup=True)
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(f"{name}: {first_line(error)}; run this as the role that ran attach") from None
    if changes:
        _change_kind(connection, url, embedding, target)
    connection.execute(statement("announce_change"))
    return _measured(connection, url, target)


def drop(connection: Connection, url: str, name: str) -> None:
    """Drop the index of an embedding; the worker does not build it again. Raises UsageError."""
    embedding = _embedding(connection, name)
    target = embedding.target
    _want(connection, target, wanted=False)
    connection.execute(statement("announce_change"))
    _run(url, target, index.drop(url, target))


def _embedding(connection: Connection, name: str) -> Embedding:
    trust.require_trusted(connection, name)
    catalog.require_initialised(connection)
    return catalog.embedding(connection, name)


def _with(embedding: Embedding, kind: Index) -> Embedding:
    live = embedding.live
    return replace(embedding, live=replace(live, spec=replace(live.spec, index=kind)))


def _want(connection: Connection, target: Target, *, wanted: bool) -> None:
    """Record whether the worker keeps the index. Raises UsageError."""
    try:
        connection.execute(statement("want_index", Names(target)), {"wanted": wanted})
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"{target.name}: {first_line(error)}; run this as the role that ran init, or a member of it"
        ) from None


def _change_kind(connection: Connection, url: str, before: Embedding, target: Target) -> None:
    """The functions search by the index: they are replaced. An index of another method has another name."""

    def replaced() -> None:
        lock_embedding(connection, target.name)
        run(connection, interface.create(target.embedding))
        if not target.spec.index.compressed:
            connection.execute(statement("drop_near_function", Names(target)), {})

    repair = f"run: {command('verify {} --repair', target.name)}"
    busy = f"{target.name}: its view stayed in use for {ATTEMPTS} times {LOCK_TIMEOUT}; {repair}"
    in_short_transaction(connection, replaced, busy)
    if Names(before.target).index != Names(target).index:
        _run(url, before.target, index.drop(url, before.target))


def _run(url: str, target: Target, work: Awaitable[None], *, cleanup: bool = False) -> None:
    """cleanup: if it is ended early, nothing is left that is not valid."""

    async def cleaned() -> None:
        try:
            await work
        except asyncio.CancelledError:
            if cleanup:
                await index.drop_interrupted(url, target)
            raise

    try:
        asyncio.run(cleaned())
    except index.GaveWay:
        raise UsageError(f"{target.name}: another session waits for a lock on the table that the index is on, so this has ended; "
                         "nothing was changed: run it again when that session is done") from None  # fmt: skip
    except index.Elsewhere:
        who = asyncio.run(_builder(url, target))
        raise UsageError(f"{target.name}: {who} builds or drops its index; nothing was changed: try again when it is done, "
                         f"see: {command('index list {}', target.name)}") from None  # fmt: skip


async def _builder(url: str, target: Target) -> str:
    async with await index.connected(url, target) as connection:
        found = await index.builder(connection, target)
    return f"the session {found[0]} ({found[1]})" if found else "another session"


# Measure.


def _measured(connection: Connection, url: str, target: Target) -> IndexCheck | None:
    """What the worker would measure, without its pauses."""
    found = _listed(connection, target.embedding)
    if (found.vectors or 0) < INDEX_FROM:
        return None
    effort = replace(index_check.GENTLE, share=1.0)
    return asyncio.run(_measure(url, target, AUTOMATIC_RECALL, effort, np.random.default_rng()))


async def _measure(
    url: str, target: Target, wanted: float, effort: index_check.Effort, rng: np.random.Generator, **others: Any
) -> IndexCheck | None:
    async with await index.connected(url, target) as session:
        found = await index_check.measure(session, target, wanted, effort, rng, **others)
        if found is not None:
            await index_check.record(session, target, found)
        return found


def check(
    connection: Connection,
    url: str,
    name: str,
    *,
    wanted: float,
    k: int,
    queries: int,
    vectors: Vectors | None = None,
    seed: int | None = None,
    tell: Callable[[Point], None] | None = None,
) -> IndexCheck:
    """Measure the index of an embedding against exact search, and record the width that is enough. Raises UsageError.

    queries: how many are made of stored vectors, unless there are `vectors` of texts."""
    embedding = _embedding(connection, name)
    target, names = embedding.target, Names(embedding.target)
    (state,) = connection.execute(statement("index_state"), {"index": index_text(names)}).fetchone() or ("none",)
    if IndexState(state) is not IndexState.VALID:
        raise UsageError(
            f"{name}: its index is {state}, so every search is exact; build it: {command('index create {}', name)}"
        )
    effort = index_check.Effort(queries=queries, looked_for=4 * queries)
    rng = np.random.default_rng(seed)
    try:
        found = asyncio.run(_measure(url, target, wanted, effort, rng, queries=vectors, k=k, tell=tell))
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(f"{name}: {first_line(error)}; nothing was recorded: run this as the role that ran init, or a member "
                         "of it") from None  # fmt: skip
    if found is None:
        raise UsageError(f"{name} holds no vectors yet; is a worker running? See: {command('status {}', name)}")
    return found
