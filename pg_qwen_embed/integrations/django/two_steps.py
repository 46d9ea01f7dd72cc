"""Searches by an index that holds a short form of each vector: candidates first, which the whole vectors rank then.

A queryset is narrowed and sliced after it was made. So the two steps are made when it is compiled: the rows of a slice are among
the candidates, which meet the same conditions, and come in the order of the index."""

from dataclasses import dataclass, replace
from typing import Any

from django.db.models.expressions import Expression
from django.db.models.fields import BooleanField
from django.db.models.sql.query import Query
from django.db.models.sql.where import AND
from psycopg import sql

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import CANDIDATES_FOR, Index, IndexKind
from pg_qwen_embed.domain.index import parse as parse_index
from pg_qwen_embed.domain.spec import Distance


@dataclass(frozen=True)
class ShortForm:
    """What an index holds of each vector: its signs, or its first dimensions. schema: of pgvector, if it is to be named."""

    index: Index
    dimensions: int
    schema: str | None

    def nearness(self, vector: str, query: str) -> str:
        """The expression that the index orders by, as its definition has it."""
        halfvec = self._name("halfvec")
        if self.index.kind is IndexKind.BINARY:
            quantize = self._name("binary_quantize")
            signs = f"{quantize}({vector}::{halfvec})::pg_catalog.bit({self.dimensions})"
            return f"({signs} {self._operator('<~>')} {quantize}({query}))"
        subvector, prefix = self._name("subvector"), self.index.prefix
        first, wanted = (f"{subvector}({one}::{halfvec}, 1, {prefix})::{halfvec}({prefix})" for one in (vector, query))
        return f"({first} {self._operator(Distance.COSINE.operator)} {wanted})"

    def _name(self, name: str) -> str:
        return f"{self._schema}{name}"

    def _operator(self, operator: str) -> str:
        return f"OPERATOR({self._schema}{operator})" if self.schema else operator

    @property
    def _schema(self) -> str:
        return sql.Identifier(self.schema).as_string(None).replace("%", "%%") + "." if self.schema else ""


def short_form(index: str, dimensions: int | None, schema: str | None) -> ShortForm | None:
    """Of a compressed kind of index; None for the others. Raises UsageError."""
    parsed = parse_index(index)
    if not parsed.compressed:
        return None
    if dimensions is None and parsed.kind is IndexKind.BINARY:
        raise UsageError(
            "an index of kind hnsw-binary needs the dimensions too: EmbeddingSearch(index=..., dimensions=1024)"
        )
    return ShortForm(parsed, dimensions or 0, schema)


class TwoSteps(Query):
    """A search that takes candidates from the index, once it is sliced. Another order, or no slice, needs every distance."""

    near: "Near | None" = None

    def get_compiler(self, using: Any = None, connection: Any = None, elide_empty: bool = True) -> Any:
        query = self._by_candidates(self.near) if self.near and self._is_nearest_first(self.near) else _plain(self)
        return query.get_compiler(using, connection, elide_empty)

    def change_aliases(self, change_map: dict[str, str]) -> None:
        super().change_aliases(change_map)
        if self.near:
            self.near = self.near.relabeled(change_map)

    def _is_nearest_first(self, near: "Near") -> bool:
        is_whole = self.distinct or self.combinator or self.group_by is not None
        return self.high_mark is not None and self.order_by == (near.distance,) and not is_whole

    def _by_candidates(self, near: "Near") -> Query:
        candidates, query = _plain(self), _plain(self)
        candidates.select_for_update, candidates.explain_info = False, None
        candidates.clear_ordering(force=True)
        candidates.clear_limits()
        candidates.clear_select_clause()
        candidates.add_annotation(near.key, "key")
        candidates.add_ordering(near.order)
        query.where.add(_IsCandidate(candidates, near, int(self.high_mark or 0)), AND)
        return query


@dataclass(frozen=True)
class Near:
    """By what candidates are ordered, the columns of their key in the view, and what the queryset calls the distance.

    width: how many candidates ten rows have, in SQL."""

    order: Expression
    key: Expression
    distance: str
    width: str

    def relabeled(self, change_map: dict[str, str]) -> "Near":
        return replace(self, order=self.order.relabeled_clone(change_map), key=self.key.relabeled_clone(change_map))


class _IsCandidate(Expression):
    """Whether a row is one of the candidates: `(a.id) IN (SELECT .. LIMIT ..)`."""

    conditional = True

    def __init__(self, candidates: Query, near: Near, limit: int) -> None:
        super().__init__(output_field=BooleanField())
        self.candidates, self.near, self.limit = candidates, near, limit

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        select, values = self.candidates.get_compiler(connection=connection).as_sql()
        key, _ = compiler.compile(self.near.key)
        wanted = -(-self.limit // CANDIDATES_FOR)
        most = f"GREATEST({self.limit}, ({self.near.width})::pg_catalog.int8 OPERATOR(pg_catalog.*) {wanted})"
        return f"({key}) IN ({select} LIMIT {most})", list(values)


def _plain(query: Query) -> Query:
    """A copy that is compiled as it is."""
    copy = query.clone()
    copy.__class__ = Query
    return copy
