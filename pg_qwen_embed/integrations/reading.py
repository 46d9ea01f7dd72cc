"""What the tools of an agent may read: rows of embeddings, in read-only transactions, within limits.

An agent chooses among columns that an administrator has named, and gives values. It never writes SQL. What it may see at
all is decided by the rights and the policies of the role that connects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Column
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import Connection, connect
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.key_names import PUBLIC_SCHEMA
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.sql import statement

OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
CANDIDATES = 1000  # rows by words that filters choose from
VALUE_CHARACTERS = 2000  # of a text in a result; the rest is left out
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one call: rows, bytes of the rows as JSON, seconds in the database."""

    rows: int = 20
    size: int = 50_000
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """rows: as many as the limits allow. complete: whether the size left none out."""

    rows: list[Row]
    complete: bool


class Reading:
    """Reads for tools. columns: by embedding, those that results show in addition to the key, and that filters may use."""

    def __init__(self, url: str, columns: Mapping[str, Sequence[str]], only: Sequence[str], limits: Limits) -> None:
        """only: the embeddings that can be read; none: all."""
        self._url, self._columns, self._only, self.limits = url, columns, tuple(only), limits

    def embeddings(self) -> list[Row]:
        """What can be searched, and by which columns it can be narrowed."""
        with self._connected() as connection:
            for name in (*self._only, *self._columns):
                catalog.find(connection, name)  # one that is not there is a mistake in the configuration
            found = [one.embedding for one in catalog.registered(connection) if one.problem is None]
            return [self._described(one) for one in found if self._is_open(one.name)]

    def generation(self, name: str) -> int:
        """The number of the live generation. Raises UsageError."""
        with self._connected() as connection:
            return self._embedding(connection, name).live.id

    def search(self, name: str, vector: str, limit: int, filters: Sequence[Mapping[str, Any]] = ()) -> Found:
        """The nearest rows that pass all filters. vector: as PostgreSQL writes it. Raises UsageError."""
        with self._connected() as connection:
            embedding = self._embedding(connection, name)
            names = names_of(embedding)
            conditions, values = self._conditions(embedding, filters)
            shown = self._shown(embedding)
            expressions = [_as_json("t", column) for column in shown]
            if names.layout.has_chunks:
                expressions.append(_as_json("e", embedding.view.name("chunk_text")))
                shown = [*shown, _free("chunk_text", shown)]
            query = _nearest(names, sql.SQL(", ").join(expressions), conditions)
            self._begin(connection)
            rows = connection.execute(query, values | {"query": vector, "limit": self._limit(limit)}).fetchall()
        return self._within_size(_measured("distance", shown, rows))

    def search_by_words(
        self, name: str, text: str, vector: str | None, limit: int, filters: Sequence[Mapping[str, Any]] = ()
    ) -> Found:
        """The rows with the words of a text, best first; with a vector, by both together. Raises UsageError."""
        with self._connected() as connection:
            embedding = self._embedding(connection, name)
            conditions, values = self._conditions(embedding, filters)
            names, shown = names_of(embedding), self._shown(embedding)
            arguments = "%(text)s::text, %(most)s::integer"
            if vector is not None:
                arguments = arguments.replace(",", f", %(vector)s::{names.halfvec.as_string(None)},")
            query = statement(
                "search_by_words_for_tool", names, shown=sql.SQL(", ").join(_as_json("t", column) for column in shown),
                function=sql.Identifier(PUBLIC_SCHEMA, f"{name}_{'words' if vector is None else 'hybrid'}"),
                arguments=sql.SQL(arguments), condition=_all(conditions), **_by_key(embedding),
            )  # fmt: skip
            limit = self._limit(limit)
            values |= {"text": text, "vector": vector, "limit": limit, "most": CANDIDATES if filters else limit}
            self._begin(connection)
            try:
                rows = connection.execute(query, values).fetchall()
            except psycopg.errors.UndefinedFunction:
                raise UsageError(f"{name} was attached without words; search it with mode vector") from None
        return self._within_size(_measured("score", shown, rows))

    def rows(self, name: str, keys: Sequence[Any]) -> Found:
        """Rows by their keys: a value each, or an object with a value for each column of the key. Raises UsageError."""
        with self._connected() as connection:
            embedding = self._embedding(connection, name)
            values: dict[str, Any] = {"limit": self.limits.rows}
            wanted = [_key_condition(embedding, key, n, values) for n, key in enumerate(keys)]
            if not wanted:
                raise UsageError("give the keys of the rows to read")
            shown = self._shown(embedding)
            query = statement(
                "read_for_tool", names_of(embedding), shown=sql.SQL(", ").join(_as_json("t", column) for column in shown),
                condition=sql.SQL(" OR ").join(wanted),
            )  # fmt: skip
            self._begin(connection)
            rows = connection.execute(query, values).fetchall()
        return self._within_size([dict(zip(shown, row, strict=True)) for row in rows])

    def _connected(self) -> Connection:
        return connect(self._url, "pg_qwen_embed mcp", autocommit=False)

    def _begin(self, connection: Connection) -> None:
        """End what has read the registry, and begin a transaction that cannot write."""
        connection.rollback()
        connection.read_only = True
        milliseconds = str(round(self.limits.seconds * 1000))
        connection.execute(statement("limit_statements"), {"milliseconds": milliseconds, "local": True})

    def _is_open(self, name: str) -> bool:
        return not self._only or name in self._only

    def _embedding(self, connection: Connection, name: str) -> Embedding:
        if not self._is_open(name):
            raise UsageError(f'there is no embedding "{name}" here; there are: {", ".join(self._only)}')
        return catalog.embedding(connection, name)

    def _described(self, embedding: Embedding) -> Row:
        spec = embedding.live.spec
        types = {column.name: column.type for column in embedding.source.columns}
        filters = {name: types[name] for name in self._columns.get(embedding.name, ()) if name in types}
        return {
            "name": embedding.name, "table": str(embedding.source.table), "model": spec.model, "dimensions": spec.dimensions,
            "instruction": embedding.instruction, "key": [column.name for column in embedding.source.key],
            "columns": self._shown(embedding), "filters": filters,
        }  # fmt: skip

    def _shown(self, embedding: Embedding) -> list[str]:
        """The key, the embedded columns and those that were named, each once."""
        own = embedding.target.template.columns
        named = self._columns.get(embedding.name, ())
        wanted = dict.fromkeys((*(column.name for column in embedding.source.key), *own, *named))
        known = {column.name for column in embedding.source.columns}
        absent = [name for name in wanted if name not in known]
        if absent:
            raise UsageError(
                f'{embedding.source.table} has no column "{absent[0]}"; start the server with other --columns'
            )
        return list(wanted)

    def _conditions(
        self, embedding: Embedding, filters: Sequence[Mapping[str, Any]]
    ) -> tuple[list[sql.Composable], dict[str, Any]]:
        allowed = {c.name: c for c in embedding.source.columns if c.name in self._columns.get(embedding.name, ())}
        conditions: list[sql.Composable] = []
        values: dict[str, Any] = {}
        for n, one in enumerate(filters):
            column = allowed.get(str(one.get("column")))
            if column is None:
                names = ", ".join(allowed) or "none"
                raise UsageError(
                    f"{embedding.name} cannot be filtered by {one.get('column')!r}; its filters are: {names}"
                )
            conditions.append(_condition(column, str(one.get("op", "=")), one.get("value"), f"filter{n}", values))
        return conditions, values

    def _limit(self, wanted: int) -> int:
        if wanted < 1:
            raise UsageError(f"a limit of {wanted} finds nothing; it must be 1 or more")
        return min(wanted, self.limits.rows)

    def _within_size(self, rows: list[Row]) -> Found:
        kept: list[Row] = []
        left = self.limits.size
        for row in rows:
            short = {name: _shortened(value) for name, value in row.items()}
            left -= len(orjson.dumps(short, default=str, option=orjson.OPT_NON_STR_KEYS))
            if left < 0:
                return Found(kept, complete=False)
            kept.append(short)
        return Found(kept, complete=True)


def _condition(column: Column, operator: str, value: Any, name: str, values: dict[str, Any]) -> sql.Composable:
    """The values are bound as text, and cast to the type of the column."""
    own = sql.Identifier("t", column.name)
    if operator == "in" and isinstance(value, list):
        values[name] = [_text(one) for one in value]
        return sql.SQL("{} = ANY (%({})s::text[]::{}[])").format(own, sql.SQL(name), sql.SQL(column.type))
    if operator not in OPERATORS:
        raise UsageError(
            f"a filter has one of the operators {', '.join([*OPERATORS, 'in'])}, and `in` has a list of values"
        )
    if value is None:
        if operator not in ("=", "!="):
            raise UsageError("null can be compared by = and != alone")
        return sql.SQL("{} IS NULL" if operator == "=" else "{} IS NOT NULL").format(own)
    values[name] = _text(value)
    return sql.SQL("{} {} %({})s::text::{}").format(
        own, sql.SQL(OPERATORS[operator]), sql.SQL(name), sql.SQL(column.type)
    )


def _key_condition(embedding: Embedding, key: Any, n: int, values: dict[str, Any]) -> sql.Composable:
    columns = embedding.source.key
    given = key if isinstance(key, dict) else {columns[0].name: key}
    names = [column.name for column in columns]
    if set(given) != set(names):
        raise UsageError(f"the key of {embedding.name} is ({', '.join(names)}); give a value for each, as an object")
    parts = [_condition(c, "=", given[c.name], f"key{n}_{m}", values) for m, c in enumerate(columns)]
    return sql.SQL("({})").format(sql.SQL(" AND ").join(parts))


def _by_key(embedding: Embedding) -> dict[str, sql.Composable]:
    """The key of what a function returns, by position, and how it is joined with the source."""
    names = [(sql.Identifier(f"k{n}"), sql.Identifier(c.name)) for n, c in enumerate(embedding.source.key, 1)]
    same = [sql.SQL("e.{} = t.{}").format(one, own) for one, own in names]
    return {"found_key": sql.SQL(", ").join([one for one, _ in names]), "same_row": sql.SQL(" AND ").join(same)}


def _nearest(names: Names, shown: sql.Composed, conditions: Sequence[sql.Composable]) -> sql.Composed:
    """The search by a vector. Candidates of a compressed index are ranked by the function of the embedding."""
    if names.target.spec.index.compressed:
        key = names.target.source.key if conditions else ()
        among = [
            statement("keys_for_tool", names, one=sql.Identifier("t", column.name), condition=_all(conditions))
            for column in key
        ]
        return statement(
            "search_compressed_for_tool", names, shown=shown, distance_column=sql.Identifier(names.distance_column),
            among=sql.SQL("").join(sql.SQL(", {}").format(one) for one in among),
        )  # fmt: skip
    if names.layout.has_chunks:
        conditions = [*conditions, _is_nearest_chunk(names)]
    return statement("search_for_tool", names, shown=shown, condition=_all(conditions), query=_prepared(names))


def _is_nearest_chunk(names: Names) -> sql.Composable:
    view = names.target.embedding.view
    nearest = statement(
        "nearest_chunk", names, same_row=names.same_key("view_key:b=view_key:e"), operator=names.distance,
        query=_prepared(names), chunk=sql.Identifier(view.name("chunk")),
    )  # fmt: skip
    return statement("is_nearest_chunk", chunk=sql.Identifier("e", view.name("chunk")), nearest=nearest)


def _prepared(names: Names) -> sql.Composable:
    vector = sql.SQL("%(query)s::{}").format(names.halfvec)
    width = statement("measured_ef_search", embedding=names.embedding_name)
    return statement("prepared_query", ef_search=width, vector=vector)


def _measured(measure: str, shown: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Row]:
    """The rows with their distance or score first; a column of the table may have that name."""
    names = [_free(measure, shown), *shown]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _all(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" AND ").join(conditions) if conditions else TRUE


def _as_json(alias: str, column: str) -> sql.Composable:
    return sql.SQL("to_json({})").format(sql.Identifier(alias, column))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > VALUE_CHARACTERS:
        return value[:VALUE_CHARACTERS] + " ..."
    return value
