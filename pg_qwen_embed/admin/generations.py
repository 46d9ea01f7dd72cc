"""`generation`: another generation is started next to the live one, made live, and dropped. Queries see one at a time.

Each change is one short transaction under the lock of the embedding's objects, so a command that is killed leaves the state
before or the state after. What takes long is done by the worker, which follows every generation of the registry."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pg_qwen_embed.admin import alter, guards, restore
from pg_qwen_embed.admin.attach import check_documents, check_spec, note_partitions
from pg_qwen_embed.admin.transaction import (
    ATTEMPTS,
    FURTHER_LOCKS,
    LOCK_TIMEOUT,
    in_short_transaction,
    lock_embedding,
    run,
)
from pg_qwen_embed.domain import generations
from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState, Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.generations import Figures
from pg_qwen_embed.domain.index import IndexKind
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import BackfillProgress, BackfillState, IndexState
from pg_qwen_embed.domain.source import MAX_NAME_BYTES, Problem
from pg_qwen_embed.domain.spec import Layout, Spec
from pg_qwen_embed.domain.template import Template
from pg_qwen_embed.postgres import catalog, configurations, ddl, interface, trust
from pg_qwen_embed.postgres.catalog import Registered
from pg_qwen_embed.postgres.connection import Connection, as_text, first_line
from pg_qwen_embed.postgres.drift import PAGE, is_unreadable
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.index_names import index_text
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

# Observe.


def listing(connection: Connection, name: str) -> list[Figures]:
    """Each generation of an embedding, the live one first. Raises SetupError, UsageError."""
    catalog.require_initialised(connection)
    found = catalog.find(connection, name)
    _require_source(found)
    return [
        _without_figures(target, state.problem) if state.problem else figures(connection, target)
        for target, state in found.targets
    ]


def figures(connection: Connection, target: Target) -> Figures:
    """What can be observed of one generation. Raises UsageError if its row was deleted by hand."""
    names = Names(target)
    values = {"id": target.id, "leader_lock": int(Lock.LEADER), "mismatch_lock": int(Lock.MODEL_MISMATCH), "old": 60.0}
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(statement("read_status", names), values).fetchone()
        query = statement("describe_index", names, index_state=statement("index_state"))
        index = cursor.execute(query, {"index": index_text(names), "name": target.name}).fetchone() or {}
    if row is None:
        raise UsageError(
            f"{target.name}: the row of a backfill was deleted; run: {command('verify {} --repair', target.name)}"
        )
    (size, now) = connection.execute(statement("generation_size", names), {}).fetchone() or (0, None)
    backfill = BackfillProgress(
        BackfillState(row["state"]), row["rows_done"], row["rows_total"] or row["rows"], row["started_at"], row["finished_at"]
    )  # fmt: skip
    return Figures(
        id=target.id, state=target.generation.state, spec=target.spec, rows=row["rows"], vectors=row["vectors"],
        indexed=row["vectors"] if row["chunks"] is None else row["chunks"], pending=row["pending"],
        lag_seconds=row["lag_seconds"], failures=row["failures"], backfill=backfill, index=IndexState(index["state"]),
        index_wanted=index["wanted"] and target.spec.index.kind is not IndexKind.NONE, size=int(size or 0),
        leader=row["leader"], seconds_left=_seconds_left(backfill, now),
    )  # fmt: skip


def _without_figures(target: Target, problem: Problem) -> Figures:
    return Figures(
        id=target.id, state=target.generation.state, spec=target.spec, rows=0, vectors=0, indexed=0, pending=0,
        lag_seconds=0.0, failures=0, backfill=BackfillProgress(BackfillState.NONE, 0, 0), index=IndexState.NONE,
        index_wanted=True, size=0, problem=f"{problem.reason}; {problem.advice(target.name)}",
    )  # fmt: skip


def _seconds_left(backfill: BackfillProgress, now: datetime | None) -> float | None:
    if backfill.state is not BackfillState.RUNNING or not backfill.rows_done or not (backfill.started_at and now):
        return None
    passed = (now - backfill.started_at).total_seconds()
    return passed * max(0, backfill.rows_total - backfill.rows_done) / backfill.rows_done


# Start.


def start(connection: Connection, name: str, spec: Spec) -> Target:
    """Create another generation, which the worker fills. Raises UsageError; nothing is changed then.

    Changes of rows reach it from the commit on, before its backfill begins. Where its vectors are those of the live one,
    shortened, they are made in the database: no server is asked. It can be run again if it was interrupted."""
    wanted = _checked(connection, name, spec)
    busy = f"{name}: its table stayed locked for {ATTEMPTS} times {LOCK_TIMEOUT}; nothing was changed: try again when its " \
           "long transaction has ended"  # fmt: skip
    try:
        target = in_short_transaction(connection, lambda: _start(connection, name, wanted), busy)
    except psycopg.errors.InsufficientPrivilege as error:
        raise _denied(name, error) from None
    derive(connection, name, target.id)
    return target


def planned(connection: Connection, name: str, spec: Spec) -> Spec:
    """The spec as it would be started. Raises UsageError for what cannot be."""
    wanted = _checked(connection, name, spec)
    embedding = catalog.find(connection, name).embedding
    wanted = replace(wanted, template=_as_recorded(embedding, wanted.template))
    _startable(embedding, wanted)
    return wanted


def _found(connection: Connection, name: str) -> Registered:
    """The embedding, if it can follow its source. Raises SetupError, UsageError."""
    found = trust.find(connection, name)
    catalog.require_initialised(connection)
    _require_source(found)
    return found


def _checked(connection: Connection, name: str, spec: Spec) -> Spec:
    found = _found(connection, name)
    check_spec(spec)
    if spec.words is not None:
        spec = replace(spec, words=configurations.configuration(connection, spec.words))
    embedding = found.embedding
    oid, _ = catalog.find_source(connection, as_text(identifier(embedding.source.table)), _key_of(embedding))
    catalog.check_text_columns(connection, oid, spec.template.columns)
    _check_view(embedding, spec)
    advice = "add --post none, or choose fewer --dimensions"
    check_documents(connection, name, embedding.source, spec.post, advice)
    return spec


def _key_of(embedding: Embedding) -> list[str]:
    return [column.name for column in embedding.source.key]


def _check_view(embedding: Embedding, spec: Spec) -> None:
    """Raises UsageError if columns of the view would have the same name."""
    taken = {embedding.source.attached_name(column.name) for column in embedding.source.key}
    taken |= {*embedding.view.columns, embedding.column}
    for own in layout_of(spec.layout).view_columns:
        if (shown := embedding.view.name(own)) in taken:
            raise UsageError(
                f'{embedding.name}: the view would have two columns "{shown}": chunks need a column of that name'
            )


def _startable(embedding: Embedding, spec: Spec) -> Generation | None:
    """The generation that was begun with this spec and was interrupted, if any. Raises UsageError if none can be started."""
    name, building = embedding.name, embedding.building
    wanted = replace(spec, column=None)
    if building is not None and replace(building.spec, column=None) != wanted:
        raise UsageError(f"{name} has generation {building.id} that is being built; to give it up run: "
                         f"{command(f'generation drop {{}} --generation {building.id}', name)}")  # fmt: skip
    if building is None and wanted == replace(embedding.live.spec, column=None):
        raise UsageError(f"{name}: nothing would differ from the live generation; say what is to change, --dimensions or --model, "
                         "for instance")  # fmt: skip
    return building


def _start(connection: Connection, name: str, spec: Spec) -> Target:
    lock_embedding(connection, name)
    found = catalog.find(connection, name)
    _require_source(found)
    wanted = replace(spec, template=_as_recorded(found.embedding, spec.template))
    building = _startable(found.embedding, wanted)
    if building is not None:
        return Target(found.embedding, building)
    alter.note_columns(connection, name, found.embedding)
    embedding = catalog.find(connection, name).embedding
    registered = embedding.live
    if wanted.layout is Layout.COLUMN:
        wanted = replace(wanted, column=_free_column(embedding))
    values = {"of": registered.id, "state": GenerationState.BUILDING.value, "spec": Jsonb(wanted.to_json())}
    (id_,) = connection.execute(statement("register_next_generation"), values).fetchone() or (0,)
    state = BackfillState.NONE if generations.can_be_derived(registered.spec, wanted) else BackfillState.PENDING
    connection.execute(statement("register_backfill"), {"generation_id": id_, "state": state.value})
    target = Target(embedding, Generation(id_, GenerationState.BUILDING, wanted))
    run(connection, ddl.generation(target))
    run(connection, ddl.follow(target))
    note_partitions(connection, name, id_)
    connection.execute(statement("announce_change"))
    return target


def _free_column(embedding: Embedding) -> str:
    """A name for another column of vectors: `embedding_2`."""
    taken = {column.name for column in embedding.source.columns}
    start = embedding.column.encode()[: MAX_NAME_BYTES - 4].decode(errors="ignore")
    return next(name for n in count(2) if (name := f"{start}_{n}") not in taken)


def _as_recorded(embedding: Embedding, template: Template) -> Template:
    """The template with each column under the name that the registry knows it by. Raises UsageError."""
    for column in template.columns:
        recorded = embedding.source.attached_name(column)
        if embedding.source.present_name(recorded) != column:
            raise UsageError(
                f'{embedding.name}: the column "{column}" has the name that another column had at attach; rename it'
            )
    return template.with_columns(embedding.source.attached_name)


def _require_source(found: Registered) -> None:
    if found.problem:
        name = found.embedding.name
        raise UsageError(f"{name}: {found.problem.reason}; {found.problem.advice(name)}")


# Derive.


def derive(connection: Connection, name: str, id_: int) -> int:
    """Make the vectors of a generation from the longer ones of the live one, if they are those, and let its backfill look for
    the rest. Returns how many. A row whose document cannot be read ends it: the backfill has the sentences for that."""
    embedding = catalog.find(connection, name).embedding
    target = Target(embedding, generations.of(embedding, id_))
    made = 0
    if generations.can_be_derived(embedding.live.spec, target.spec) and _is_underived(connection, target):
        after: Sequence[str] | None = ()
        try:
            while after is not None:
                of_page, after = _derive_page(connection, target, after)
                made += of_page
        except psycopg.Error as error:
            if not is_unreadable(error):
                raise
        with connection.transaction():
            connection.execute(statement("restart_backfill"), {"id": target.id})
            connection.execute(statement("announce_change"))
    return made


def _is_underived(connection: Connection, target: Target) -> bool:
    """Whether no backfill was requested yet: that comes after the vectors were derived."""
    state = connection.execute(statement("read_backfill_state"), {"id": target.id}).fetchone()
    return state is not None and BackfillState(state[0]) is BackfillState.NONE


def _derive_page(connection: Connection, target: Target, after: Sequence[str]) -> tuple[int, Sequence[str] | None]:
    names, live = Names(target), Names(target.embedding.target)
    beyond = statement("store_beyond", names) if after else TRUE
    query = statement(names.layout.derive, names, longer=live.store, beyond=beyond)
    values = {f"after{n}": value for n, value in enumerate(after, 1)} | {"rows": PAGE}
    with connection.transaction():
        connection.execute(statement(names.layout.write_lock), {"lock": int(Lock.STORE), "id": target.id})
        made, last = connection.execute(query, values).fetchone() or (0, None)
    return made, last


# Make live.


def complete(connection: Connection, name: str, *, force: bool = False) -> Generation:
    """Make the generation that is being built live. Raises UsageError, with the reason and the command that helps.

    force: also if it is not complete."""
    found = _found(connection, name)
    to = generations.to_complete(found.embedding)
    _require_followed(found, to)
    if not force:
        _require_ready(connection, found.embedding, to, "complete")
    _switch(connection, name, to)
    return to


def roll_back(connection: Connection, name: str, *, force: bool = False) -> Generation:
    """Make the retired generation live again, which was kept in step. Raises as `complete`."""
    found = _found(connection, name)
    to = generations.to_roll_back(found.embedding)
    _require_followed(found, to)
    if not force:
        _require_ready(connection, found.embedding, to, "rollback")
    _switch(connection, name, to)
    return to


def _require_followed(found: Registered, to: Generation) -> None:
    if problem := found.states[to.id].problem:
        name = found.embedding.name
        raise UsageError(f"{name}: generation {to.id} is not followed: {problem.reason}; {problem.advice(name)}")


def _require_ready(connection: Connection, embedding: Embedding, to: Generation, verb: str) -> None:
    live, wanted = figures(connection, embedding.target), figures(connection, Target(embedding, to))
    for one in generations.hindrances(embedding.name, wanted, live):
        raise UsageError(f"{embedding.name}: generation {to.id} is not ready: {one.reason}; {one.remedy}, or add --force: "
                         f"{command(f'generation {verb} {{}} --force', embedding.name)}")  # fmt: skip


def _switch(connection: Connection, name: str, to: Generation) -> None:
    busy = f"{name}: its view stayed in use for {ATTEMPTS} times {LOCK_TIMEOUT}; nothing was changed: try again when the long " \
           "queries have ended"  # fmt: skip
    try:
        in_short_transaction(connection, lambda: _exchange(connection, name, to), busy)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(
            f"{name}: something of yours depends on its view or on a function ({first_line(error)}), and generation {to.id} has "
            "other columns in them; drop that first, and create it again afterwards; nothing was changed"
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise _denied(name, error) from None


def _exchange(connection: Connection, name: str, to: Generation) -> None:
    """The view is replaced first. Its lock waits for the queries that read it, and those that come wait for the commit: they
    see the view and the registry of the other generation."""
    lock_embedding(connection, name)
    before = catalog.find(connection, name).embedding
    to = generations.of(before, to.id)
    if to == before.live:
        return  # another command has made it live
    after = generations.switched(before, to)
    connection.execute(statement("note_grants"), {"ids": [before.live.id]})
    connection.execute(statement("inherit_grants"), {"id": to.id, "of": before.live.id})
    try:
        with connection.transaction():
            run(connection, interface.exchange(before, after))
    except (psycopg.errors.InvalidTableDefinition, psycopg.errors.InvalidFunctionDefinition):
        # Other columns than before: OR REPLACE cannot take one away.
        run(connection, interface.drop(before))
        run(connection, interface.create(after))
    _set_state(connection, before.live.id, GenerationState.RETIRED)
    _set_state(connection, to.id, GenerationState.LIVE)
    restore.give_recorded_grants(connection, name)
    connection.execute(statement("announce_change"))


def _set_state(connection: Connection, id_: int, state: GenerationState) -> None:
    connection.execute(statement("set_generation_state"), {"id": id_, "state": state.value})


# Drop.


def to_drop(connection: Connection, name: str, id_: int | None) -> Generation:
    """The generation that `drop` removes. Raises UsageError."""
    found = trust.find(connection, name)
    catalog.require_initialised(connection)
    return generations.to_drop(found.embedding, id_)


def drop(connection: Connection, name: str, id_: int) -> None:
    """Remove a generation that is not live, with its vectors. All or nothing. Raises UsageError."""
    busy = (f"{name}: its tables stayed in use for {ATTEMPTS} times {LOCK_TIMEOUT} (a long transaction, or the index being built); "
            "nothing was removed: try again later")  # fmt: skip
    try:
        in_short_transaction(connection, lambda: _drop(connection, name, id_), busy)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(
            f"{name}: something of yours depends on generation {id_} ({first_line(error)}); drop that first"
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise _denied(name, error) from None


def _drop(connection: Connection, name: str, id_: int) -> None:
    lock_embedding(connection, name)
    embedding = catalog.find(connection, name).embedding
    target = Target(embedding, generations.to_drop(embedding, id_))
    guards.stop_writes_of(connection, target)
    if embedding.source.columns:  # it was not dropped
        connection.execute(statement("lock_source", Names(target)), {})
    connection.execute(statement("limit_lock_wait"), {"timeout": FURTHER_LOCKS})
    run(connection, ddl.drop_generation(target))
    connection.execute(statement("unregister_generation"), {"id": id_})
    connection.execute(statement("forget_queries"))
    connection.execute(statement("announce_change"))


def _denied(name: str, error: psycopg.Error) -> UsageError:
    return UsageError(
        f"{name}: {first_line(error)}; run this as the owner of the table and a member of the role that ran attach"
    )
