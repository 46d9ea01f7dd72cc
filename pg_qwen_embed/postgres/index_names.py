"""What the statements need of the index of a generation: how it is built, and how a search reaches it.

A search takes `candidates` rows in the order of `near`, which the index can follow, and ranks these by the distance of the
whole vectors. With an index of whole vectors both orders are one, and the candidates are the rows that were asked for.
This is the one place that knows it: the statements of the package and the functions in the database share it."""

from psycopg import sql

from pg_qwen_embed.domain.index import CANDIDATES_FOR, Index, IndexKind
from pg_qwen_embed.domain.spec import Distance
from pg_qwen_embed.postgres.key_names import PUBLIC_SCHEMA, KeyNames, identifier

_QUERY = sql.SQL("%(query)s")
_LIMIT = sql.SQL("%(limit)s")
_CANDIDATES = sql.SQL("%(candidates)s")


class IndexNames(KeyNames):
    """The placeholders about the index."""

    @property
    def _kind(self) -> Index:
        return self.target.spec.index

    @property
    def halfvec(self) -> sql.Identifier:
        return self._of_pgvector("halfvec")

    @property
    def distance(self) -> sql.Composable:
        """The distance operator, with its schema."""
        return self._operator(self.target.spec.distance.operator)

    @property
    def index_in_schema(self) -> sql.Identifier:
        return identifier(self.index)

    @property
    def index_method(self) -> sql.SQL:
        return sql.SQL(self._kind.method)

    @property
    def operator_class(self) -> sql.Identifier:
        match self._kind.kind:
            case IndexKind.BINARY:
                return self._of_pgvector("bit_hamming_ops")
            case IndexKind.PREFIX:
                return self._of_pgvector(Distance.COSINE.operator_class)
        return self._of_pgvector(self.target.spec.distance.operator_class)

    @property
    def index_expression(self) -> sql.Composable:
        """What the index holds of a row."""
        column = sql.Identifier(self._vector_column)
        return sql.SQL("({})").format(self._short(column)) if self._kind.compressed else column

    def kept(self, alias: str) -> sql.Identifier:
        """The vector in the table that holds it."""
        return sql.Identifier(alias, self._vector_column)

    def near(self, alias: str) -> sql.Composable:
        """By what the index orders the vectors of the table that holds them. `%(query)s` is the query's vector."""
        return self.near_to(self.kept(alias), sql.SQL("{}::{}").format(_QUERY, self.halfvec))

    def near_to(self, vector: sql.Composable, query: sql.Composable) -> sql.Composable:
        """The same for the vector of the view, or another expression of the query's vector, of type halfvec."""
        match self._kind.kind:
            case IndexKind.BINARY:
                quantize = self._of_pgvector("binary_quantize")
                signs = sql.SQL("{}({})").format(quantize, query)
                return sql.SQL("{} {} {}").format(self._short(vector), self._operator("<~>"), signs)
            case IndexKind.PREFIX:
                operator = self._operator(Distance.COSINE.operator)
                return sql.SQL("{} {} {}").format(self._short(vector), operator, self._prefix(query))
        return sql.SQL("{} {} {}").format(vector, self.distance, query)

    @property
    def candidates(self) -> sql.Composable:
        """How many rows a search for `%(limit)s` takes in the order of `near`."""
        return self.candidates_for(_LIMIT)

    def candidates_for(self, limit: sql.Composable) -> sql.Composable:
        """The same for another expression of the limit. The session has its ef_search: see begin_search.

        ef_search is measured for CANDIDATES_FOR rows. Twice as many rows need twice the candidates."""
        if not self._kind.compressed:
            return limit
        form = (
            "GREATEST({l}::pg_catalog.int8, pg_catalog.current_setting('hnsw.ef_search')::pg_catalog.int8 "
            "OPERATOR(pg_catalog.*) (({l}::pg_catalog.int8 OPERATOR(pg_catalog.+) {more}) OPERATOR(pg_catalog./) {rows}))"
        )
        return sql.SQL(form).format(l=limit, more=sql.Literal(CANDIDATES_FOR - 1), rows=sql.Literal(CANDIDATES_FOR))

    @property
    def near_function(self) -> sql.Identifier:
        """By what the functions of the embedding order what they take from the index."""
        return self.own_near_function if self._kind.compressed else self.distance_function

    @property
    def own_near_function(self) -> sql.Identifier:
        """The function that an embedding with a compressed index has for it."""
        return sql.Identifier(PUBLIC_SCHEMA, f"near_{self.target.id}")

    @property
    def near_body(self) -> sql.Composable:
        return self.near_to(sql.Identifier("a"), sql.Identifier("b"))

    @property
    def distance_function(self) -> sql.Identifier:
        """The function that an embedding has for its distance. Its readers need no right to the internal schema."""
        return sql.Identifier(PUBLIC_SCHEMA, f"distance_{self.target.id}")

    @property
    def distance_name(self) -> sql.Literal:
        """Its name as text. Only the live generation of an embedding has one."""
        return sql.Literal(f"{PUBLIC_SCHEMA}.distance_{self.target.id}")

    @property
    def shortened(self) -> sql.Composable:
        """A longer vector of `s`, in the dimensions of this generation."""
        vector = sql.SQL("{}(s.embedding, 1, {})").format(
            self._of_pgvector("subvector"), sql.Literal(self.target.spec.dimensions)
        )
        return sql.SQL("{}({})").format(self._of_pgvector("l2_normalize"), vector)

    @property
    def width_setting(self) -> sql.Literal:
        """The setting that says how widely a search looks in the index."""
        return sql.Literal("ivfflat.probes" if self._is_ivfflat else "hnsw.ef_search")

    @property
    def iterative_setting(self) -> sql.Literal:
        return sql.Literal("ivfflat.iterative_scan" if self._is_ivfflat else "hnsw.iterative_scan")

    @property
    def iterative_scan(self) -> sql.Literal:
        """ivfflat has no strict order. Rows are ordered by their distance afterwards."""
        return sql.Literal("relaxed_order" if self._is_ivfflat else "strict_order")

    @property
    def finds_filtered(self) -> sql.Literal:
        """Whether a search with a condition may use the index."""
        return sql.Literal(self._kind.kind is IndexKind.HNSW or self._kind.compressed)

    @property
    def near_filtered(self) -> sql.Composable:
        """By what a search with a condition orders the candidates `c`."""
        return self.near_to(sql.Identifier("c", "vector"), sql.SQL("{}::{}").format(_QUERY, self.halfvec))

    @property
    def candidates_filtered(self) -> sql.Composable:
        """How many of them it takes. `%(candidates)s` is how many an index of whole vectors finds."""
        return self.candidates_for(_CANDIDATES)

    @property
    def looks_filtered(self) -> sql.Composable:
        """At how many vectors the index would look if all rows met the condition."""
        return self.candidates_filtered if self._kind.compressed else sql.SQL("%(looks)s * %(limit)s")

    @property
    def limit_filtered(self) -> sql.Composable:
        """The candidates as they were counted. PostgreSQL evaluates the setting when it plans."""
        kept = sql.SQL("pg_catalog.current_setting('pg_qwen_embed.candidates')::pg_catalog.int8")
        return kept if self._kind.compressed else _CANDIDATES

    @property
    def kind_text(self) -> sql.Literal:
        """The kind of the index, as the registry keeps it."""
        return sql.Literal(str(self._kind))

    @property
    def _is_ivfflat(self) -> bool:
        return self._kind.kind is IndexKind.IVFFLAT

    @property
    def _vector_column(self) -> str:
        """In the table that holds the vectors."""
        return self.target.source_column if self.layout.in_source else "embedding"

    def _short(self, vector: sql.Composable) -> sql.Composable:
        """The short form of a vector, in a compressed index.

        The cast takes the length from the type, as the view does: an expression over the view is the same then."""
        vector = sql.SQL("{}::{}").format(vector, self.halfvec)
        if self._kind.kind is IndexKind.BINARY:
            form = "{}({})::pg_catalog.bit({})"
            return sql.SQL(form).format(
                self._of_pgvector("binary_quantize"), vector, sql.Literal(self.target.spec.dimensions)
            )
        return self._prefix(vector)

    def _prefix(self, vector: sql.Composable) -> sql.Composable:
        form = "{}({}, 1, {n})::{}({n})"
        subvector = self._of_pgvector("subvector")
        return sql.SQL(form).format(subvector, vector, self.halfvec, n=sql.Literal(self._kind.prefix))

    def _of_pgvector(self, name: str) -> sql.Identifier:
        return sql.Identifier(self.target.embedding.vector_schema, name)

    def _operator(self, operator: str) -> sql.Composable:
        schema = sql.Identifier(self.target.embedding.vector_schema)
        return sql.SQL("OPERATOR({}.{})").format(schema, sql.SQL(operator))


def index_text(names: IndexNames) -> str:
    """The index as text, for to_regclass()."""
    return identifier(names.index).as_string(None)


def next_index_text(names: IndexNames) -> str:
    return identifier(names.next_index).as_string(None)
