"""The public interface of an embedding: what applications see of it, a view and functions.

Each function yields its statements in order."""

from collections.abc import Iterator

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.postgres import interface_words
from pg_qwen_embed.postgres.call_names import fits
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.function import Function
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.sql import statement


def create(embedding: Embedding) -> Iterator[sql.Composed]:
    """Creates what applications see. Grants and what depends on it stay where it is there."""
    names = names_of(embedding)
    yield statement(names.layout.create_view, names)
    yield statement("comment_view", names, comment=names.comment("rows with their vectors; what applications query"))
    yield statement("create_distance_function", names)
    comment = names.comment("the distance of two vectors, for the search function")
    yield statement("comment_distance_function", names, comment=comment)
    if embedding.live.spec.index.compressed:
        yield statement("create_near_function", names)
        comment = names.comment("the order of the index, for the functions")
        yield statement("comment_near_function", names, comment=comment)
    yield from interface_words.create(names)
    for function in functions(embedding):
        yield function.create
        yield function.comment


def exchange(before: Embedding, after: Embedding) -> Iterator[sql.Composed]:
    """Replaces what applications see of one live generation by what they see of another. The view comes first: its lock
    waits for the queries that read it."""
    yield from create(after)
    yield drop_superseded(after)
    names = names_of(before)
    yield from interface_words.drop(names)
    yield statement("drop_distance_function", names)
    yield statement("drop_near_function", names)


def drop(embedding: Embedding) -> Iterator[sql.Composed]:
    """Drops the functions, then the view."""
    names = names_of(embedding)
    known = functions(embedding) if all(column.type for column in embedding.source.key) else []
    body = as_text(statement("drop_functions_body", names, present=_signatures(known)))
    yield statement("drop_functions", names, body=sql.Literal(body))
    yield from interface_words.drop(names)
    yield statement("drop_distance_function", names)
    yield statement("drop_near_function", names)
    yield statement("drop_view", names)


def drop_superseded(embedding: Embedding) -> sql.Composed:
    """Drops functions that an earlier release has created, or that were created for another key."""
    names = names_of(embedding)
    body = as_text(statement("drop_superseded_interface_body", names, present=_signatures(functions(embedding))))
    return statement("drop_superseded_interface", names, body=sql.Literal(body))


def functions(embedding: Embedding) -> list[Function]:
    """The functions of an embedding. One whose name is too long for their names has those that need no other name."""
    names = names_of(embedding)
    found = [_search(names), _text_search(names), *interface_words.functions(names)]
    return [*found, _like(names), _duplicates(names)] if fits(embedding.name) else found


def _signatures(known: list[Function]) -> sql.Composed:
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(sql.Literal(one.signature) for one in known))


def _search(names: Names) -> Function:
    body = as_text(statement(names.layout.search_body, names))
    best = "the rows nearest to a query, each with its best chunk, nearest first"
    purpose = best if names.layout.has_chunks else "the rows nearest to a query, nearest first"
    create = statement("create_search_function", names, body=sql.Literal(body))
    comment = statement("comment_search_function", names, comment=names.comment(purpose))
    return Function(create, comment, body, names.view, names.search_types)


def _text_search(names: Names) -> Function:
    body = as_text(statement("text_search_body", names))
    create = statement("create_text_search_function", names, body=sql.Literal(body))
    comment = statement("comment_text_search_function", names, comment=names.comment("the rows nearest to a text"))
    return Function(create, comment, body, names.view, names.text_search_types)


def _like(names: Names) -> Function:
    k = sql.SQL(f"${len(names.target.source.key) + 1}")
    body = as_text(statement(names.layout.like_body, names, k=k, check_k=statement("check_k", names, k=k)))
    create = statement("create_like_function", names, body=sql.Literal(body))
    comment = statement("comment_like_function", names, comment=names.comment("the rows nearest to a row"))
    return Function(create, comment, body, names.like_function, names.like_types)


def _duplicates(names: Names) -> Function:
    body = as_text(statement(names.layout.duplicates_body, names))
    create = statement("create_duplicates_function", names, body=sql.Literal(body))
    comment = statement("comment_duplicates_function", names, comment=names.comment("pairs of rows that are near"))
    return Function(create, comment, body, names.duplicates_function, names.duplicates_types)
