"""SQLAlchemy: an embedding of a mapped class, as a Select that can be narrowed and limited as any other.

    articles = embedding_of(Article)
    session.execute(articles.nearest("a cold soup for summer").where(Article.likes > 10).limit(5))

Nothing is executed here, so sessions and drivers are those of the application, in threads or in an event loop. A text is
embedded by `qwen_embed.embed_query`, which a running worker answers; a vector of `Client.embed_query` needs no worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import quoted_name

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.spec import Distance
from pg_qwen_embed.domain.vectors import as_literal
from pg_qwen_embed.postgres.key_names import PUBLIC_SCHEMA

T = TypeVar("T")
Query = str | Sequence[float] | NDArray[Any]


class HalfVec(sa.types.UserDefinedType[Any]):
    """pgvector's halfvec, as a name for casts and for reflection: its values stay PostgreSQL's text."""

    cache_ok = True

    def __init__(self, dimensions: int | None = None, *, schema: str | None = None) -> None:
        self.dimensions, self.schema = dimensions, schema

    def get_col_spec(self, **_: Any) -> str:
        written = f"{_quoted(self.schema)}.halfvec" if self.schema else "halfvec"
        return written if self.dimensions is None else f"{written}({self.dimensions})"


# Until the transaction ends, for an index of either method. The planner may expect many rows of a filter that leaves few: then
# the scan goes on through the whole index, in up to 64 times work_mem.
_SETTINGS = {
    "hnsw.iterative_scan": "strict_order", "hnsw.max_scan_tuples": "2147483647", "hnsw.scan_mem_multiplier": "64",
    "ivfflat.iterative_scan": "relaxed_order",
}  # fmt: skip

ischema_names.setdefault("halfvec", HalfVec)  # pgvector's package has a type of its own


@dataclass(frozen=True)
class Embedded(Generic[T]):
    """The embedding `name` of the mapped class `model`, as it was attached.

    distance: "cosine", "l2" or "ip". column: what the view calls the vector. key: the columns of the table that identify a
    row; none: its primary key. chunked: attached with chunk_tokens. vector_schema: of pgvector, if it is not on the
    search_path. ef_search: how many candidates the index keeps; more find more, and take longer."""

    model: type[T]
    name: str
    distance: str = "cosine"
    column: str = "embedding"
    key: tuple[str, ...] = ()
    chunked: bool = False
    vector_schema: str | None = None
    ef_search: int | None = None  # None: as `index check` has measured

    @cached_property
    def view(self) -> sa.TableClause:
        """The view of the embedding: its columns can be added to a statement, like `view.c.stale` and `view.c.chunk_text`."""
        return self._view()

    def nearest(self, query: Query, *, exact: bool = False) -> "sa.Select[T, float]":
        """Rows of the class with their distance, nearest first: each row once, with its best chunk. Add `limit`.

        query: a text, or a vector. exact: compare all vectors, without the index. Settings of the index hold until the
        transaction ends. Raises UsageError for a blank text."""
        distance = self._distance(self.view, query)
        nearness = (distance + sa.literal_column("0") if exact else distance).label(self._free("distance"))
        found = sa.select(self.model, nearness).join(self.view, self._same_row(self.view))
        if self.chunked:
            found = found.where(self._is_best_chunk(query))
        return found.order_by(nearness)

    def hybrid(self, text: str, k: int = 10) -> "sa.Select[T, float]":
        """Rows of the class with their score, best first: of the `k` best by words and by vector together.

        The embedding must have been attached with words. Raises UsageError for a blank text."""
        found = self._function("_hybrid", ("score", "vector_rank", "text_rank", "distance"), _text(text), k)
        score = sa.type_coerce(found.c.score, sa.Float).label(self._free("score"))
        return sa.select(self.model, score).join(found, self._same_call(found)).order_by(score.desc())

    def closest(self, query: Query, k: int = 10, *, among: "sa.Select[Any] | None" = None) -> "sa.Select[T, float]":
        """The `k` nearest rows with their distance, as the embedding's own function finds them, with an index of any kind.

        among: a Select of keys, of one column; these rows are compared exactly. A `where` afterwards chooses among the `k`.
        Raises UsageError for a blank text."""
        given = sa.cast(_text(query), sa.Text) if isinstance(query, str) else self._vector(query)
        keys = () if among is None else (sa.func.array(among.scalar_subquery()),)
        found = self._function("", ("distance",), given, k, *keys)
        distance = sa.type_coerce(found.c.distance, sa.Float).label(self._free("distance"))
        return sa.select(self.model, distance).join(found, self._same_call(found)).order_by(distance)

    def _function(self, suffix: str, columns: Sequence[str], *arguments: Any) -> sa.TableValuedAlias:
        """The rows of a function of the embedding: the key, and these columns."""
        function: Any = sa.func
        for part in (PUBLIC_SCHEMA, quoted_name(self.name + suffix, True)):
            function = getattr(function, part)
        own: list[sa.ColumnClause[Any]] = [sa.column(f"k{n}") for n, _ in enumerate(self._key)]
        own += [sa.column(name) for name in columns]
        found: sa.TableValuedAlias = function(*arguments).table_valued(*own, name="e").render_derived()
        return found

    def _free(self, name: str) -> str:
        """What a result calls a measure: with underscores, where the class has such a column."""
        columns = {column.name for column in sa.inspect(self.model).columns}
        while name in columns:
            name += "_"
        return name

    def _view(self) -> sa.TableClause:
        own = [self.column, "stale", *(["chunk", "span", "chunk_text"] if self.chunked else [])]
        return sa.table(
            self.name, *(sa.column(name) for name in [*(n for n, _ in self._key), *own]), schema=PUBLIC_SCHEMA
        )

    @cached_property
    def _key(self) -> list[tuple[str, "InstrumentedAttribute[Any]"]]:
        mapper = sa.inspect(self.model)
        columns = {column.name: column for column in mapper.local_table.columns}
        names = self.key or tuple(column.name for column in mapper.local_table.primary_key.columns)
        return [(name, getattr(self.model, mapper.get_property_by_column(columns[name]).key)) for name in names]

    def _same_row(self, other: sa.FromClause) -> "sa.ColumnElement[bool]":
        return sa.and_(*(attribute == other.c[name] for name, attribute in self._key))

    def _same_call(self, found: sa.TableValuedAlias) -> "sa.ColumnElement[bool]":
        return sa.and_(*(attribute == found.c[f"k{n}"] for n, (_, attribute) in enumerate(self._key)))

    def _distance(self, view: sa.FromClause, query: Query) -> "sa.ColumnElement[float]":
        operator = Distance(self.distance).operator
        if self.vector_schema:
            operator = f"OPERATOR({_quoted(self.vector_schema)}.{operator})"
        found: sa.ColumnElement[float] = view.c[self.column].op(operator, return_type=sa.Float())(self._query(query))
        return found

    def _query(self, query: Query) -> "sa.ColumnElement[Any]":
        """The query's vector, in a subquery that PostgreSQL evaluates once, before the index is read: it sets the index's
        settings, so that a filter leaves no rows out."""
        measured = sa.func.qwen_embed.ef_search(sa.cast(self.name, sa.Text))
        width: sa.ColumnElement[Any] = (
            sa.cast(measured, sa.Text) if self.ef_search is None else sa.literal_column(_literal(str(self.ef_search)))
        )
        settings: dict[str, sa.ColumnElement[Any]] = {"hnsw.ef_search": width, "ivfflat.probes": width}
        settings |= {name: sa.literal_column(_literal(value)) for name, value in _SETTINGS.items()}
        are_set = (
            sa.func.pg_catalog.set_config(sa.literal_column(_literal(name)), value, sa.true())
            for name, value in settings.items()
        )
        return sa.select(
            sa.case((sa.and_(*(one.is_not(None) for one in are_set)), self._vector(query)))
        ).scalar_subquery()

    def _vector(self, query: Query) -> "sa.ColumnElement[Any]":
        if isinstance(query, str):
            return sa.func.qwen_embed.embed_query(sa.cast(self.name, sa.Text), sa.cast(_text(query), sa.Text))
        return sa.cast(sa.cast(as_literal(query), sa.Text), HalfVec(schema=self.vector_schema))

    def _is_best_chunk(self, query: Query) -> "sa.ColumnElement[bool]":
        """Whether no chunk of the same row is nearer."""
        others = self._view().alias("b")
        same = sa.and_(*(others.c[name] == self.view.c[name] for name, _ in self._key))
        nearest = sa.select(others.c.chunk).where(same).order_by(self._distance(others, query), others.c.chunk).limit(1)
        is_nearest = self.view.c.chunk == nearest.scalar_subquery()
        # In a CASE it is not joined by, and PostgreSQL expects half of the rows to pass: with `=` alone it expects so few
        # that it compares all chunks of all rows.
        return sa.case((is_nearest, sa.true()), else_=sa.false())


def embedding_of(model: type[T], name: str | None = None, **options: Any) -> Embedded[T]:
    """The embedding of a mapped class; by default the one of its table's name. options: those of `Embedded`."""
    return Embedded(model, name or sa.inspect(model).local_table.name, **options)


def _text(query: str) -> str:
    if not query.strip():
        raise UsageError("the query is blank: there is nothing to search for")
    return query


def _literal(text: str) -> str:
    return f"'{text}'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
