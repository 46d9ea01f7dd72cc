"""What the statements' placeholders stand for: the objects, keys and expressions of one generation.

The internal tables name the key's columns k1, k2 ...: the source's names cannot collide with theirs, and renaming a key
column does not reach them. In the statements `t` is the source; `o`, `c`, `v`, `s` and `f` are the outbox, the changed
keys, the vectors to write, the store and the failures. A placeholder with an argument, `{key:s}`, names the alias."""

from collections.abc import Iterable
from functools import cached_property

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.source import Column, QualifiedName
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import statement

INTERNAL_SCHEMA = "_qwen_embed"
PUBLIC_SCHEMA = "qwen_embed"
PLAIN_STORAGE_DIMENSIONS = 1300  # up to here three vectors fit a page, and reading them needs no TOAST


class _Objects:
    """The objects of a generation and of its embedding, and what identifies them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.layout = layout_of(target.generation.layout)

    @property
    def id(self) -> sql.Literal:
        return sql.Literal(self.target.id)

    @property
    def id_text(self) -> sql.Literal:
        return sql.Literal(str(self.target.id))

    @property
    def gate_lock(self) -> sql.Literal:
        return sql.Literal(int(Lock.GATE))

    @property
    def source(self) -> sql.Identifier:
        return identifier(self.target.source.table)

    @property
    def view(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, self.target.name)

    @property
    def outbox(self) -> sql.Identifier:
        return self._internal("outbox")

    @property
    def outbox_index(self) -> sql.Identifier:
        return sql.Identifier(f"outbox_{self.target.id}_seq")

    @property
    def store(self) -> sql.Identifier:
        return self._internal("store")

    @property
    def failure(self) -> sql.Identifier:
        return self._internal("failure")

    @property
    def former(self) -> sql.Identifier:
        """The store by a key that has changed since, until its vectors are copied."""
        return self._internal("former")

    @property
    def document_function(self) -> sql.Identifier:
        return self._internal("document")

    @property
    def indexed(self) -> sql.Identifier:
        """The table that holds the vectors."""
        return self.source if self.layout.in_source else self.store

    @property
    def index(self) -> QualifiedName:
        """The ANN index; it lives in the schema of the table that holds the vectors."""
        name = f"store_{self.target.id}_hnsw"
        if self.layout.in_source:
            return QualifiedName(self.target.source.table.schema, f"qwen_embed_{name}")
        return QualifiedName(INTERNAL_SCHEMA, name)

    def literal(self, kind: str) -> sql.Literal:
        """`{literal:store}`: the name of an object as text, for ::regclass."""
        return sql.Literal(getattr(self, kind).as_string(None))

    def comment(self, purpose: str) -> sql.Literal:
        """What an object of this embedding says of itself."""
        return sql.Literal(f"pg_qwen_embed {self.target.name} (generation {self.target.id}): {purpose}")

    def _internal(self, kind: str) -> sql.Identifier:
        return sql.Identifier(INTERNAL_SCHEMA, f"{kind}_{self.target.id}")


class _Keys(_Objects):
    """The key's columns: as the source calls them, as the internal tables do, and as they travel."""

    @property
    def _columns(self) -> tuple[Column, ...]:
        return self.target.source.key

    @property
    def _numbered(self) -> list[tuple[int, Column]]:
        return list(enumerate(self._columns, 1))

    @property
    def keys(self) -> sql.Composed:
        """`k1, k2`."""
        return joined(sql.Identifier(f"k{n}") for n, _ in self._numbered)

    def key(self, alias: str) -> sql.Composed:
        """`s.k1, s.k2`."""
        return joined(sql.Identifier(alias, f"k{n}") for n, _ in self._numbered)

    def source_key(self, alias: str) -> sql.Composed:
        """`t.lang, t.id`: the key as the source calls it."""
        return joined(sql.Identifier(alias, column.name) for column in self._columns)

    def source_key_as(self, alias: str) -> sql.Composed:
        """`t.lang AS k1, t.id AS k2`."""
        return joined(
            sql.SQL("{} AS {}").format(sql.Identifier(alias, column.name), sql.Identifier(f"k{n}"))
            for n, column in self._numbered
        )

    def key_out(self, alias: str) -> sql.Composed:
        """The key as the worker receives it."""
        return joined(expressions.as_sent(sql.Identifier(alias, f"k{n}"), column) for n, column in self._numbered)

    def source_key_out(self, alias: str) -> sql.Composed:
        """The key as the worker receives it, from the source."""
        return joined(expressions.as_sent(sql.Identifier(alias, column.name), column) for column in self._columns)

    def key_probe(self, alias: str) -> sql.Composed:
        """The key for the probe of a trigger function."""
        return expressions.probe(alias, self._columns, self.outbox)

    def view_key(self, alias: str) -> sql.Composed:
        """`e.lang, e.id`: the key as the view calls it, which is not renamed with the source's columns."""
        return joined(sql.Identifier(alias, self.target.source.attached_name(c.name)) for c in self._columns)

    def key_text(self, alias: str) -> sql.Composed:
        """`p.k1::text, p.k2::text`."""
        return joined(expressions.key_text(sql.Identifier(alias, f"k{n}"), column) for n, column in self._numbered)

    def key_descending(self, alias: str) -> sql.Composed:
        """`p.k1 DESC, p.k2 DESC`."""
        return joined(sql.SQL("{} DESC").format(sql.Identifier(alias, f"k{n}")) for n, _ in self._numbered)

    @property
    def key_arrays(self) -> sql.Composed:
        """`%(k1)s::bigint[], %(k2)s::text[]`: the key columns of a batch, as they are bound."""
        return joined(expressions.key_array(n, column) for n, column in self._numbered)

    @property
    def key_casts(self) -> sql.Composed:
        """`a.k1, a.k2::uuid`: the unnested batch in the key's own types."""
        return joined(expressions.key_cast(n, column) for n, column in self._numbered)

    @property
    def key_values(self) -> sql.Composed:
        """`a.k1 AS k1, a.k2::uuid AS k2`."""
        return joined(
            sql.SQL("{} AS {}").format(expressions.key_cast(n, column), sql.Identifier(f"k{n}"))
            for n, column in self._numbered
        )

    @property
    def after(self) -> sql.Composed:
        """`%(after1)s::text::uuid`: the last key of the page before."""
        return joined(expressions.after(n, column) for n, column in self._numbered)

    @property
    def one_key(self) -> sql.Composable:
        """The failure `f` of the key that is bound like `after`."""
        return self.same_key("key:f=after")

    def same_key(self, forms: str) -> sql.Composable:  # {same_key:source_key:t=key:s}
        return expressions.same_key(self._columns, *map(self._form, forms.split("=")))

    def later_key(self, forms: str) -> sql.Composable:
        return expressions.later_key(self._columns, *map(self._form, forms.split(">")))

    def _form(self, form: str) -> list[sql.Composable]:
        name, _, alias = form.partition(":")
        columns = getattr(self, name)(alias) if alias else getattr(self, name)
        return list(columns)[::2]  # without the commas

    @property
    def key_columns(self) -> sql.Composable:
        """`k1 bigint NOT NULL, k2 text COLLATE .. NOT NULL`: for a table of the generation."""
        return expressions.key_columns(self._columns, nullable=False)

    @property
    def failed_key_columns(self) -> sql.Composable:
        """The same for the failure table, which must take every key."""
        return expressions.key_columns(self._columns, nullable=False, any_value=True)

    @property
    def nullable_key_columns(self) -> sql.Composable:
        return expressions.key_columns(self._columns, nullable=True)


class Names(_Keys):
    """Every placeholder of the statements about one generation."""

    def row_exists(self, alias: str) -> sql.Composable:
        """Whether an outer join found a row of the source.

        Not IS NOT NULL: for a key of a composite type with a NULL field, neither IS NULL nor IS NOT NULL is true."""
        first = self.target.source.key[0].name
        return sql.SQL("{} IS DISTINCT FROM NULL").format(sql.Identifier(alias, first))

    def document(self, alias: str) -> sql.Composable:
        """The document of a row of the source."""
        arguments = (expressions.document_argument(alias, column) for column in self.embedded)
        return sql.SQL("{}({})").format(self.document_function, joined(arguments))

    @property
    def document_parameters(self) -> sql.Composed:
        """`"title" text, "body" text`: of the document function, which is never given a whole row."""
        return joined(
            sql.SQL("{} {}").format(sql.Identifier(c.name), expressions.document_parameter(c)) for c in self.embedded
        )

    @property
    def document_types(self) -> sql.Composed:
        """`text, text`: what tells the document function from another of its name."""
        return joined(map(expressions.document_parameter, self.embedded))

    @property
    def embedded(self) -> list[Column]:
        """The columns of the template, in its order."""
        by_name = {column.name: column for column in self.target.source.columns}
        return [by_name[name] for name in self.target.template.columns]

    def document_text(self, alias: str) -> sql.Composable:
        """The document as the worker receives it: whole, or the beginning of a long one."""
        return sql.SQL("CASE WHEN {} THEN {a}.document ELSE left({a}.document, %(longest)s) END").format(
            self._is_whole(alias), a=sql.SQL(alias)
        )

    def known_fingerprint(self, alias: str) -> sql.Composable:
        """The fingerprint of a document that is not sent whole; the worker computes the others (domain/change.py)."""
        return sql.SQL("CASE WHEN NOT {} THEN _qwen_embed.fingerprint({}.document) END").format(
            self._is_whole(alias), sql.SQL(alias)
        )

    def sent_size(self, alias: str) -> sql.Composable:
        """About how many bytes of a document are sent."""
        return sql.SQL("least(octet_length(coalesce({}.document, '')), 4 * %(longest)s)").format(sql.SQL(alias))

    def fits(self, alias: str) -> sql.Composable:
        """Whether a document belongs to the page: those `before` it leave room. The first always does."""
        return sql.SQL("coalesce({}.before, 0) < %(size)s").format(sql.SQL(alias))

    @staticmethod
    def _is_whole(alias: str) -> sql.Composable:
        """In bytes: to count the characters would read the whole text."""
        return sql.SQL("octet_length({}.document) < %(longest)s").format(sql.SQL(alias))

    @property
    def column(self) -> sql.Identifier:
        """The vector's column in the view, and in the source where it is kept there."""
        return sql.Identifier(self.target.embedding.column)

    @property
    def halfvec(self) -> sql.Identifier:
        return sql.Identifier(self.target.embedding.vector_schema, "halfvec")

    @property
    def dimensions(self) -> sql.Literal:
        return sql.Literal(self.target.spec.dimensions)

    @property
    def distance(self) -> sql.Composable:
        """The distance operator, with its schema."""
        schema, operator = self.target.embedding.vector_schema, self.target.spec.distance.operator
        return sql.SQL("OPERATOR({}.{})").format(sql.Identifier(schema), sql.SQL(operator))

    @property
    def distance_function(self) -> sql.Identifier:
        """The function that a chunked embedding has for its distance. Its readers need no right to the internal schema."""
        return sql.Identifier(PUBLIC_SCHEMA, f"distance_{self.target.id}")

    @property
    def operator_class(self) -> sql.Identifier:
        return sql.Identifier(self.target.embedding.vector_schema, self.target.spec.distance.operator_class)

    @property
    def storage(self) -> sql.SQL:
        """The TOAST strategy of the vectors in the store."""
        return sql.SQL("PLAIN" if self.target.spec.dimensions <= PLAIN_STORAGE_DIMENSIONS else "EXTERNAL")

    def source_columns(self, alias: str) -> sql.Composed:
        """The source's columns, without the one that holds the vectors."""
        own = self.target.embedding.column if self.layout.in_source else None
        return joined(sql.Identifier(alias, c.name) for c in self.target.source.columns if c.name != own)

    def view_columns(self, alias: str) -> sql.Composed:
        """`t.id AS id, t.title AS title`: the source's columns that the view shows, the key first."""
        return joined(
            sql.SQL("{} AS {}").format(
                sql.Identifier(alias, self.target.source.present_name(name)), sql.Identifier(name)
            )
            for name in self._shown
        )

    @property
    def view_column_names(self) -> list[str]:
        """What the view's columns are called, in their order."""
        view, (stale, *others) = self.target.embedding.view, self.layout.view_columns
        return [*self._shown, *map(view.name, others), self.target.embedding.column, view.name(stale)]

    @property
    def _shown(self) -> list[str]:
        """The source's columns in the view, by their names at attach."""
        source, chosen = self.target.source, self.target.embedding.view.columns
        key = [source.attached_name(column.name) for column in source.key]
        return list(dict.fromkeys((*(name for name in key if name not in chosen), *chosen)))

    def own(self, name: str) -> sql.Identifier:
        """`{own:stale}`: what the view calls one of its own columns."""
        return sql.Identifier(self.target.embedding.view.name(name))

    @property
    def vector(self) -> sql.Composable:
        """The vector in the view: without its length, so that a later generation may have other dimensions."""
        stored = sql.Identifier("t", self.target.embedding.column) if self.layout.in_source else sql.SQL("s.embedding")
        return stored if self.target.embedding.view.sized else sql.SQL("{}::{}").format(stored, self.halfvec)

    @property
    def template(self) -> sql.Composable:
        return expressions.document(self.target.template, self.target.source)

    @property
    def text_changed(self) -> sql.Composable:
        return expressions.changed(self.embedded)

    @property
    def key_changed(self) -> sql.Composable:
        return expressions.key_changed(self.target.source.key)

    # What differs by layout.

    @property
    def has_vector(self) -> sql.Composable:
        return self.layout.has_vector(sql.Identifier("t", self.target.embedding.column))

    @property
    def first_chunk(self) -> sql.Composable:
        return self.layout.first_chunk

    @property
    def whole(self) -> sql.Composable:
        return self.layout.whole

    @property
    def distinct(self) -> sql.Composable:
        return self.layout.distinct

    @cached_property
    def all_chunks(self) -> sql.Composable:
        return statement("all_chunks")

    @cached_property
    def settled(self) -> sql.Composable:
        return statement("settled")

    @property
    def stored(self) -> sql.Composable:
        return statement(self.layout.stored, self)

    @property
    def stored_by_row(self) -> sql.Composable:
        return statement(self.layout.stored_by_row, self)

    @property
    def stored_of_page(self) -> sql.Composable:
        return statement(self.layout.stored_of_page, self)


def names_of(embedding: Embedding) -> Names:
    """The names of an embedding's live generation."""
    return Names(embedding.target)


def identifier(name: QualifiedName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def union(queries: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" UNION ALL ").join(queries)
