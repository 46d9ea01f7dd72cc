"""The first half of names.py: the objects of a generation, and the columns of its key.

The internal tables name the key's columns k1, k2 ...: the source's names cannot collide with theirs, and renaming a key
column does not reach them."""

from dataclasses import replace

from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.source import Column, QualifiedName
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.locks import Lock

INTERNAL_SCHEMA = "_qwen_embed"
PUBLIC_SCHEMA = "qwen_embed"


class ObjectNames:
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
        name = f"store_{self.target.id}_{self.target.spec.index.method}"
        if self.layout.in_source:
            return QualifiedName(self.target.source.table.schema, f"qwen_embed_{name}")
        return QualifiedName(INTERNAL_SCHEMA, name)

    @property
    def index_text(self) -> sql.Literal:
        """The index as text, for to_regclass()."""
        return sql.Literal(identifier(self.index).as_string(None))

    @property
    def own_name(self) -> sql.Identifier:
        """What a condition on the source's rows may call it."""
        return sql.Identifier(self.target.source.table.name)

    @property
    def next_index(self) -> QualifiedName:
        """The index that a rebuild makes, until it takes the place of the present one."""
        return replace(self.index, name=f"{self.index.name}_next")

    def literal(self, kind: str) -> sql.Literal:
        """`{literal:store}`: the name of an object as text, for ::regclass."""
        return sql.Literal(getattr(self, kind).as_string(None))

    def comment(self, purpose: str) -> sql.Literal:
        """What an object of this embedding says of itself."""
        return sql.Literal(f"pg_qwen_embed {self.target.name} (generation {self.target.id}): {purpose}")

    def _internal(self, kind: str) -> sql.Identifier:
        return sql.Identifier(INTERNAL_SCHEMA, f"{kind}_{self.target.id}")


class KeyNames(ObjectNames):
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

    def view_key_as(self, alias: str) -> sql.Composed:
        """`e.lang AS k1, e.id AS k2`."""
        return joined(
            sql.SQL("{} AS {}").format(
                sql.Identifier(alias, self.target.source.attached_name(column.name)), sql.Identifier(f"k{n}")
            )
            for n, column in self._numbered
        )

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


def identifier(name: QualifiedName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)
