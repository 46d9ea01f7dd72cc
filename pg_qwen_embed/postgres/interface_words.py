"""The part of the public interface that searches by words: for an embedding without words it is nothing.

Applications call `<name>_words` and `<name>_hybrid`. These read words through a function of SQL, whose body was parsed when it
was created: a caller needs no right to the internal schema."""

from collections.abc import Iterator

from psycopg import sql

from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.function import Function
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


def create(names: Names) -> Iterator[sql.Composed]:
    """Creates what the functions read: a view, and the function that ranks its rows."""
    if not names.has_words:
        return
    yield statement("create_words_view", names)
    comment = names.comment("the words of all rows, for roles that may read all of them")
    yield statement("comment_words_view", names, comment=comment)
    yield statement("grant_words_view", names)
    yield statement("create_ranked_function", names)
    comment = names.comment("rows by their words, for the functions that search them")
    yield statement("comment_ranked_function", names, comment=comment)


def drop(names: Names) -> Iterator[sql.Composed]:
    """Drops both."""
    if names.has_words:
        yield statement("drop_ranked_function", names)
        yield statement("drop_words_view", names)


def functions(names: Names) -> list[Function]:
    """The functions that applications call."""
    return [_words(names), _hybrid(names), _text_hybrid(names)] if names.has_words else []


def _words(names: Names) -> Function:
    body = as_text(statement("words_body", names))
    create = statement("create_words_function", names, body=sql.Literal(body))
    comment = statement(
        "comment_words_function", names, comment=names.comment("the rows with the words of a query, best first")
    )
    return Function(create, comment, body, names.words_function, names.words_types)


def _hybrid(names: Names) -> Function:
    body = as_text(statement("hybrid_body", names, **_checks(names, first=3)))
    create = statement("create_hybrid_function", names, body=sql.Literal(body))
    purpose = "the rows that vectors and words find together, best first"
    comment = statement("comment_hybrid_function", names, comment=names.comment(purpose))
    return Function(create, comment, body, names.hybrid_function, names.hybrid_types)


def _text_hybrid(names: Names) -> Function:
    body = as_text(statement("text_hybrid_body", names, **_checks(names, first=2)))
    create = statement("create_text_hybrid_function", names, body=sql.Literal(body))
    purpose = "the rows that vectors and words find together, for a text"
    comment = statement("comment_text_hybrid_function", names, comment=names.comment(purpose))
    return Function(create, comment, body, names.hybrid_function, names.text_hybrid_types)


def _checks(names: Names, *, first: int) -> dict[str, sql.Composable]:
    """The checks of the parameters from k on. first: the number of k."""
    k, candidates, rrf_k, vector_weight, text_weight = (sql.SQL(f"${n}") for n in range(first, first + 5))
    fusion = {
        "candidates_given": candidates, "rrf_k_given": rrf_k,
        "weights_given": sql.SQL("{}, {}").format(vector_weight, text_weight),
    }  # fmt: skip
    return {"check_k": statement("check_k", names, k=k), "check_fusion": statement("check_fusion", names, **fusion)}
