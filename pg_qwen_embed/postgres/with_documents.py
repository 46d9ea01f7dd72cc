"""The names of statements whose rows come with their documents, for a reranker."""

from psycopg import sql

from pg_qwen_embed.domain.rerank import DOCUMENT, MOST_BYTES
from pg_qwen_embed.postgres.names import Names


class NamesWithDocuments(Names):
    """A search reads the beginning of each document with the row: in one snapshot, with the rights of its role."""

    def source_columns(self, alias: str) -> sql.Composed:
        return sql.SQL("{}, pg_catalog.left({}, {}) AS {}").format(
            super().source_columns(alias), self.document(alias), sql.Literal(MOST_BYTES), sql.Identifier(DOCUMENT)
        )
