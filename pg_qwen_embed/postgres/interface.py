"""The public interface of an embedding: what applications see of it. It is replaced as a whole.

Each function yields its statements in order."""

from collections.abc import Iterator

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement


def create(embedding: Embedding) -> Iterator[sql.Composed]:
    """Creates what applications see: the view, and the search function of a chunked embedding."""
    names = names_of(embedding)
    yield statement(names.layout.create_view, names)
    yield statement("comment_view", names, comment=names.comment("rows with their vectors; what applications query"))
    if names.layout.has_chunks:
        yield statement("create_distance_function", names)
        comment = names.comment("the distance of two vectors, for the search function")
        yield statement("comment_distance_function", names, comment=comment)
        yield statement("load_pgvector", names)
        yield statement("create_search_function", names, body=sql.Literal(as_text(statement("search_body", names))))
        comment = names.comment("the rows nearest to a query, each with its best chunk, nearest first")
        yield statement("comment_search_function", names, comment=comment)


def drop(embedding: Embedding) -> Iterator[sql.Composed]:
    """Drops the functions, then the view."""
    names = names_of(embedding)
    if names.layout.has_chunks:
        yield statement("drop_search_function", names)
        yield statement("drop_distance_function", names)
    yield statement("drop_view", names)
