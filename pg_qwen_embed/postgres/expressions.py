"""SQL expressions over a source's columns: its document, whether it changed, and keys in and out. Pure."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from pg_qwen_embed.domain.source import Column, Source
from pg_qwen_embed.domain.template import Placeholder, Template

TRUE = sql.SQL("true")
_INTEGERS = {"smallint", "integer", "bigint"}
_COMPARED_AS_THEY_ARE = {*_INTEGERS, "boolean", "uuid", "oid"}
# Types of PostgreSQL whose equality is in pg_catalog, as format_type() prints them up to a length in brackets.
_COMPARED_AS_KEYS = {
    *_COMPARED_AS_THEY_ARE, "numeric", "real", "double precision", "date", "timestamp", "timestamp with time zone",
    "timestamp without time zone", "time", "time with time zone", "time without time zone", "interval", "inet", "cidr", "bytea",
}  # fmt: skip
_TEXT = ("text", "character varying")


def joined(pieces: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(pieces)


def is_integer(column: Column) -> bool:
    """Whether a key column travels as bigint[] (whole batches by numpy) rather than as text[]."""
    return column.type in _INTEGERS


def document(template: Template, source: Source) -> sql.Composable:
    """The template as one SQL expression over parameters called like its columns; NULL when all are NULL."""
    types = {column.name: column.type for column in source.columns}
    parameters = {name: sql.Identifier(name) for name in template.columns}
    if template.separator is not None and len(template.parts) > 1:
        return sql.SQL("concat_ws({}, {})").format(sql.Literal(template.separator), joined(parameters.values()))
    if len(template.parts) == 1:
        (name,) = template.columns
        return parameters[name] if types.get(name) == "text" else sql.SQL("{}::text").format(parameters[name])
    pieces = (parameters[p.column] if isinstance(p, Placeholder) else sql.Literal(p) for p in template.parts)
    return sql.SQL("CASE WHEN num_nonnulls({}) > 0 THEN concat({}) END").format(
        joined(parameters.values()), joined(pieces)
    )


def changed(columns: Iterable[Column]) -> sql.Composable:
    """Whether OLD and NEW differ in one of these columns, byte for byte: equal under a collation, or as citext or
    numeric, is not the same text."""
    return sql.SQL(" OR ").join(
        sql.SQL("{} IS DISTINCT FROM {}").format(_comparable("old", c), _comparable("new", c)) for c in columns
    )


def key_changed(key: Iterable[Column]) -> sql.Composable:
    """Whether OLD and NEW differ in a key column.

    IS DISTINCT FROM cannot name its operator, and a dump is restored with an empty search_path. So a type that is not
    PostgreSQL's own is compared as text: at worst a key counts as changed that is written in another way."""
    return sql.SQL(" OR ").join(
        sql.SQL("{} IS DISTINCT FROM {}").format(*(_key_comparable(row, column) for row in ("old", "new")))
        for column in key
    )


def _key_comparable(row: str, column: Column) -> sql.Composable:
    own = column.type.partition("(")[0] in _COMPARED_AS_KEYS
    return sql.Identifier(row, column.name) if own else _comparable(row, column)


def _comparable(row: str, column: Column) -> sql.Composable:
    value = sql.Identifier(row, column.name)
    if column.type in _COMPARED_AS_THEY_ARE:
        return value
    if column.type.startswith(_TEXT) and not column.type.endswith("[]"):
        return sql.SQL('{} COLLATE "C"').format(value)
    return sql.SQL('{}::text COLLATE "C"').format(value)


def update_of(names: Sequence[str]) -> sql.Composable:
    """The event of a trigger: an UPDATE that names one of these columns, or any UPDATE."""
    return sql.SQL("UPDATE OF {}").format(joined(map(sql.Identifier, names))) if names else sql.SQL("UPDATE")


def key_columns(key: Sequence[Column], *, nullable: bool, any_value: bool = False) -> sql.Composable:
    """`k1 bigint NOT NULL, k2 text COLLATE ..`: the key's columns for a table of a generation.

    any_value: instead of a domain its base type, which takes a key that the domain has come to reject."""
    return joined(
        sql.SQL("{} {}{}{}").format(
            sql.Identifier(f"k{n}"),
            _entry_type(column) if nullable or any_value else _type(column),
            _collate(column),
            sql.SQL("" if nullable else " NOT NULL"),
        )
        for n, column in enumerate(key, 1)
    )


def _entry_type(column: Column) -> sql.SQL:
    """The type of a key column in the outbox. It takes every value that the column may have later: a swapped column may be
    a bigint."""
    if is_integer(column):
        return sql.SQL("bigint")
    return sql.SQL(column.base_type) if column.base_type else _type(column)


def key_array(n: int, column: Column) -> sql.Composable:
    """`%(k1)s::bigint[]`: one key column of a batch, as it is bound."""
    return sql.SQL("{}::{}").format(sql.Placeholder(f"k{n}"), sql.SQL("bigint[]" if is_integer(column) else "text[]"))


def key_cast(n: int, column: Column) -> sql.Composable:
    """`a.k1::uuid`: that column of the unnested batch, in the key's own type; for a domain in its base type."""
    return sql.SQL("{}::{}{}").format(sql.Identifier("a", f"k{n}"), _base_type(column), _collate(column))


def as_sent(value: sql.Composable, column: Column) -> sql.Composable:
    """A key column as the worker receives it."""
    return sql.SQL("{}::{}").format(value, sql.SQL("bigint" if is_integer(column) else "text"))


def after(n: int, column: Column) -> sql.Composable:
    """`%(after1)s::text::uuid`: one key column of the last row of a page."""
    return sql.SQL("{}::text::{}").format(sql.Placeholder(f"after{n}"), _base_type(column))


def _type(column: Column) -> sql.SQL:
    # format_type() has already quoted what needs quoting.
    return sql.SQL(column.type)


def _base_type(column: Column) -> sql.SQL:
    return sql.SQL(column.base_type or column.type)


def _collate(column: Column) -> sql.Composable:
    if column.collation is None:
        return sql.SQL("")
    return sql.SQL(" COLLATE {}").format(sql.Identifier(column.collation.schema, column.collation.name))
