"""What the statements' placeholders stand for where an embedding keeps words; without words each of them is empty.

`with_words` and `no_words_missing` tell a row whose words are missing. Nothing is missing while the configuration is."""

from psycopg import sql

from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.call_names import CallNames
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA, PUBLIC_SCHEMA
from pg_qwen_embed.postgres.sql import statement

NOTHING = sql.SQL("")


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
    def words_function(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, f"{self.target.name}_words")

    @property
    def hybrid_function(self) -> sql.Identifier:
        return sql.Identifier(PUBLIC_SCHEMA, f"{self.target.name}_hybrid")

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
    def no_words_missing(self) -> sql.Composable:
        return statement("words_are_there_chunked", self) if self.has_words else NOTHING

    def _piece(self, text: str) -> sql.Composable:
        return sql.SQL(text).format(configuration=self.configuration) if self.has_words else NOTHING
