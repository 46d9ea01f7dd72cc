"""What differs from table to table: key lists, the document expression, the names of a generation's objects.

A generation's own tables name the key's columns k1, k2 ...: the source's names cannot collide with theirs, and
renaming a key column does not reach them. In the statements `t` is the source; `o`, `c`, `v`, `s` and `f` are the
outbox, the changed keys, the vectors to write, the store and the failures."""

from collections.abc import Iterable

from psycopg import sql

from pg_qwen_embed.domain.model import (
    PLAIN_STORAGE_DIMENSIONS,
    Column,
    Embedding,
    Generation,
    QualifiedName,
    Source,
    StoreKind,
)
from pg_qwen_embed.domain.template import Placeholder, Template
from pg_qwen_embed.postgres.locks import Lock

INTERNAL_SCHEMA = "_qwen_embed"
PUBLIC_SCHEMA = "qwen_embed"
TRUE = sql.SQL("true")
UPDATE = sql.SQL("UPDATE")
# Whether a document is given to the worker whole. Counting its characters would walk through all of it.
_WHOLE = sql.SQL("octet_length(d.document) < %(longest)s")
TEXT = sql.SQL("CASE WHEN {} THEN d.document ELSE left(d.document, %(longest)s) END").format(_WHOLE)
# Of a document that it has whole the worker makes the fingerprint itself (work.change_of).
KNOWN_FINGERPRINT = sql.SQL("CASE WHEN NOT {} THEN _qwen_embed.fingerprint(d.document) END").format(_WHOLE)
Placeholders = dict[str, sql.Composable]

_INTEGERS = {"smallint", "integer", "bigint"}
_COMPARED_AS_THEY_ARE = {*_INTEGERS, "boolean", "uuid", "oid"}
_TEXT = ("text", "character varying")


def identifier(name: QualifiedName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def internal(kind: str, generation: Generation) -> sql.Identifier:
    return sql.Identifier(INTERNAL_SCHEMA, f"{kind}_{generation.id}")


def is_integer(column: Column) -> bool:
    """Whether a key column travels as bigint[] (whole batches by numpy) rather than as text[]."""
    return column.type in _INTEGERS


def placeholders(embedding: Embedding) -> Placeholders:
    """Every hole of the statements about one embedding and its generation."""
    source, generation = embedding.source, embedding.generation
    numbers = range(1, len(source.key) + 1)
    keys = [sql.Identifier(f"k{n}") for n in numbers]
    filled: Placeholders = {
        "source": identifier(source.table),
        "view": public_view(embedding),
        "column": sql.Identifier(embedding.column),
        "halfvec": sql.Identifier(embedding.vector_schema, "halfvec"),
        "dimensions": sql.Literal(generation.dimensions),
        "distance": _operator(embedding.vector_schema, generation.distance.operator),
        "operator_class": sql.Identifier(embedding.vector_schema, generation.distance.operator_class),
        "document_function": internal("document", generation),
        "text": TEXT,
        "known_fingerprint": KNOWN_FINGERPRINT,
        "document": sql.SQL("{}(t)").format(internal("document", generation)),
        "keys": _list(keys),
        "t_key": _list(sql.Identifier("t", column.name) for column in source.key),
        "outbox": internal("outbox", generation),
        "store": internal("store", generation),
        "failure": internal("failure", generation),
        "key_arrays": _list(_key_array(n, column) for n, column in enumerate(source.key, 1)),
        "key_values": _list(_key_value(n, column) for n, column in enumerate(source.key, 1)),
        "keys_out": _list(_key_out("c", n, column) for n, column in enumerate(source.key, 1)),
        "f_keys_out": _list(_key_out("f", n, column) for n, column in enumerate(source.key, 1)),
        "t_keys_out": _list(_as_sent(sql.Identifier("t", column.name), column) for column in source.key),
        "after": _list(_after(n, column) for n, column in enumerate(source.key, 1)),
        "a_key_values": _list(_key_cast(n, column) for n, column in enumerate(source.key, 1)),
        "t_key_as": _list(
            sql.SQL("{} AS {}").format(sql.Identifier("t", column.name), key)
            for column, key in zip(source.key, keys, strict=True)
        ),
        # Not IS NOT NULL: a key that is a row is neither that nor NULL when a field of it is NULL.
        "here": sql.SQL("{} IS DISTINCT FROM NULL").format(sql.Identifier("t", source.key[0].name)),
        "source_text": _regclass(identifier(source.table)),
        "store_text": _regclass(internal("store", generation)),
        "outbox_text": _regclass(internal("outbox", generation)),
        "failure_text": _regclass(internal("failure", generation)),
        "has_vector": TRUE,
        "first_chunk": TRUE,
        "whole": TRUE,
        "distinct": sql.SQL(""),
        "gate_lock": sql.Literal(int(Lock.GATE)),
        "id": sql.Literal(generation.id),
        "id_text": sql.Literal(str(generation.id)),
    }
    for alias in "ocvsfnpd":
        filled[f"{alias}_key"] = _list(sql.Identifier(alias, f"k{n}") for n in numbers)
    if generation.store is StoreKind.COLUMN:
        filled["has_vector"] = sql.SQL("{} IS NOT NULL").format(sql.Identifier("t", embedding.column))
    if generation.chunking:
        # A row has several in the store, and its first chunk always.
        filled |= {
            "first_chunk": sql.SQL("s.chunk = 1"),
            "whole": sql.SQL("s.whole"),
            "distinct": sql.SQL("DISTINCT"),
        }
    return filled


def union(queries: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" UNION ALL ").join(queries)


def ddl_placeholders(embedding: Embedding) -> Placeholders:
    """What only attach needs."""
    source, generation = embedding.source, embedding.generation
    types = {column.name: column for column in source.columns}
    return {
        "key_columns": key_columns(source, nullable=False),
        "nullable_key_columns": key_columns(source, nullable=True),
        "storage": storage(generation.dimensions),
        "columns": names_of("t", own_columns(embedding)),
        "e_key": names_of("e", source.key),
        "c_key": names_of("c", source.key),
        "template": document(generation.template, source),
        "text_changed": changed(types[name] for name in generation.template.columns),
        "key_changed": key_changed(source),
    }


def update_of(names: Iterable[str]) -> sql.Composable:
    return sql.SQL("UPDATE OF {}").format(_list(map(sql.Identifier, names)))


def key_function(embedding: Embedding, n: int) -> sql.Identifier:
    """The function that takes the n-th key column (from 1) out of a row of the source."""
    return sql.Identifier(INTERNAL_SCHEMA, f"key_{embedding.generation.id}_{n}")


def keys_of(embedding: Embedding, row: sql.Composable) -> sql.Composed:
    """Every key column of a row of the source, whatever the columns are called by now."""
    numbers = range(1, len(embedding.source.key) + 1)
    return _list(sql.SQL("{}({})").format(key_function(embedding, n), row) for n in numbers)


# A row `r` of a transition table. A record fits the row type of the source, which is not named: it may be renamed.
TRANSITION_ROW = sql.SQL("ROW(r.*)")


def page_placeholders(embedding: Embedding) -> Placeholders:
    """For walks: the key of the page's last row `p`, as text."""
    names = [sql.Identifier("p", f"k{n}") for n, _ in enumerate(embedding.source.key, 1)]
    return {
        "keys_as_text": _list(sql.SQL("{}::text").format(name) for name in names),
        "p_key_last_first": _list(sql.SQL("{} DESC").format(name) for name in names),
    }


def comment(embedding: Embedding, purpose: str) -> Placeholders:
    """What an object of this embedding says of itself."""
    text = f"pg_qwen_embed {embedding.name} (generation {embedding.generation.id}): {purpose}"
    return {"comment": sql.Literal(text)}


def one_failure(embedding: Embedding) -> sql.Composable:
    """The failure `f` of the key bound as after1, after2 ..."""
    keys = enumerate(embedding.source.key, 1)
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("f", f"k{n}"), _after(n, column)) for n, column in keys
    )


def own_columns(embedding: Embedding) -> tuple[Column, ...]:
    """The source's columns, without the one that holds the vectors."""
    return tuple(column for column in embedding.source.columns if column.name != embedding.column)


def public_view(embedding: Embedding) -> sql.Identifier:
    return sql.Identifier(PUBLIC_SCHEMA, embedding.name)


def index_name(embedding: Embedding) -> QualifiedName:
    """The ANN index; it lives in the schema of the table that holds the vectors."""
    name = f"store_{embedding.generation.id}_hnsw"
    in_source = embedding.generation.store is StoreKind.COLUMN
    if in_source:
        return QualifiedName(embedding.source.table.schema, f"qwen_embed_{name}")
    return QualifiedName(INTERNAL_SCHEMA, name)


def document(template: Template, source: Source) -> sql.Composable:
    """The template as one SQL expression over the source `t`; NULL when all its columns are NULL."""
    types = {column.name: column.type for column in source.columns}
    if template.separator is not None and len(template.parts) > 1:
        return sql.SQL("concat_ws({}, {})").format(
            sql.Literal(template.separator), _list(sql.Identifier("t", name) for name in template.columns)
        )
    if len(template.parts) == 1:
        (name,) = template.columns
        column = sql.Identifier("t", name)
        return column if types.get(name) == "text" else sql.SQL("{}::text").format(column)
    pieces = (sql.Identifier("t", p.column) if isinstance(p, Placeholder) else sql.Literal(p) for p in template.parts)
    return sql.SQL("CASE WHEN num_nonnulls({}) > 0 THEN concat({}) END").format(
        _list(sql.Identifier("t", name) for name in template.columns), _list(pieces)
    )


def changed(columns: Iterable[Column]) -> sql.Composable:
    """Whether OLD and NEW differ in one of these columns, byte for byte: equal under a collation, or as citext or
    numeric, is not the same text."""
    return sql.SQL(" OR ").join(
        sql.SQL("{} IS DISTINCT FROM {}").format(_comparable("old", c), _comparable("new", c)) for c in columns
    )


def _comparable(row: str, column: Column) -> sql.Composable:
    value = sql.Identifier(row, column.name)
    if column.type in _COMPARED_AS_THEY_ARE:
        return value
    if column.type.startswith(_TEXT) and not column.type.endswith("[]"):
        return sql.SQL('{} COLLATE "C"').format(value)
    return sql.SQL('{}::text COLLATE "C"').format(value)


def key_changed(source: Source) -> sql.Composable:
    return sql.SQL("({}) IS DISTINCT FROM ({})").format(_row("old", source), _row("new", source))


def _row(alias: str, source: Source) -> sql.Composable:
    names = _list(sql.Identifier(alias, column.name) for column in source.key)
    return sql.SQL("ROW({})").format(names)


def key_columns(source: Source, *, nullable: bool) -> sql.Composable:
    """`k1 bigint NOT NULL, k2 text COLLATE ..`: the key's columns for a table of the generation."""
    return _list(
        sql.SQL("{} {}{}{}").format(
            sql.Identifier(f"k{n}"),
            sql.SQL(column.base_type) if nullable and column.base_type else _type(column),
            _collate(column),
            sql.SQL("" if nullable else " NOT NULL"),
        )
        for n, column in enumerate(source.key, 1)
    )


def names_of(alias: str, columns: Iterable[Column]) -> sql.Composable:
    return _list(sql.Identifier(alias, column.name) for column in columns)


def storage(dimensions: int) -> sql.SQL:
    return sql.SQL("PLAIN" if dimensions <= PLAIN_STORAGE_DIMENSIONS else "EXTERNAL")


def _type(column: Column) -> sql.SQL:
    # format_type() has already quoted what needs quoting.
    return sql.SQL(column.type)


def _operator(schema: str, operator: str) -> sql.Composable:
    return sql.SQL("OPERATOR({}.{})").format(sql.Identifier(schema), sql.SQL(operator))


def _key_array(n: int, column: Column) -> sql.Composable:
    """`%(k1)s::bigint[]`: one key column of a batch, as it is bound."""
    return sql.SQL("{}::{}").format(sql.Placeholder(f"k{n}"), sql.SQL("bigint[]" if is_integer(column) else "text[]"))


def _key_value(n: int, column: Column) -> sql.Composable:
    """`a.k1::uuid AS k1`: that column of the unnested batch, in the key's own type."""
    return sql.SQL("{} AS {}").format(_key_cast(n, column), sql.Identifier(f"k{n}"))


def _key_cast(n: int, column: Column) -> sql.Composable:
    return sql.SQL("{}::{}{}").format(sql.Identifier("a", f"k{n}"), _type(column), _collate(column))


def _collate(column: Column) -> sql.Composable:
    return sql.SQL(" COLLATE {}").format(identifier(column.collation)) if column.collation else sql.SQL("")


def _key_out(alias: str, n: int, column: Column) -> sql.Composable:
    return _as_sent(sql.Identifier(alias, f"k{n}"), column)


def _as_sent(value: sql.Composable, column: Column) -> sql.Composable:
    return sql.SQL("{}::{}").format(value, sql.SQL("bigint" if is_integer(column) else "text"))


def _after(n: int, column: Column) -> sql.Composable:
    """`%(after1)s::text::uuid`: where the last page of a walk ended."""
    return sql.SQL("{}::text::{}").format(sql.Placeholder(f"after{n}"), _type(column))


def _regclass(name: sql.Identifier) -> sql.Literal:
    return sql.Literal(name.as_string(None))


def _list(pieces: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(pieces)
