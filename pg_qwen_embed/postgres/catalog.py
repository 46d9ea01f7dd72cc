"""The registry and PostgreSQL's own catalogs, read as the nouns of domain/. Nothing is written here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState, Target, View
from pg_qwen_embed.domain.errors import SetupError, UsageError
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.source import BUILT_IN, Column, Problem, QualifiedName, Remedy, Source, SourceState
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.text_form import TextForm, no_text, text_form, text_form_of_array
from pg_qwen_embed.postgres import keys, leftovers, revision, rights, written
from pg_qwen_embed.postgres.connection import AsyncConnection, Connection, first_line
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.sql import statement

Row = dict[str, Any]

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}


@dataclass(frozen=True, slots=True)
class Extension:
    version: str | None
    schema: str | None
    available: str


def require_initialised(connection: Connection) -> None:
    """Raises SetupError unless `init` of this release has run here."""
    require_registry(connection)
    revision.check(connection)


def require_registry(connection: Connection) -> None:
    """Raises SetupError unless `init` of this release, or of a newer one, has run here."""
    try:
        row = connection.execute(statement("is_initialised")).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        grant = rights.usage(connection, INTERNAL_SCHEMA)
        raise SetupError(f"the role {connection.info.user} lacks USAGE on the schema {INTERNAL_SCHEMA}; run: {grant}; "
                         "and what pg-qwen-embed sql grants prints") from None  # fmt: skip
    _check_initialised(row, connection.info.dbname)


async def require_initialised_async(connection: AsyncConnection) -> None:
    cursor = await connection.execute(statement("is_initialised"))
    _check_initialised(await cursor.fetchone(), connection.info.dbname)
    await revision.check_async(connection)


def _check_initialised(row: tuple[bool, bool] | None, database: str) -> None:
    there, current = row or (False, False)
    if not there:
        raise SetupError(f"pg_qwen_embed is not set up in the database {database}; run: pg-qwen-embed init")
    if not current:
        raise SetupError(f"the database {database} was set up by an older pg_qwen_embed; run: pg-qwen-embed init")


def vector_extension(connection: Connection) -> Extension | None:
    """The installed and the installable version of pgvector; None when the server has none."""
    row = _dicts(connection, "vector_extension")
    return Extension(row[0]["version"], row[0]["schema"], row[0]["available"]) if row else None


def find_source(connection: Connection, table: str, key: Sequence[str] = ()) -> tuple[int, Source]:
    """The oid and description of a table as it is written in SQL. Raises UsageError, with the reason.

    key: the columns that identify a row; none: the primary key."""
    try:
        _, oid, _ = connection.execute(statement("resolve_table"), {"table": table}).fetchone() or (None, None, None)
    except psycopg.errors.InsufficientPrivilege as error:
        grant = rights.usage(connection, written.table(table).schema)
        raise UsageError(f"{table}: {first_line(error)}: this role lacks USAGE on it; run: {grant}") from None
    except psycopg.Error as error:
        raise UsageError(f"{table}: not a valid table name in SQL ({first_line(error)})") from None
    if oid is None:
        raise UsageError(f"{table}: there is no such table in the database {connection.info.dbname}; write it as in SQL, "
                         'like public.articles or app."Odd Name"')  # fmt: skip
    (row,) = _dicts(connection, "describe_sources", tables=[oid])
    problem = next((sentence for wrong, sentence in _objections(row, by_primary_key=not key) if wrong), None)
    if problem:
        raise UsageError(f"{table} {problem}")
    return oid, _source(row, keys.chosen(row, key) if key else row["key"])


def _objections(row: Row, *, by_primary_key: bool) -> list[tuple[bool, str]]:
    """Why a relation cannot be attached, each reason with what to do about it."""
    return [
        (row["kind"] not in ("r", "p"), f"is {_KINDS.get(row['kind'], 'no table')}; an embedding needs a table"),
        (
            row["persistence"] == "t",
            "is a temporary table, which no other session sees; an embedding needs a permanent one",
        ),
        (row["is_partition"], "is a partition; attach the partitioned table instead"),
        (row["has_children"], "has tables that inherit from it, whose changes its triggers miss; attach those instead"),
        (
            row["schema"] in ("pg_catalog", "information_schema"),
            "belongs to PostgreSQL itself; attach a table of yours",
        ),
        (row["schema"] in ("qwen_embed", "_qwen_embed"), "belongs to pg_qwen_embed itself; attach a table of yours"),
        (by_primary_key and not row["key"], keys.without_primary_key(row)),
        (
            by_primary_key and row["deferrable"],
            "has a deferrable primary key, so two rows can have one key for a while; make it immediate",
        ),
    ]


def check_text_columns(connection: Connection, oid: int, columns: Sequence[str]) -> None:
    """Raises UsageError for a column that is not there, or whose values have no text of their own."""
    (row,) = _dicts(connection, "describe_sources", tables=[oid])
    known = {column["name"]: column for column in row["columns"]}
    for name in columns:
        if name not in known:
            raise UsageError(f'{row["schema"]}.{row["name"]} has no column "{name}"; it has: {", ".join(known)}')
        if _form(known[name]) is TextForm.NONE:
            raise UsageError(no_text(name, known[name]["type"]))


@dataclass(frozen=True, slots=True)
class Registered:
    """An embedding, with what was last observed of its source for each of its generations."""

    embedding: Embedding
    states: Mapping[int, SourceState]
    namesake: str | None = None  # another table that has the name which the source had at attach
    exchanging: bool = False  # its store was put aside for one by another key, and is not copied yet

    @property
    def problem(self) -> Problem | None:
        """Why the live generation cannot follow its source; None while it can."""
        return self.states[self.embedding.live.id].problem

    @property
    def targets(self) -> Iterator[tuple[Target, SourceState]]:
        return ((target, self.states[target.id]) for target in self.embedding.targets)


def registered(connection: Connection, name: str | None = None) -> list[Registered]:
    """Every embedding, or the one of that name, even if its source has a problem."""
    try:
        rows = _dicts(connection, "read_registry", name=name)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"the registry cannot be read: {rights.explain(connection, error, rights.REGISTRY)}") from None
    sources = _dicts(connection, "describe_sources", tables=[row["source"] for row in rows])
    return _registered(rows, sources)


async def registered_async(connection: AsyncConnection) -> list[Registered]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(statement("read_registry"), {"name": None})).fetchall()
        tables = [row["source"] for row in rows]
        sources = await (await cursor.execute(statement("describe_sources"), {"tables": tables})).fetchall()
    return _registered(rows, sources)


async def note_restored_columns(connection: AsyncConnection, target: Target) -> None:
    """Record which columns are followed if the source came with a dump: nothing else would tell once a trigger was dropped.

    A role that may not do this leaves it."""
    source = target.source
    numbers = {source.attached_name(column.name): column.number for column in source.columns}
    with suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
        await connection.execute(
            statement("note_restored_columns"), {"id": target.id, "column_numbers": Jsonb(numbers)}
        )


def embedding(connection: Connection, name: str) -> Embedding:
    """The embedding of that name. Raises UsageError if there is none, or if it cannot follow its source."""
    found = find(connection, name)
    if found.problem:
        raise UsageError(f"{name}: {found.problem.reason}; {found.problem.advice(name)}")
    return found.embedding


def find(connection: Connection, name: str) -> Registered:
    """The embedding of that name, even if its source has a problem. Raises UsageError if there is none."""
    require_registry(connection)
    found = registered(connection, name)
    if not found:
        known = ", ".join(dict.fromkeys(row["name"] for row in _dicts(connection, "read_registry", name=None)))
        raise UsageError(f'there is no embedding "{name}"; ' + (f"there are: {known}" if known else
                         "attach a table first: pg-qwen-embed attach TABLE --text COLUMN") + _leftover(connection))  # fmt: skip
    return found[0]


def source_now(connection: Connection, name: str) -> Source:
    """The table of an embedding as the catalog has it now, by its present primary key. Raises UsageError if it is gone."""
    (row, *_) = _dicts(connection, "read_registry", name=name) or (None,)
    if row is None:
        raise UsageError(f"{name} was detached meanwhile; nothing was changed")
    sources = _dicts(connection, "describe_sources", tables=[row["source"]])
    if not sources:
        raise UsageError(f"{name}: its table was dropped; run: {command('detach {}', name)}")
    return _source(sources[0], sources[0]["key"] or ())


def _leftover(connection: Connection) -> str:
    """What a person must know who looks for an embedding in a database made from a dump of the schema alone."""
    left = leftovers.remains(connection)
    return f" (the database has {left[0].where}; to remove them run: pg-qwen-embed init)" if left else ""


def _registered(rows: Sequence[Row], sources: Sequence[Row]) -> list[Registered]:
    """rows: one for each generation, those of an embedding together."""
    by_oid = {source["oid"]: source for source in sources}
    return [_embedding(list(generations), by_oid) for _, generations in groupby(rows, key=itemgetter("embedding_id"))]


def _embedding(rows: Sequence[Row], sources: Mapping[int, Row]) -> Registered:
    source_row = sources.get(rows[0]["source"])
    generations = [Generation(row["id"], GenerationState(row["state"]), _spec(row)) for row in rows]
    by_state = {state: [one for one in generations if one.state is state] for state in GenerationState}
    problems = {row["id"]: _problem(source_row, row, one.spec) for row, one in zip(rows, generations, strict=True)}
    live = (by_state[GenerationState.LIVE] or generations)[0]
    first = rows[0]
    embedding = Embedding(
        name=first["name"],
        source=_registered_source(source_row, first),
        instruction=first["instruction"],
        live=live,
        building=next(iter(by_state[GenerationState.BUILDING]), None),
        retired=tuple(by_state[GenerationState.RETIRED]),
        column=first["column_name"],
        vector_schema=first["vector_schema"] or "public",
        view=View.from_json(first["view"]),
    )
    specs = {one.id: one.spec for one in generations}
    missing = {row["id"]: _missing(source_row, row, specs[row["id"]]) for row in rows}
    states = {row["id"]: _state(row, problems[row["id"]], missing[row["id"]]) for row in rows}
    return Registered(embedding, states, first["namesake"], any(row["has_former_store"] for row in rows))


def _spec(row: Row) -> Spec:
    try:
        return Spec.from_json(row["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"the embedding {row['name']} was attached by a newer pg_qwen_embed, and its properties cannot be "
                         f"read here ({error}); upgrade this package") from None  # fmt: skip


def _state(row: Row, problem: Problem | None, missing: tuple[str, ...]) -> SourceState:
    def partitions(oids: list[int] | None) -> frozenset[int] | None:
        return None if oids is None else frozenset(oids)

    known, now = partitions(row["partitions"]), partitions(row["clones"])
    return SourceState(problem, missing, now, known, row["check_drift"], row["follows_by_row"])


def _problem(source: Row | None, row: Row, spec: Spec) -> Problem | None:
    """Why a generation can no longer follow its source; None while it can."""
    if source is None:
        return Problem("its table was dropped", Remedy.TABLE)
    table = f"{source['schema']}.{source['name']}"
    there = {column["name"] for column in source["columns"]}
    now = dict(_renamed(source, row))
    if not there.issuperset(now.get(name, name) for name in spec.template.columns):
        return Problem(f"a column it embeds was dropped from {table}", Remedy.COLUMN)
    if row["vector_schema"] is None:
        return Problem("the extension vector was dropped", Remedy.EXTENSION)
    if source["is_partition"] or source["has_children"]:
        kin = "a partition of another table" if source["is_partition"] else "the parent of other tables"
        return Problem(f"{table} has become {kin}: triggers miss its rows", Remedy.ATTACH_AGAIN)
    if not keys.is_key(source, [now.get(name, name) for name in row["key"]]):
        return _not_a_key(source, table, row["key"])
    if not _has_types(source, [now.get(name, name) for name in row["key"]], row["stored_key"]):
        return Problem(f"the key of {table} has another type now", Remedy.REKEY)
    if row["has_former_store"]:
        return Problem("its store is being exchanged for one by another key", Remedy.REKEY)
    missing = _missing(source, row, spec)
    were = "were" if missing[-1:] == ("vectors",) else "was"
    return Problem(f"its {' and its '.join(missing)} {were} dropped", Remedy.REPAIR) if missing else None


def _missing(source: Row | None, row: Row, spec: Spec) -> tuple[str, ...]:
    """The parts of a generation that were dropped, and that can be created again."""
    columns = [column["name"] for column in source["columns"]] if source else []
    in_source = layout_of(spec.layout).in_source
    column = ["column of vectors"] if in_source and (spec.column or row["column_name"]) not in columns else []
    return (*row["missing"], *column)


def _has_types(source: Row, names: Sequence[str], stored: Sequence[str] | None) -> bool:
    """Whether the store has the key's columns in the types that they have in the source, or in those of their domains."""
    columns = {column["name"]: column for column in source["columns"]}
    own = [(columns[name]["type"], columns[name]["base_type"]) for name in names]
    return stored is None or all(one in types for one, types in zip(stored, own, strict=False))


def _not_a_key(source: Row, table: str, attached: Sequence[str]) -> Problem:
    """The key of an embedding does not identify a row of its table any more."""
    if source["key"]:
        return Problem(f"the primary key of {table} has changed to ({', '.join(source['key'])})", Remedy.REKEY)
    if keys.keys(source):
        reason = f"({', '.join(attached)}) does not identify a row of {table} any more, and there is no primary key"
        return Problem(reason, Remedy.REKEY_BY)
    return Problem(f"the primary key of {table} has changed or was dropped", Remedy.REKEY)


def _renamed(source: Row, row: Row) -> tuple[tuple[str, str], ...]:
    """Columns that were renamed since attach: the name then, and now. A column is known by its number."""
    names = {column["number"]: column["name"] for column in source["columns"]}
    found = ((then, names.get(number)) for then, number in (row["column_numbers"] or {}).items())
    return tuple(sorted((then, now) for then, now in found if now and now != then))


def _registered_source(source: Row | None, row: Row) -> Source:
    """The source of an embedding as it is now. A key that cannot be found there is as it was attached, without types."""
    attached_key = tuple(Column(name, "") for name in row["key"])
    if source is None:
        return Source(QualifiedName("", ""), attached_key, ())
    renamed = _renamed(source, row)
    key = [dict(renamed).get(name, name) for name in row["key"]]
    there = {column["name"] for column in source["columns"]}
    found = _source(source, key if there.issuperset(key) else [])
    return replace(found, key=found.key or attached_key, renamed=renamed)


def _source(row: Row, key: Sequence[str]) -> Source:
    columns = {
        c["name"]: Column(
            c["name"], c["type"], c["base_type"], _collation(c), c["number"], _form(c), c["operators"] or BUILT_IN
        )
        for c in row["columns"]
    }
    return Source(
        table=QualifiedName(row["schema"], row["name"]),
        key=tuple(columns[name] for name in key),
        columns=tuple(columns.values()),
        partitioned=row["kind"] == "p",
        before_update_triggers=row["before_update_triggers"],
        subscribed=row["subscribed"],
        row_security_forced=row["row_security_forced"],
    )


def _collation(column: Row) -> QualifiedName | None:
    return QualifiedName(*column["collation"]) if column["collation"] else None


def _form(column: Row) -> TextForm:
    leaf = text_form(column["leaf"], category=column["category"], built_in=column["built_in"])
    return text_form_of_array(leaf) if column["is_array"] else leaf


def _dicts(connection: Connection, query: str, **values: object) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement(query), values).fetchall()
