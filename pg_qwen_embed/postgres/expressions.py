"""SQL expressions over a source's columns: its document, whether it changed, and keys in and out. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence

from psycopg import sql

from pg_qwen_embed.domain.source import BUILT_IN, Column, Source
from pg_qwen_embed.domain.template import Placeholder, Template
from pg_qwen_embed.domain.text_form import TextForm

TRUE = sql.SQL("true")
_MODIFIER = re.compile(r"\(\d+(?:,-?\d+)?\)")  # a length, or a precision
_INTEGERS = {"smallint", "integer", "bigint"}
_COMPARED_AS_THEY_ARE = {*_INTEGERS, "boolean", "uuid", "oid"}
# Types of PostgreSQL whose equality is in pg_catalog, as format_type() prints them up to a length in brackets.
_COMPARED_AS_KEYS = {
    *_COMPARED_AS_THEY_ARE, "numeric", "real", "double precision", "date", "timestamp", "timestamp with time zone",
    "timestamp without time zone", "time", "time with time zone", "time without time zone", "interval", "inet", "cidr", "bytea",
    "text", "character varying",
}  # fmt: skip
_TEXT = ("text", "character varying")
# Types whose equality PostgreSQL calls leakproof: an index on them is used behind the policies of a table.
_LEAKPROOF = _COMPARED_AS_KEYS - {"numeric"}
# Types whose values are equal only if their texts are.
_AS_TEXTS = {
    *_COMPARED_AS_THEY_ARE, *_TEXT, "bytea", "date", "timestamp", "timestamp with time zone", "timestamp without time zone",
}  # fmt: skip
# What the catalog calls types whose names are words of SQL.
_INTERNAL_NAMES = {
    "integer": "int4", "bigint": "int8", "smallint": "int2", "boolean": "bool", "real": "float4", "double precision": "float8",
    "character varying": "varchar", "character": "bpchar", "bit varying": "varbit", "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz", "time without time zone": "time", "time with time zone": "timetz",
}  # fmt: skip
_ISO = "pg_catalog.json_extract_path_text(pg_catalog.to_json({}), VARIADIC '{{}}'::text[])"


def joined(pieces: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(pieces)


def is_integer(column: Column) -> bool:
    """Whether a key column travels as bigint[] (whole batches by numpy) rather than as text[]."""
    return column.type in _INTEGERS


def document(template: Template, source: Source) -> sql.Composable:
    """The template as one SQL expression over parameters called like its columns; NULL when all are NULL."""
    columns = {column.name: column for column in source.columns}
    texts = {name: _text(columns[name]) for name in template.columns}
    if template.separator is not None and len(template.parts) > 1:
        return sql.SQL("concat_ws({}, {})").format(sql.Literal(template.separator), joined(texts.values()))
    if len(template.parts) == 1:
        (column,) = (columns[name] for name in template.columns)
        is_text = column.form is not TextForm.AS_IS or column.type == "text"
        return texts[column.name] if is_text else _as_text(texts[column.name], column)
    pieces = (texts[p.column] if isinstance(p, Placeholder) else sql.Literal(p) for p in template.parts)
    return sql.SQL("CASE WHEN num_nonnulls({}) > 0 THEN concat({}) END").format(
        joined(map(sql.Identifier, texts)), joined(pieces)
    )


def document_parameter(column: Column) -> sql.SQL:
    """The type of a column as a parameter of the document function."""
    return sql.SQL("text") if column.form is TextForm.PASSED else _type(column)


def document_argument(alias: str, column: Column) -> sql.Composable:
    """A column of the source as an argument of the document function."""
    value = sql.Identifier(alias, column.name)
    return sql.SQL("_qwen_embed.text_of({})").format(value) if column.form is TextForm.PASSED else value


def _text(column: Column) -> sql.Composable:
    """A parameter of the document function as it stands in the document, whatever the session is set to.

    to_json() writes ISO 8601 in every session; only the time zone it takes from there."""
    value: sql.Composable = sql.Identifier(column.name)
    if column.base_type and column.form not in (TextForm.AS_IS, TextForm.PASSED):
        value = sql.SQL("{}::{}").format(value, _base_type(column))
    match column.form:
        case TextForm.DATE | TextForm.TIMESTAMP:
            return sql.SQL(_ISO).format(value)
        case TextForm.INSTANT:
            in_utc = sql.SQL(_ISO).format(sql.SQL("pg_catalog.timezone('UTC', {})").format(value))
            return sql.SQL(
                "CASE WHEN pg_catalog.isfinite({v}) THEN pg_catalog.replace(pg_catalog.concat({iso}, 'Z'), ' BCZ', 'Z BC') "
                "ELSE {v}::text END"
            ).format(v=value, iso=in_utc)
        case TextForm.BYTES:
            hexadecimal = sql.SQL("pg_catalog.encode({}, 'hex')").format(value)
            return sql.SQL("CASE WHEN {} IS NOT NULL THEN pg_catalog.concat({}, {}) END").format(
                value, sql.Literal("\\x"), hexadecimal
            )
        case TextForm.BY_FUNCTION:
            return sql.SQL("_qwen_embed.text_of({})").format(value)
    return value


def changed(columns: Iterable[Column]) -> sql.Composable:
    """Whether OLD and NEW differ in one of these columns, byte for byte: equal under a collation, or as citext or
    numeric, is not the same text."""
    return _differ(columns, _AS_TEXTS)


def key_changed(key: Iterable[Column]) -> sql.Composable:
    """Whether OLD and NEW differ in a key column.

    IS DISTINCT FROM cannot name its operator, and a dump is restored with an empty search_path. So a type that is not
    PostgreSQL's own is compared byte for byte: at worst a key counts as changed that is written in another way."""
    return _differ(key, _COMPARED_AS_KEYS)


def comparisons(columns: Iterable[Column], *, key: bool) -> tuple[int, int]:
    """How many columns such a condition compares as they are, and how many as rows."""
    plain, others = _divided(columns, _COMPARED_AS_KEYS if key else _AS_TEXTS)
    return len(plain), len(others)


def is_leakproof(key: Iterable[Column]) -> bool:
    """Whether rows are found by the index of this key also where policies hide some of them."""
    return all(
        (column.base_type or column.type).partition("(")[0] in _LEAKPROOF and column.operators == BUILT_IN
        for column in key
    )


def _differ(columns: Iterable[Column], as_they_are: Collection[str]) -> sql.Composable:
    """The condition. Types that have no operator of PostgreSQL's own for it are compared as rows of one column, by their bytes.

    record_image_ne() makes no text, which can be longer than 1 GB, and calls nothing of the type. It is written as a
    function: ROW(..) *<> ROW(..) would look for the operator of the column. A row of several columns could exceed 1 GB."""
    plain, others = _divided(columns, as_they_are)
    single = [sql.SQL("{} IS DISTINCT FROM {}").format(_comparable("old", c), _comparable("new", c)) for c in plain]
    rows = [
        sql.SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(
            *(sql.Identifier(row, c.name) for row in ("old", "new"))
        )
        for c in others
    ]
    return sql.SQL(" OR ").join([*single, *rows])


def _divided(columns: Iterable[Column], as_they_are: Collection[str]) -> tuple[list[Column], list[Column]]:
    """The columns that are compared as they are, and the others."""
    plain: list[Column] = []
    others: list[Column] = []
    for column in columns:
        known = column.type.partition("(")[0] in as_they_are and not column.type.endswith("]")
        (plain if known else others).append(column)
    return plain, others


def _comparable(row: str, column: Column) -> sql.Composable:
    value = sql.Identifier(row, column.name)
    return sql.SQL('{} COLLATE "C"').format(value) if column.type.startswith(_TEXT) else value


def update_of(names: Sequence[str]) -> sql.Composable:
    """The event of a trigger: an UPDATE that names one of these columns, or any UPDATE."""
    return sql.SQL("UPDATE OF {}").format(joined(map(sql.Identifier, names))) if names else sql.SQL("UPDATE")


def same_key(key: Sequence[Column], left: Sequence[sql.Composable], right: Sequence[sql.Composable]) -> sql.Composable:
    """`(t.lang, t.id) = (s.k1, s.k2)`: whether two keys are the same.

    Our sessions look operators up in pg_catalog alone, so those of other types are named with their schema."""
    if _is_built_in(key):
        return sql.SQL("({}) = ({})").format(joined(left), joined(right))
    return sql.SQL("({})").format(
        sql.SQL(" AND ").join(
            _compared(column, one, "=", other) for column, one, other in zip(key, left, right, strict=True)
        )
    )


def later_key(key: Sequence[Column], left: Sequence[sql.Composable], right: Sequence[sql.Composable]) -> sql.Composable:
    """`(t.lang, t.id) > (s.k1, s.k2)`: whether a key comes after another in the order of its index."""
    if _is_built_in(key):
        return sql.SQL("({}) > ({})").format(joined(left), joined(right))
    (column, *more), (one, *ones), (other, *others) = key, left, right
    later = _compared(column, one, ">", other)
    if not more:
        return later
    # The first condition is there for the index.
    return sql.SQL("({} AND ({} OR {}))").format(
        _compared(column, one, ">=", other), later, later_key(more, ones, others)
    )


def _is_built_in(key: Iterable[Column]) -> bool:
    return all(column.operators == BUILT_IN for column in key)


def _compared(column: Column, one: sql.Composable, operator: str, other: sql.Composable) -> sql.Composable:
    """A domain is compared as its base type: an operator that takes the domain itself could be anybody's."""
    if column.base_type:
        one, other = (sql.SQL("{}::{}").format(value, _base_type(column)) for value in (one, other))
    return sql.SQL("{} OPERATOR({}.{}) {}").format(one, sql.Identifier(column.operators), sql.SQL(operator), other)


def equal_key(key: Sequence[Column], left: Sequence[sql.Composable], right: Sequence[sql.Composable]) -> sql.Composable:
    """`t.id OPERATOR(pg_catalog.=) $1`: whether two keys are the same, in a session with any search_path."""
    pairs = zip(key, left, right, strict=True)
    return sql.SQL("({})").format(
        sql.SQL(" AND ").join(_compared_anywhere(c, one, "=", other) for c, one, other in pairs)
    )


def greater_key(
    key: Sequence[Column], left: Sequence[sql.Composable], right: Sequence[sql.Composable]
) -> sql.Composable:
    """Whether a key comes after another in the order of its index, in a session with any search_path."""
    (column, *more), (one, *ones), (other, *others) = key, left, right
    greater = _compared_anywhere(column, one, ">", other)
    if not more:
        return greater
    same = _compared_anywhere(column, one, "=", other)
    return sql.SQL("({} OR ({} AND {}))").format(greater, same, greater_key(more, ones, others))


def _compared_anywhere(column: Column, one: sql.Composable, operator: str, other: sql.Composable) -> sql.Composable:
    if column.base_type:
        one, other = (sql.SQL("{}::{}").format(value, qualified_type(column)) for value in (one, other))
    return sql.SQL("{} OPERATOR({}.{}) {}").format(one, sql.Identifier(column.operators), sql.SQL(operator), other)


def qualified_type(column: Column) -> sql.SQL:
    """The type of a column, of a domain its base type, with its schema and without a length."""
    written, brackets = re.fullmatch(r"(.+?)((?:\[\])?)", column.base_type or column.type, re.DOTALL).groups()  # type: ignore[union-attr]
    name = _MODIFIER.sub("", written)
    return sql.SQL(f"{name if '.' in name else 'pg_catalog.' + _INTERNAL_NAMES.get(name, name)}{brackets}")


def key_columns(
    key: Sequence[Column], *, nullable: bool, any_value: bool = False, bare: bool = False
) -> sql.Composable:
    """`k1 bigint NOT NULL, k2 text COLLATE ..`: the key's columns for a table of a generation.

    A domain is kept as its base type: the domain's CHECK would call functions of its owner with the rights of the worker.
    any_value: without a length, for a table that must take every key. bare: for what a function returns."""
    return joined(
        sql.SQL("{} {}{}{}").format(
            sql.Identifier(f"k{n}"),
            _entry_type(column) if nullable or any_value else _base_type(column),
            sql.SQL("") if bare else _collate(column),
            sql.SQL("" if nullable or bare else " NOT NULL"),
        )
        for n, column in enumerate(key, 1)
    )


def probe(alias: str, key: Sequence[Column], outbox: sql.Identifier) -> sql.Composed:
    """The key columns for the probe of a trigger function, each compared with its column of the outbox.

    A column of another kind of type has no operator for that, so the probe cannot be parsed. With `=` the planner would see
    that the result is NULL, and not look at the column."""
    return joined(
        sql.SQL("{}{}(NULL::{}).{}").format(
            sql.Identifier(alias, column.name),
            sql.SQL(" IS DISTINCT FROM " if _has_own_operators(column) else ", "),
            outbox,
            sql.Identifier(f"k{n}"),
        )
        for n, column in enumerate(key, 1)
    )


def _has_own_operators(column: Column) -> bool:
    return is_integer(column) or _entry_type(column).as_string(None) in ("uuid", "numeric", *_TEXT)


def _entry_type(column: Column) -> sql.SQL:
    """The type of a key column in the outbox. It takes every value that the column may have later: a swapped column may be
    a bigint, and a text may be longer."""
    if is_integer(column):
        return sql.SQL("bigint")
    return sql.SQL(_MODIFIER.sub("", column.base_type or column.type))


def key_array(n: int, column: Column) -> sql.Composable:
    """`%(k1)s::bigint[]`: one key column of a batch, as it is bound.

    A value of a type that is not PostgreSQL's own is read by the input function of its type: a cast from text can be
    anybody's. An array has no array, and unnest() would divide a composite value."""
    type_ = column.base_type or column.type
    by_input = _may_have_casts(column) and column.form is TextForm.AS_IS and not type_.endswith("]")
    element = type_ if by_input else "text"
    return sql.SQL("{}::{}[]").format(sql.Placeholder(f"k{n}"), sql.SQL("bigint" if is_integer(column) else element))


def key_cast(n: int, column: Column) -> sql.Composable:
    """`a.k1::uuid`: that column of the unnested batch, in the key's own type; for a domain in its base type."""
    return sql.SQL("{}::{}{}").format(sql.Identifier("a", f"k{n}"), _base_type(column), _collate(column))


def as_sent(value: sql.Composable, column: Column) -> sql.Composable:
    """A key column as the worker receives it."""
    return sql.SQL("{}::bigint").format(value) if is_integer(column) else key_text(value, column)


def key_text(value: sql.Composable, column: Column) -> sql.Composable:
    """A key column as text."""
    return _as_text(value, column)


def _as_text(value: sql.Composable, column: Column) -> sql.Composable:
    """A value of a type that is not PostgreSQL's own is written by the output function of its type: a cast can be anybody's."""
    if not _may_have_casts(column):
        return sql.SQL("{}::text").format(value)
    return sql.SQL("CASE WHEN num_nonnulls({v}) > 0 THEN concat({v}) END").format(v=value)


def _may_have_casts(column: Column) -> bool:
    """Whether an owner can have made casts of the type: PostgreSQL's own types have no schema in their names here."""
    return "." in (column.base_type or column.type)


def after(n: int, column: Column) -> sql.Composable:
    """`%(after1)s::text::uuid`: one key column of the last row of a page."""
    if _may_have_casts(column):
        return sql.SQL("{}::{}").format(sql.Placeholder(f"after{n}"), _base_type(column))  # read by the input function
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
