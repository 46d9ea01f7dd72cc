"""`alter`: the table of an embedding is altered, or its key is followed that has changed. Vectors and grants are kept.

What pins the embedded columns (triggers, view, document function) is dropped and created again in the transaction of the
alteration. Afterwards the worker compares all rows with their vectors: those whose document changed are embedded again."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_qwen_embed.admin import former, guards, restore
from pg_qwen_embed.admin.transaction import (
    ATTEMPTS,
    FURTHER_LOCKS,
    LOCK_TIMEOUT,
    in_short_transaction,
    lock_embedding,
    run,
)
from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Column, QualifiedName, Remedy, Source
from pg_qwen_embed.postgres import catalog, ddl, interface, trust
from pg_qwen_embed.postgres.connection import (
    SEARCH_PATH,
    Connection,
    as_text,
    first_line,
    search_paths,
    use_search_path,
)
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.sql import statement


def run_sql(connection: Connection, name: str, command: str) -> None:
    """Run a statement on the table of an embedding, all or nothing. Raises UsageError, with PostgreSQL's sentence."""
    if not command.strip():
        raise UsageError("the statement is empty; write it like --sql 'ALTER TABLE articles ...'")

    def work() -> None:
        with suspended(connection, name):
            _run(connection, command)

    busy = f"{name}: its table stayed locked for {ATTEMPTS} times {LOCK_TIMEOUT}; nothing was changed: try again when its " \
           "long transaction has ended"  # fmt: skip
    with _as_owner(name):
        in_short_transaction(connection, work, busy)


def _run(connection: Connection, command: str) -> None:
    body = as_text(statement("run_command_body", command=sql.Literal(command)))
    try:
        connection.execute(statement("run_command", body=sql.Literal(body)), {})
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        raise
    except psycopg.Error as error:
        if connection.closed:
            raise
        ends = "transaction commands" in (reason := first_line(error))
        reason = "it would end the transaction; leave BEGIN, COMMIT and ROLLBACK out" if ends else reason
        raise UsageError(f"PostgreSQL rejects the statement, and nothing was changed: {reason}") from None


@contextmanager
def suspended(connection: Connection, name: str) -> Iterator[None]:
    """Inside, every column of the embedding's table can be altered, in the transaction of this connection, which may be of
    others.

    Nothing is followed meanwhile; the table is locked (ACCESS EXCLUSIVE) until the transaction ends. At the end everything
    is created again, for the columns as they are then. Raises UsageError, also if an embedded column is gone."""
    own, used_before = search_paths(connection)
    use_search_path(connection, SEARCH_PATH)
    lock_embedding(connection, name)
    found = trust.find(connection, name)
    if found.problem and not found.problem.remedy.keeps_source:
        raise UsageError(f"{name}: {found.problem.reason}; {found.problem.advice(name)}")
    guards.stop_writes(connection, found.embedding, *_others(connection, found.embedding))
    connection.execute(statement("lock_source", names_of(found.embedding)), {})
    all_of_it = [found.embedding, *_others(connection, found.embedding)]
    for before in all_of_it[1:]:
        lock_embedding(connection, before.name)
    connection.execute(statement("note_grants"), {"ids": [target.id for one in all_of_it for target in one.targets]})
    connection.execute(statement("limit_lock_wait"), {"timeout": FURTHER_LOCKS})
    for before in all_of_it:
        _suspend(connection, before)
    connection.execute(statement("limit_lock_wait"), {"timeout": LOCK_TIMEOUT})
    use_search_path(connection, own)
    yield
    use_search_path(connection, SEARCH_PATH)
    for before in all_of_it:
        note_columns(connection, before.name, before)
        _resume(connection, before.name, before)
    use_search_path(connection, used_before)


def _others(connection: Connection, embedding: Embedding) -> list[Embedding]:
    """The other embeddings of the same table, which pin its columns too."""
    found = catalog.registered(connection)
    return [
        one.embedding
        for one in found
        if one.embedding.source.table == embedding.source.table
        and one.embedding.name != embedding.name
        and (one.problem is None or one.problem.remedy.keeps_source)
    ]


def is_attached(connection: Connection, name: str) -> bool:
    """Whether there is an embedding of that name, on a connection that may not be ours. Raises SetupError."""
    _, used_before = search_paths(connection)
    use_search_path(connection, SEARCH_PATH)
    (there, _) = connection.execute(statement("is_initialised")).fetchone() or (False, False)
    found = bool(there and catalog.registered(connection, name))
    use_search_path(connection, used_before)
    return found


def _suspend(connection: Connection, embedding: Embedding) -> None:
    try:
        for target in embedding.targets if embedding.source.columns else ():
            run(connection, ddl.unfollow(target))
        run(connection, interface.drop(embedding))
        for target in embedding.targets:
            guards.suspend(connection, target)
            run(connection, ddl.drop_document_function(target))
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(
            f"{embedding.name}: something of yours depends on its view ({first_line(error)}); drop that first, and "
            "create it again afterwards"
        ) from None


def _resume(connection: Connection, name: str, before: Embedding) -> None:
    found = catalog.find(connection, name)
    if found.problem and not found.problem.remedy.keeps_source:
        raise UsageError(f"{name}: {found.problem.reason}, so nothing was changed; detach it first")
    if found.problem and found.problem.remedy in (Remedy.REKEY, Remedy.REKEY_BY) and not found.exchanging:
        _replace_stores(connection, name, before, *_source_by_its_key(connection, found.embedding))
        for target in catalog.find(connection, name).embedding.targets:
            former.copy(connection, Names(target))
    else:
        _create_again(connection, name)
    connection.execute(statement("request_drift_check"), {"name": name})
    connection.execute(statement("announce_change"))


def _source_by_its_key(connection: Connection, embedding: Embedding) -> tuple[int, Source]:
    """The source as it is now, by the key that was followed if that still identifies a row, else by its primary key."""
    table = as_text(identifier(embedding.source.table))
    try:
        return catalog.find_source(connection, table, [column.name for column in embedding.source.key])
    except UsageError:
        return catalog.find_source(connection, table)


def _create_again(connection: Connection, name: str) -> Embedding:
    """Create the missing parts of the generations, the interface and the triggers, with the recorded grants."""
    found = catalog.find(connection, name)
    for target, state in found.targets:
        for part in state.missing:
            run(connection, ddl.part(target, part))
    run(connection, interface.create(found.embedding))
    for target in found.embedding.targets:
        guards.resume(connection, target)
        run(connection, ddl.follow(target))
    restore.give_recorded_grants(connection, name)
    return found.embedding


def note_columns(connection: Connection, name: str, before: Embedding) -> None:
    """Record the columns by their current numbers. A column that has the name of before is that column; only one whose name
    is gone was renamed."""
    recorded = numbers(before.source, catalog.source_now(connection, name))
    connection.execute(statement("note_columns"), {"name": name, "column_numbers": Jsonb(recorded)})


def numbers(before: Source, now: Source) -> dict[str, int]:
    """The numbers of columns, by their names at attach. before: the source with the names that were recorded.

    A column whose number is there is that column, unless it lost its name and another one has taken it: one that is new."""
    by_name = {column.name: column.number for column in now.columns}
    known = {column.number for column in before.columns}
    alive = {column.number for column in now.columns}
    lost = {then for then, _ in before.renamed}
    found = {}
    for column in before.columns:
        if column.name in lost and before.attached_name(column.name) == column.name:
            continue  # it has the name that a renamed column had
        name, namesake = before.attached_name(column.name), by_name.get(column.name)
        if namesake is not None and (namesake == column.number or namesake not in known or column.number not in alive):
            found[name] = namesake
        elif column.number in alive:
            found[name] = column.number
    taken = set(found.values())
    return found | {name: number for name, number in by_name.items() if number not in taken and name not in found}


def numbers_there(before: Source, other: Source) -> dict[str, int]:
    """The same for another table, which has the names of the first as they are now, or as they were at attach."""
    found = {column.name: column.number for column in other.columns}
    renamed = {then: found[now] for then, now in before.renamed if now in found}
    taken = set(renamed.values())
    return {name: number for name, number in found.items() if number not in taken} | renamed


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """key: its columns. kept: how many rows have their vector under the new key."""

    key: tuple[str, ...]
    kept: int


def rekey(connection: Connection, name: str, key: Sequence[str] = ()) -> Rekeyed:
    """Follow the primary key that the table has now, or another key. Raises UsageError.

    A short transaction puts the store aside and creates one by the new key, with triggers and view. Then the vectors of
    documents that rows still have are copied, and the worker embeds the other rows. It can be run again if it was
    interrupted: until then nothing is embedded, and changes are kept in the outbox."""
    found = trust.find(connection, name)
    source, problem = found.embedding.source, found.problem
    if problem and problem.remedy not in (Remedy.REKEY, Remedy.REKEY_BY):
        raise UsageError(f"{name}: {problem.reason}; {problem.advice(name)}")
    if found.exchanging:
        return _exchange(connection, name, None)
    followed = {column.name for column in source.key}
    if problem is None:
        wanted = set(key) or {column.name for column in catalog.source_now(connection, name).key} or followed
        if wanted == followed:
            what = f"({', '.join(key)})" if key else "the primary key of its table"
            raise UsageError(f"{name} follows {what} already; nothing was changed")
        if not key:
            raise UsageError(f"{name} follows ({', '.join(c.name for c in source.key)}), which identifies a row; to follow "
                             f"the primary key add --key {','.join(wanted)}")  # fmt: skip
    return _exchange(connection, name, source.table, key)


def follow_table(connection: Connection, name: str, table: str, key: Sequence[str] = ()) -> Rekeyed:
    """Follow another table, which has the template's columns: one that took the place of the first. As `rekey`."""
    found = trust.find(connection, name)
    if found.exchanging:
        raise UsageError(f"{name}: {found.problem.reason if found.problem else ''}; {Remedy.REKEY.advice(name)}")
    oid, source = catalog.find_source(connection, table, key)
    if source.table == found.embedding.source.table:
        raise UsageError(f"{name} follows {source.table} already; nothing was changed")
    there, present = numbers_there(found.embedding.source, source), {c.number: c.name for c in source.columns}
    names = {then: present[number] for then, number in there.items()}
    catalog.check_text_columns(connection, oid, [names.get(n, n) for n in found.embedding.live.spec.template.columns])
    absent = [name for name in found.embedding.view.columns if names.get(name, name) not in present.values()]
    if absent:
        raise UsageError(f'{source.table} has no column "{absent[0]}", which the view of {name} shows')
    for target in found.embedding.targets:
        _require_room(target, source)
    return _exchange(connection, name, source.table, key)


def _require_room(target: Target, source: Source) -> None:
    """Raises UsageError if a table that is to be followed has another column of the name of a column of vectors."""
    name, column = target.name, target.source_column
    namesake = next((one.type for one in source.columns if one.name == column), None)
    copied = namesake is not None and namesake.endswith(f"halfvec({target.spec.dimensions})")  # with the table
    if layout_of(target.generation.layout).in_source and namesake and not copied:
        raise UsageError(f'{source.table} has a column "{column}" already, and {name} keeps its vectors in one of that name; '
                         "rename that column, or detach and attach with --column")  # fmt: skip


def _exchange(connection: Connection, name: str, table: QualifiedName | None, key: Sequence[str] = ()) -> Rekeyed:
    """table: to be followed, by this key or its primary key; None: the stores are exchanged already."""
    kept = 0
    with _as_owner(name):
        if table is not None:
            busy = f"{name}: its tables stayed locked; nothing was changed: try again later"
            kept += in_short_transaction(connection, lambda: _exchange_stores(connection, name, table, key), busy)
        embedding = catalog.find(connection, name).embedding
        try:
            kept += sum(former.copy(connection, Names(target)) for target in embedding.targets)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            advice = Remedy.REKEY.advice(name)
            raise UsageError(
                f"{name}: its vectors are not copied yet ({first_line(error)}); {advice}, once more"
            ) from None
    return Rekeyed(tuple(column.name for column in embedding.source.key), kept)


@contextmanager
def _as_owner(name: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"{name}: {first_line(error)}; alter it as the owner of the table and a member of the role that ran attach"
        ) from None


def _exchange_stores(connection: Connection, name: str, table: QualifiedName, by: Sequence[str]) -> int:
    lock_embedding(connection, name)
    found = catalog.find(connection, name)
    if found.exchanging:
        raise UsageError(
            f"{name}: another command exchanges its stores; {Remedy.REKEY.advice(name)}, if that was interrupted"
        )
    before = found.embedding
    oid, now = catalog.find_source(connection, as_text(identifier(table)), by)
    if before.source.columns:  # it was not dropped
        connection.execute(statement("lock_source", names_of(before)), {})
    connection.execute(statement("lock_table", table=identifier(table)), {})
    connection.execute(statement("note_grants"), {"ids": [target.id for target in before.targets]})
    _suspend(connection, before)
    kept = _replace_stores(connection, name, before, oid, now)
    connection.execute(statement("announce_change"))
    return kept


def _replace_stores(connection: Connection, name: str, before: Embedding, oid: int, now: Source) -> int:
    """Put the stores aside, and create those by the key that the source has now, with triggers and interface.

    before: what was followed. Returns how many rows of layout `column` keep their vectors."""
    same = now.table == before.source.table
    for target in before.targets:
        former.put_aside(connection, Names(target))
        if before.source.columns and not same:
            connection.execute(statement("drop_former_index", index_in_schema=identifier(Names(target).index)), {})
            if Names(target).layout.in_source:
                connection.execute(statement("drop_source_column", Names(target)), {})
    recorded = numbers(before.source, now) if same else numbers_there(before.source, now)
    own = set(before.live.spec.template.columns) | set(before.view.columns)
    key = {_recorded_name(column, recorded, own): column.number for column in now.key}
    values = {"name": name, "source": oid, "key": list(key), "column_numbers": Jsonb(recorded | key)}
    connection.execute(statement("note_source"), values)
    after = _create_again(connection, name)
    return former.copy_in_source(connection, before, after) if same else 0


def _recorded_name(column: Column, recorded: Mapping[str, int], own: Set[str]) -> str:
    """The name under which a key column is recorded: that of a recorded column, or its own if no other one has it."""
    known = next((name for name, number in recorded.items() if number == column.number), None)
    if known is None and column.name in own:
        raise UsageError(
            f'the key column "{column.name}" has the name that an embedded column had at attach; rename the key column first'
        )
    return known or column.name
