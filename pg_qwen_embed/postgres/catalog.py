"""What the database knows of tables and embeddings, as the nouns of model.py. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pg_qwen_embed.domain import template
from pg_qwen_embed.domain.errors import SetupError, UsageError
from pg_qwen_embed.domain.model import (
    Chunking,
    Column,
    Distance,
    Embedding,
    Generation,
    QualifiedName,
    Source,
    StoreKind,
    TooLong,
)
from pg_qwen_embed.postgres.connection import AsyncConnection, Connection, first_line
from pg_qwen_embed.postgres.sql import statement

Row = dict[str, Any]

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
# Types whose text does not depend on the session's settings: strings, numbers, booleans, enums.
_STABLE_CATEGORIES = {"S", "N", "B", "E"}
_STABLE_TYPES = {"uuid", "json", "jsonb", "inet", "cidr", "macaddr", "xml", "citext", "ltree", "hstore", "tsvector"}
_UNSTABLE_TYPES = {"money"}


@dataclass(frozen=True, slots=True)
class Extension:
    version: str | None
    schema: str | None
    available: str


def require_initialised(connection: Connection) -> None:
    """Raises SetupError unless `init` has run here."""
    _check_initialised(connection.execute(statement("is_initialised")).fetchone(), connection.info.dbname)


async def require_initialised_async(connection: AsyncConnection) -> None:
    cursor = await connection.execute(statement("is_initialised"))
    _check_initialised(await cursor.fetchone(), connection.info.dbname)


def _check_initialised(row: tuple[bool, bool] | None, database: str) -> None:
    there, current = row or (False, False)
    if not there:
        raise SetupError(f"pg_qwen_embed is not set up in the database {database}; run: pg-qwen-embed init")
    if not current:
        raise SetupError(f"the database {database} was set up by an older pg_qwen_embed; run: pg-qwen-embed init")


def vector_extension(connection: Connection) -> Extension | None:
    """The installed and the installable pgvector; None when the server has none."""
    row = _dicts(connection, "vector_extension")
    return Extension(row[0]["version"], row[0]["schema"], row[0]["available"]) if row else None


def find_source(connection: Connection, table: str) -> tuple[int, Source]:
    """The oid and description of a table as it is written in SQL. Raises UsageError, with the reason."""
    try:
        (oid,) = connection.execute(statement("resolve_table"), {"table": table}).fetchone() or (None,)
    except psycopg.Error as error:
        raise UsageError(f"{table}: not a table's name as SQL writes it ({first_line(error)})") from None
    if oid is None:
        raise UsageError(f"{table}: there is no such table in the database {connection.info.dbname}; write it as in SQL, "
                         'like public.articles or app."Odd Name"')  # fmt: skip
    (row,) = _dicts(connection, "describe_sources", tables=[oid])
    problem = next((sentence for wrong, sentence in _objections(row) if wrong), None)
    if problem:
        raise UsageError(f"{table} {problem}")
    return oid, _source(row, row["key"])


def _objections(row: Row) -> list[tuple[bool, str]]:
    """Why a relation cannot be attached, each with how to help."""
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
        (
            not row["key"],
            "has no primary key, and vectors need one to follow rows; "
            f'run: ALTER TABLE "{row["schema"]}"."{row["name"]}" ADD PRIMARY KEY (...)',
        ),
        (
            row["deferrable"],
            "has a deferrable primary key, so two rows can have one key for a while; make it immediate",
        ),
    ]


def check_text_columns(connection: Connection, oid: int, columns: Sequence[str]) -> None:
    """Raises UsageError for a column that is not there, or whose text depends on the session's settings."""
    (row,) = _dicts(connection, "describe_sources", tables=[oid])
    known = {column["name"]: column for column in row["columns"]}
    for name in columns:
        if name not in known:
            raise UsageError(f'{row["schema"]}.{row["name"]} has no column "{name}"; it has: {", ".join(known)}')
        if not _has_stable_text(known[name]):
            raise UsageError(
                f'column "{name}" is of type {known[name]["type"]}, whose text depends on settings of the session; '
                "use a text column, or a generated one made from it"
            )


def embeddings(connection: Connection, name: str | None = None) -> list[Embedding]:
    """Every embedding, or the one of that name, with its live generation; also those whose source has a problem."""
    rows = _dicts(connection, "read_registry", name=name)
    sources = _dicts(connection, "describe_sources", tables=[row["source"] for row in rows])
    return _embeddings(rows, sources)


async def embeddings_async(connection: AsyncConnection) -> list[Embedding]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(statement("read_registry"), {"name": None})).fetchall()
        tables = [row["source"] for row in rows]
        sources = await (await cursor.execute(statement("describe_sources"), {"tables": tables})).fetchall()
    return _embeddings(rows, sources)


def live_generation(connection: Connection, name: str) -> int | None:
    """The id of an embedding's live generation; None if there is no such embedding."""
    row = connection.execute(statement("live_generation"), {"name": name}).fetchone()
    return row[0] if row else None


def embedding(connection: Connection, name: str) -> Embedding:
    """The embedding of that name, its source as it was when attached. Raises UsageError if there is none."""
    found = any_embedding(connection, name)
    if found.source.problem:
        raise UsageError(f"{name}: {found.source.problem}; run: pg-qwen-embed detach {name}, and attach again")
    return found


def any_embedding(connection: Connection, name: str) -> Embedding:
    """The embedding of that name, also when its source has a problem. Raises UsageError if there is none."""
    require_initialised(connection)
    found = embeddings(connection, name)
    if not found:
        known = ", ".join(row["name"] for row in _dicts(connection, "read_registry", name=None))
        raise UsageError(f'there is no embedding "{name}"; ' + (f"there are: {known}" if known else
                         "attach a table first: pg-qwen-embed attach TABLE --text COLUMN"))  # fmt: skip
    return found[0]


def _embeddings(rows: Sequence[Row], sources: Sequence[Row]) -> list[Embedding]:
    by_oid = {source["oid"]: source for source in sources}
    return [_embedding(row, _registered_source(by_oid.get(row["source"]), row)) for row in rows]


def _embedding(row: Row, source: Source) -> Embedding:
    generation = Generation(
        id=row["id"],
        model=row["model"],
        dimensions=row["dimensions"],
        distance=Distance(row["distance"]),
        template=template.from_json(row["template"]),
        store=StoreKind(row["store"]),
        too_long=TooLong(row["too_long"]),
        chunking=Chunking(row["chunk_tokens"], row["chunk_overlap"]) if row["chunk_tokens"] else None,
        partitions=row["partitions"],
        weight_version=row["weight_version"],
        full_dimensions=row["full_dimensions"],
    )
    return Embedding(
        name=row["name"],
        source=source,
        generation=generation,
        instruction=row["instruction"],
        prompt_style=row["prompt_style"],
        column=row["column_name"],
        clones=row["clones"],
        vector_schema=row["vector_schema"] or "public",
    )


def _registered_source(source: Row | None, row: Row) -> Source:
    """The source of an embedding as it is now; with a problem, when it cannot be followed any more."""
    attached_key = tuple(Column(name, "") for name in row["key"])
    if source is None:
        return Source(QualifiedName("", ""), attached_key, (), problem="its table was dropped")
    table = f"{source['schema']}.{source['name']}"
    if not row["has_document"]:
        return replace(_source(source, []), key=attached_key, problem=f"a column it embeds was dropped from {table}")
    if row["vector_schema"] is None:
        return replace(_source(source, []), key=attached_key, problem="the extension vector was dropped")
    if source["is_partition"] or source["has_children"]:
        kin = "a partition of another table" if source["is_partition"] else "the parent of other tables"
        return replace(
            _source(source, []), key=attached_key, problem=f"{table} has become {kin}: triggers miss its rows"
        )
    there = {column["name"] for column in source["columns"]}
    if row["store"] == "column" and row["column_name"] not in there:
        return replace(_source(source, []), key=attached_key, problem=f"its column of vectors was dropped from {table}")
    if there.issuperset(row["key"]):
        return _source(source, row["key"])
    # Renamed: the primary key says what the columns are called now.
    if len(source["key"] or ()) != len(attached_key):
        return replace(_source(source, []), key=attached_key, problem=f"the primary key of {table} has changed")
    return _source(source, source["key"])


def _source(row: Row, key: Sequence[str]) -> Source:
    columns = {c["name"]: Column(c["name"], c["type"], c["base_type"], _collation(c)) for c in row["columns"]}
    return Source(
        table=QualifiedName(row["schema"], row["name"]),
        key=tuple(columns[name] for name in key),
        columns=tuple(columns.values()),
        partitioned=row["kind"] == "p",
        before_update_triggers=row["before_update_triggers"],
    )


def _collation(column: Row) -> QualifiedName | None:
    return QualifiedName(*column["collation"]) if column["collation"] else None


def _has_stable_text(column: Row) -> bool:
    if column["base"] in _UNSTABLE_TYPES:
        return False
    category = column["element"] if column["category"] == "A" else column["category"]
    return category in _STABLE_CATEGORIES or column["base"] in _STABLE_TYPES


def _dicts(connection: Connection, query: str, **values: object) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement(query), values).fetchall()
