"""Searches of a model, as querysets.

    class Article(models.Model):
        ...
        search = EmbeddingSearch("articles")

    Article.search("how do vectors follow text?").filter(likes__gt=10)[:10]

A text is embedded by `qwen_embed.embed_query`, which a running worker answers. A vector needs no worker."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models.expressions import Expression
from django.db.models.sql.constants import INNER
from numpy.typing import NDArray
from psycopg import sql

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.spec import Distance
from pg_qwen_embed.domain.vectors import Vectors, as_literal
from pg_qwen_embed.integrations import synchronous
from pg_qwen_embed.integrations.django.operations import driver_connection
from pg_qwen_embed.integrations.django.two_steps import Near, ShortForm, TwoSteps, short_form
from pg_qwen_embed.postgres.key_names import PUBLIC_SCHEMA
from pg_qwen_embed.postgres.sql import statement

M = TypeVar("M", bound=models.Model)
Query = str | Sequence[float] | NDArray[Any]


class EmbeddingSearch:
    """An attribute of a model: called with a text or a vector, it is a queryset, nearest first, with `distance`.

    name: of the embedding; by default the table's. The others: how it was attached (see docs/django.md)."""

    def __init__(
        self, name: str | None = None, *, distance: str = "cosine", column: str = "embedding", key: Sequence[str] = (),
        chunked: bool = False, vector_schema: str | None = None, ef_search: int | None = None, index: str = "hnsw",
        dimensions: int | None = None,
    ) -> None:  # fmt: skip
        self.name, self.column, self.key, self.chunked, self.ef_search = name, column, tuple(key), chunked, ef_search
        self.operator = _operator(distance, vector_schema)
        self.vector_schema = vector_schema
        self.short = short_form(index, dimensions, vector_schema)

    def __get__(self, instance: M | None, model: type[M]) -> "Searching[M]":
        return Searching(self, model)

    def view(self, model: type[models.Model]) -> str:
        return self.name or model._meta.db_table

    def halfvec(self) -> str:
        """The type of a vector."""
        return _quoted(*([self.vector_schema] if self.vector_schema else []), "halfvec")

    def width(self, model: type[models.Model]) -> sql.Composable:
        """How widely a search looks in the index, as text."""
        if self.ef_search is None:
            return statement("measured_ef_search", embedding=sql.Literal(self.view(model)))
        return sql.Literal(str(self.ef_search))

    def vector(self, model: type[models.Model], query: Query) -> tuple[sql.Composable, str]:
        """The query's vector as an expression, and its one parameter."""
        if isinstance(query, str):
            vector: sql.Composable = statement("vector_of_text", embedding=sql.Literal(self.view(model)))
            parameter = _text(query)
        else:
            vector, parameter = sql.SQL(f"%s::{self.halfvec()}"), as_literal(query)
        return statement("prepared_query", ef_search=self.width(model), vector=vector), parameter


class Searching(Generic[M]):
    """The search of one model."""

    def __init__(self, search: EmbeddingSearch, model: type[M]) -> None:
        self._search, self._model = search, model

    def __call__(self, query: Query, *, exact: bool = False, using: str | None = None) -> "models.QuerySet[M]":
        """Rows of the model that have a vector, nearest first, each once. Narrow it with `filter`, and slice it.

        exact: compare all vectors, without the index. using: the database. Raises UsageError."""
        search, model = self._search, self._model
        found = model._default_manager.using(using).all()
        if search.short and not exact:
            found.query = found.query.chain(klass=TwoSteps)
        alias = found.query.join(_ViewJoin(search, model, found.query.get_initial_alias()))
        name = _free("distance", model)
        found = found.annotate(**{name: _Nearness(search, model, alias, query, exact=exact)})
        if search.short and isinstance(found.query, TwoSteps):
            width = search.width(model).as_string(None).replace("%", "%%")
            order, key = _ShortNearness(search, model, alias, query), _KeyInView(search, model, alias, query)
            order.short = search.short
            found.query.near = Near(order, key, name, width)
        if search.chunked:
            found = found.filter(_IsNearestChunk(search, model, alias, query))
        return found.order_by(name)

    def hybrid(self, text: str, k: int = 10, *, using: str | None = None) -> "models.QuerySet[M]":
        """The `k` best rows by words and by vector together, best first, with `score`; for embeddings with words.

        `filter` chooses among these `k`. using: the database. Raises UsageError."""
        return self._called("_hybrid", "score", "text", _text(text), k, using, "-")

    def closest(self, query: Query, k: int = 10, *, using: str | None = None) -> "models.QuerySet[M]":
        """The `k` nearest rows as the embedding's own function finds them, by an index of any kind, with `distance`.

        `filter` chooses among these `k`. using: the database. Raises UsageError."""
        given = ("text", _text(query)) if isinstance(query, str) else (self._search.halfvec(), as_literal(query))
        return self._called("", "distance", *given, k, using)

    def _called(
        self, suffix: str, column: str, type_: str, given: str, k: int, using: str | None, order: str = ""
    ) -> "models.QuerySet[M]":
        """The rows that a function of the embedding returns for a query of that type, ordered by a column of its."""
        found = self._model._default_manager.using(using).all()
        call = _Call(suffix, column, type_, (given, k))
        alias = found.query.join(_CallJoin(self._search, self._model, found.query.get_initial_alias(), call))
        name = _free(column, self._model)
        return found.annotate(**{name: _OfCall(alias, column)}).order_by(order + name)

    def embed_now(self, *, using: str = DEFAULT_DB_ALIAS, **settings: str | None) -> int:
        """Embed all pending rows in the current transaction, without a worker: for tests. Returns how many got vectors."""
        return synchronous.embed_pending(self._connection(using), self._search.view(self._model), **settings)

    def vector(self, text: str, *, using: str = DEFAULT_DB_ALIAS, **settings: str | None) -> Vectors:
        """The vector of a query, without a worker. settings: such as server_url; others come from the environment."""
        return synchronous.query_vector(self._connection(using), self._search.view(self._model), text, **settings)

    def _connection(self, using: str) -> Any:
        return driver_connection(connections[using])


class _ViewJoin:
    """The view, joined by the key: what a Query needs to know of a join (django/db/models/sql/datastructures.py)."""

    filtered_relation = None
    nullable = False

    def __init__(self, search: EmbeddingSearch, model: type[models.Model], parent_alias: str) -> None:
        self.search, self.model, self.parent_alias = search, model, parent_alias
        self.table_name = re.sub('["%]', "_", f"{PUBLIC_SCHEMA} {search.view(model)}")  # the alias in SQL
        self.table_alias = self.table_name
        self.join_type = INNER

    @property
    def identity(self) -> tuple[Any, ...]:
        return type(self), self.table_name, self.parent_alias

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ViewJoin) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def equals(self, other: object) -> bool:
        return self == other

    def promote(self) -> "_ViewJoin":
        return self

    demote = promote

    def relabeled_clone(self, change_map: Mapping[str, str]) -> "_ViewJoin":
        clone = _ViewJoin(self.search, self.model, change_map.get(self.parent_alias, self.parent_alias))
        clone.table_alias = change_map.get(self.table_alias, self.table_alias)
        return clone

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        own, parent = (
            compiler.quote_name_unless_alias(self.table_alias),
            compiler.quote_name_unless_alias(self.parent_alias),
        )
        view = _quoted(PUBLIC_SCHEMA, self.search.view(self.model))
        same = " AND ".join(f"{parent}.{name} = {own}.{name}" for name in _key(self.search, self.model))
        return f"INNER JOIN {view} {own} ON ({same})", []


@dataclass(frozen=True)
class _Call:
    """A function of an embedding: what its name ends in, the column after the key, the type of the query, and the values."""

    suffix: str
    column: str
    type: str
    values: tuple[str, int]


class _CallJoin(_ViewJoin):
    """The rows of a function, likewise."""

    def __init__(self, search: EmbeddingSearch, model: type[models.Model], parent_alias: str, call: _Call) -> None:
        super().__init__(search, model, parent_alias)
        self.call = call

    @property
    def identity(self) -> tuple[Any, ...]:
        return *super().identity, self.call

    def relabeled_clone(self, change_map: Mapping[str, str]) -> "_CallJoin":
        clone = _CallJoin(self.search, self.model, change_map.get(self.parent_alias, self.parent_alias), self.call)
        clone.table_alias = change_map.get(self.table_alias, self.table_alias)
        return clone

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        own = compiler.quote_name_unless_alias(self.table_alias)
        parent = compiler.quote_name_unless_alias(self.parent_alias)
        function = _quoted(PUBLIC_SCHEMA, self.search.view(self.model) + self.call.suffix)
        keys = [f"k{n}" for n, _ in enumerate(_key(self.search, self.model))]  # whatever the key is called
        same = " AND ".join(
            f"{parent}.{name} = {own}.{k}" for k, name in zip(keys, _key(self.search, self.model), strict=True)
        )
        found = ", ".join([*keys, self.call.column])
        return f"INNER JOIN {function}(%s::{self.call.type}, %s::integer) {own} ({found}) ON ({same})", [
            *self.call.values
        ]


class _OfCall(Expression):
    """A column of a function's rows."""

    contains_column_references = True

    def __init__(self, alias: str, column: str):
        super().__init__(output_field=models.FloatField())
        self.alias, self.column = alias, column

    def relabeled_clone(self, change_map: Mapping[str, str]) -> "_OfCall":
        return _OfCall(change_map.get(self.alias, self.alias), self.column)

    def get_group_by_cols(self) -> list[Any]:
        return [self]

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        return f"{compiler.quote_name_unless_alias(self.alias)}.{self.column}", []


class _OfView(Expression):
    """An expression over the view."""

    contains_column_references = True
    alias: str

    def __init__(
        self, search: EmbeddingSearch, model: type[models.Model], alias: str, query: Query, *, exact: bool = False
    ):
        super().__init__(output_field=self.field())
        self.search, self.model, self.alias, self.exact = search, model, alias, exact
        self.query, self.parameter = search.vector(model, query)

    @staticmethod
    def field() -> "models.Field[Any, Any]":
        raise NotImplementedError

    def relabeled_clone(self, change_map: Mapping[str, str]) -> "_OfView":
        clone: _OfView = self.copy()
        clone.alias = change_map.get(self.alias, self.alias)
        return clone

    @property
    def identity(self) -> tuple[Any, ...]:
        return type(self), id(self.search), self.model, self.alias, self.parameter, self.exact

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OfView) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def get_group_by_cols(self) -> list[Any]:
        return [self]


class _Nearness(_OfView):
    @staticmethod
    def field() -> "models.Field[Any, Any]":
        return models.FloatField()

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        column = f"{compiler.quote_name_unless_alias(self.alias)}.{_quoted(self.search.column)}"
        distance = f"({column} {self.search.operator} {self.query.as_string(None)})"
        return (f"({distance} + 0)" if self.exact else distance), [self.parameter]


class _IsNearestChunk(_OfView):
    conditional = True

    @staticmethod
    def field() -> "models.Field[Any, Any]":
        return models.BooleanField()

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        own = compiler.quote_name_unless_alias(self.alias)
        same = (f"b.{name} = {own}.{name}" for name in _key(self.search, self.model))
        nearest = statement(
            "nearest_chunk",
            view=sql.Identifier(PUBLIC_SCHEMA, self.search.view(self.model)),
            same_row=sql.SQL(" AND ".join(same)),
            column=sql.Identifier(self.search.column),
            operator=sql.SQL(self.search.operator),
            chunk=sql.Identifier("chunk"),
            query=self.query,
        )
        found = statement("is_nearest_chunk", chunk=sql.SQL(f"{own}.chunk"), nearest=nearest)
        return found.as_string(None), [self.parameter]


def _free(name: str, model: type[models.Model]) -> str:
    """What a queryset calls a measure: `found_distance` where the model has a field `distance`."""
    fields = {own for field in model._meta.get_fields() for own in (field.name, getattr(field, "attname", None))}
    while name in fields:
        name = f"found_{name}"
    return name


class _KeyInView(_OfView):
    """The columns of the key, which are several for some models."""

    @staticmethod
    def field() -> "models.Field[Any, Any]":
        return models.TextField()

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        own = compiler.quote_name_unless_alias(self.alias)
        return ", ".join(f"{own}.{name}" for name in _key(self.search, self.model)), []


class _ShortNearness(_OfView):
    """By what a compressed index orders the vectors."""

    short: ShortForm

    @staticmethod
    def field() -> "models.Field[Any, Any]":
        return models.FloatField()

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        column = f"{compiler.quote_name_unless_alias(self.alias)}.{_quoted(self.search.column)}"
        return self.short.nearness(column, self.query.as_string(None)), [self.parameter]


def _text(query: str) -> str:
    if not query.strip():
        raise UsageError("the query is blank: there is nothing to search for")
    return query


def _key(search: EmbeddingSearch, model: type[models.Model]) -> list[str]:
    """The columns of the key, as SQL writes them."""
    fields = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    return [_quoted(name) for name in search.key or [field.column for field in fields]]


def _operator(distance: str, schema: str | None) -> str:
    try:
        operator = Distance(distance).operator
    except ValueError:
        raise UsageError(f"distance cannot be {distance!r}; it is one of: {', '.join(Distance)}") from None
    return f"OPERATOR({_quoted(schema)}.{operator})" if schema else operator


def _quoted(*names: str) -> str:
    """Names as SQL writes them, for a statement with parameters."""
    return sql.Identifier(*names).as_string(None).replace("%", "%%")
