"""What the statements' placeholders stand for: the objects, keys and expressions of one generation.

key_names.py has the objects and the key, index_names.py the index, call_names.py the functions that applications call. In the
statements `t` is the source; `o`, `c`, `v`, `s` and `f` are the outbox, the changed keys, the vectors to write, the store and
the failures. A placeholder with an argument, `{key:s}`, names the alias."""

from collections.abc import Iterable
from functools import cached_property

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.source import Column
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.word_names import WordNames

PLAIN_STORAGE_DIMENSIONS = 1300  # up to here three vectors fit a page, and reading them needs no TOAST


class Names(WordNames):
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
        """The vector's column in the view."""
        return sql.Identifier(self.target.embedding.column)

    @property
    def source_column(self) -> sql.Identifier:
        """The vector's column in the source, where it is kept there."""
        return sql.Identifier(self.target.source_column)

    @property
    def dimensions(self) -> sql.Literal:
        return sql.Literal(self.target.spec.dimensions)

    @property
    def storage(self) -> sql.SQL:
        """The TOAST strategy of the vectors in the store."""
        return sql.SQL("PLAIN" if self.target.spec.dimensions <= PLAIN_STORAGE_DIMENSIONS else "EXTERNAL")

    @property
    def last_column(self) -> sql.Literal:
        """The highest number of the source's columns; one that is added later has a higher one."""
        return sql.Literal(max(column.number for column in self.target.source.columns))

    def source_columns(self, alias: str) -> sql.Composed:
        """The source's columns, without those that hold vectors of this embedding."""
        own = {one.source_column for one in self.target.embedding.targets if layout_of(one.generation.layout).in_source}
        return joined(sql.Identifier(alias, c.name) for c in self.target.source.columns if c.name not in own)

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
        stored = sql.Identifier("t", self.target.source_column) if self.layout.in_source else sql.SQL("s.embedding")
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
        return self.layout.has_vector(sql.Identifier("t", self.target.source_column))

    @property
    def first_chunk(self) -> sql.Composable:
        return self.layout.first_chunk

    @property
    def chunk_number(self) -> sql.Composable:
        return sql.SQL("s.chunk" if self.layout.has_chunks else "1")

    @property
    def whole(self) -> sql.Composable:
        return self.with_words(self.layout.whole)

    @property
    def distinct(self) -> sql.Composable:
        return self.layout.distinct

    @cached_property
    def all_chunks(self) -> sql.Composable:
        return statement("all_chunks", self)

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


def union(queries: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" UNION ALL ").join(queries)
