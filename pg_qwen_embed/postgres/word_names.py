"""What the statements' placeholders stand for where an embedding keeps words; without words each of them is empty.

`with_words` and `no_words_missing` tell a row whose words are missing. Nothing is missing while the configuration is."""

from psycopg import sql

from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.call_names import HYBRID, WORDS, CallNames, Parameter, columns, declared, free
from pg_qwen_embed.postgres.expressions import TRUE, joined
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA, PUBLIC_SCHEMA
from pg_qwen_embed.postgres.sql import statement

NOTHING = sql.SQL("")
CANDIDATES = 100  # rows of each side that are fused
RRF_K = 5  # of reciprocal rank fusion: how many ranks must lie between two rows, so that one counts half as much as the first
TEXT_WEIGHT = "1.5"  # of the words, where the vectors have 1; both were chosen by benchmarks/hybrid.py
_HYBRID = {
    "score": "double precision", "vector_rank": "bigint", "text_rank": "bigint", "distance": "double precision",
}  # fmt: skip


class WordNames(CallNames):
    """The placeholders of words, between those of the functions and all others."""

    @property
    def has_words(self) -> bool:
        return self.target.spec.words is not None

    @property
    def configuration(self) -> sql.Literal:
        """The text search configuration, or `cjk`, for the functions that tell words."""
        return sql.Literal(self.target.spec.words)

    @property
    def words_index(self) -> QualifiedName:
        return QualifiedName(INTERNAL_SCHEMA, f"store_{self.target.id}_words")

    @property
    def words_view(self) -> sql.Identifier:
        """The words of all rows, for the roles that may read every row of the source."""
        return sql.Identifier(INTERNAL_SCHEMA, f"words_{self.target.id}")

    @property
    def ranked_function(self) -> sql.Identifier:
        """Ranks rows by their words. Its readers need no right to the internal schema."""
        return sql.Identifier(PUBLIC_SCHEMA, f"words_{self.target.id}")

    # The functions that applications call.

    @property
    def words_function(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, self.target.name + WORDS)

    @property
    def hybrid_function(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, self.target.name + HYBRID)

    @property
    def words_parameters(self) -> sql.Composed:
        return declared(self._words_parameters())

    @property
    def words_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._words_parameters())

    @property
    def words_columns(self) -> sql.Composed:
        """`id bigint, score real`."""
        return columns(self._words_columns)

    @property
    def hybrid_parameters(self) -> sql.Composed:
        return declared(self._hybrid_parameters(with_vector=True))

    @property
    def hybrid_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._hybrid_parameters(with_vector=True))

    @property
    def text_hybrid_parameters(self) -> sql.Composed:
        return declared(self._hybrid_parameters(with_vector=False))

    @property
    def text_hybrid_types(self) -> sql.Composed:
        return joined(type_ for _, type_, _ in self._hybrid_parameters(with_vector=False))

    @property
    def hybrid_columns(self) -> sql.Composed:
        """`id bigint, score float8, vector_rank bigint, text_rank bigint, distance float8`; of a chunked one also chunk."""
        return columns(self._hybrid_columns)

    @property
    def ranked_columns(self) -> sql.Composed:
        """`k1 bigint, rank real`: what the function that ranks rows returns."""
        return sql.SQL("{}, rank real").format(expressions.key_columns(self._columns, nullable=False, bare=True))

    @property
    def typed_key(self) -> sql.Composed:
        """`f.k1::bigint`: the key in the types that the source has."""
        return joined(
            sql.SQL("f.{}::{}").format(sql.Identifier(f"k{n}"), expressions.qualified_type(column))
            for n, column in self._numbered
        )

    @property
    def found_by_vector(self) -> sql.Composable:
        """The columns of the search function, as the alias of its result has them."""
        return sql.SQL("{}, distance, chunk, span, chunk_text" if self.layout.has_chunks else "{}, distance").format(
            self.keys
        )

    @property
    def chunk_found(self) -> sql.Composable:
        return self._chunk(", h.chunk")

    @property
    def no_chunk(self) -> sql.Composable:
        return self._chunk(", NULL::pg_catalog.int4")

    @property
    def chunk_name(self) -> sql.Composable:
        return self._chunk(", chunk")

    @property
    def best_chunk(self) -> sql.Composable:
        return self._chunk(", pg_catalog.max(r.chunk) AS chunk")

    @property
    def chunk_of_row(self) -> sql.Composable:
        return self._chunk(", COALESCE(f.chunk, n.chunk)")

    @property
    def own_chunk(self) -> sql.Composable:
        """The number of a chunk in the view; one vector a row is one chunk."""
        return sql.Identifier("e", self.target.embedding.view.name("chunk")) if self.layout.has_chunks else sql.SQL("1")

    @property
    def chunk_shown(self) -> sql.Composable:
        view = self.target.embedding.view
        shown = joined(sql.Identifier("e", view.name(one)) for one in ("chunk", "span", "chunk_text"))
        return sql.SQL(", {}").format(shown) if self.layout.has_chunks else NOTHING

    @property
    def with_chunk(self) -> sql.Composable:
        return statement("with_chunk", self) if self.layout.has_chunks else NOTHING

    @property
    def rrf_k(self) -> sql.Literal:
        return sql.Literal(RRF_K)

    @property
    def text_weight(self) -> sql.Composable:
        return sql.SQL(TEXT_WEIGHT)

    @property
    def wanted(self) -> sql.Composable:
        return statement("wanted")

    @property
    def view_is_held(self) -> sql.Composable:
        """For searches by the package: those of one vector a row read the store of one generation."""
        return statement("view_is_held", self) if self.layout.has_chunks or self.has_words else NOTHING

    @property
    def enter_words(self) -> sql.Composable:
        return self._enter(self.words_function, 2)

    @property
    def enter_hybrid(self) -> sql.Composable:
        return self._enter(self.hybrid_function, 7)

    @property
    def want(self) -> sql.Composable:
        return statement("want", self)

    @property
    def want_no_more(self) -> sql.Composable:
        return statement("want_no_more")

    @property
    def check_words_query(self) -> sql.Composable:
        return statement("check_words_query", self)

    def _chunk(self, text: str) -> sql.Composable:
        return sql.SQL(text) if self.layout.has_chunks else NOTHING

    @property
    def _words_columns(self) -> list[tuple[str, sql.Composable]]:
        return [*self._key_found, (free("score", set(self._view_key)), sql.SQL("real"))]

    def _words_parameters(self) -> list[Parameter]:
        taken = {name for name, _ in self._words_columns}
        return [(free("query", taken), sql.SQL("text"), ""), (free("k", taken), sql.SQL("integer"), "10")]

    @property
    def _hybrid_columns(self) -> list[tuple[str, sql.Composable]]:
        taken = set(self._view_key)
        own = ["score", "vector_rank", "text_rank", "distance"]
        found = [(free(name, taken), sql.SQL(_HYBRID[name])) for name in own]
        if self.layout.has_chunks:
            found.append((free(self.target.embedding.view.name("chunk"), taken), sql.SQL("integer")))
        return [*self._key_found, *found]

    def _hybrid_parameters(self, *, with_vector: bool) -> list[Parameter]:
        taken = {name for name, _ in self._hybrid_columns}
        vector: list[Parameter] = [(free("query_vector", taken), self.halfvec, "")] if with_vector else []
        return [
            (free("query", taken), sql.SQL("text"), ""),
            *vector,
            (free("k", taken), sql.SQL("integer"), "10"),
            (free("candidates", taken), sql.SQL("integer"), str(CANDIDATES)),
            (free("rrf_k", taken), sql.SQL("integer"), str(RRF_K)),
            (free("vector_weight", taken), sql.SQL("double precision"), "1"),
            (free("text_weight", taken), sql.SQL("double precision"), TEXT_WEIGHT),
        ]

    @property
    def _key_found(self) -> list[tuple[str, sql.Composable]]:
        return [(name, sql.SQL(c.type)) for name, c in zip(self._view_key, self._columns, strict=True)]

    # Pieces of the statements that write.

    @property
    def documents_bound(self) -> sql.Composable:
        return self._piece(", %(documents)s::text[]")

    @property
    def document_name(self) -> sql.Composable:
        return self._piece(", document")

    def document_of(self, alias: str) -> sql.Composable:
        return self._piece(f", {alias}.document")

    @property
    def words_name(self) -> sql.Composable:
        return self._piece(", words")

    def words_of(self, alias: str) -> sql.Composable:
        """The words of the document that `alias` has."""
        return self._piece(f", _qwen_embed.words({{configuration}}, {alias}.document)")

    @property
    def words_of_first_chunk(self) -> sql.Composable:
        """The words of the whole document, kept with its first chunk."""
        return self._piece(", CASE WHEN p.chunk = 1 THEN _qwen_embed.words({configuration}, n.document) END")

    @property
    def words_excluded(self) -> sql.Composable:
        return self._piece(", words = excluded.words")

    @property
    def words_removed(self) -> sql.Composable:
        return self._piece(", words = NULL")

    def former_words(self, alias: str) -> sql.Composable:
        return self._piece(f", {alias}.words")

    @property
    def words_column(self) -> sql.Composable:
        return self._piece("\n    words tsvector,")

    # Pieces of the statements that look for drift.

    def with_words(self, whole: sql.Composable) -> sql.Composable:
        """`whole`, and for layouts of one row also that the words are there. Chunks have it in `whole`."""
        if not self.has_words or self.layout.has_chunks:
            return whole
        there = statement("words_are_there", self)
        return there if whole is TRUE else sql.SQL("({} AND {})").format(whole, there)

    @property
    def configuration_exists(self) -> sql.Composable:
        return statement("configuration_exists", self)

    @property
    def index_state(self) -> sql.Composable:
        return statement("index_state")

    @property
    def no_words_missing(self) -> sql.Composable:
        return statement("words_are_there_chunked", self) if self.has_words else NOTHING

    def _piece(self, text: str) -> sql.Composable:
        return sql.SQL(text).format(configuration=self.configuration) if self.has_words else NOTHING
