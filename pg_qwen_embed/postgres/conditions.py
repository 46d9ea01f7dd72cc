"""The statement of a search among the rows that meet a condition, and how a condition becomes a part of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.condition import PREFIX, condition
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

Where = str | sql.Composable

CHOSEN = sql.Identifier("pg_qwen_embed: chosen")  # a column added to those of the source
ALL = sql.SQL("true")


@dataclass(frozen=True, slots=True)
class Condition:
    """As an application has written it, and as it stands in a statement of ours, with its values."""

    written: str
    text: str
    values: Mapping[str, Any]


def condition_of(where: Where | None, params: Mapping[str, Any] | None) -> Condition | None:
    """Raises UsageError."""
    if where is None:
        if params is not None:
            raise UsageError("params are the values of a condition, and there is no condition")
        return None
    if params is not None and not isinstance(params, Mapping):
        raise UsageError(f"params are values by their names, and not a value of type {type(params).__name__}")
    if isinstance(where, sql.Composable):
        where = _text(where, has_values=params is not None)
    elif not isinstance(where, str):
        raise UsageError(
            f"a condition is a text or a piece of SQL by psycopg, and not a value of type {type(where).__name__}"
        )
    values = {f"{PREFIX}{name}": value for name, value in (params or {}).items()}
    return Condition(where, condition(where, None if params is None else list(params)), values)


def exact(names: Names, where: str | None, end: sql.Composable | None = None) -> sql.Composed:
    """Compares every vector, or those of the rows that meet a condition. end: what is read of the rows found."""
    return statement(
        "search_exact", names,
        exact_search=_exact(names, _of(where)),
        found_hits=end or statement(names.layout.search_found, names),
    )  # fmt: skip


def decide(names: Names, where: str) -> sql.Composed:
    """Goes before `filtered`."""
    return statement("decide_filtered", names, own_condition=sql.SQL(where))


def filtered(names: Names, where: str, end: sql.Composable | None = None) -> sql.Composed:
    """By the index, or without it. end: as for `exact`."""
    rows = statement("rows_to_filter", names, own_condition=sql.SQL(where), chosen_column=CHOSEN)
    return statement(
        "search_filtered", names,
        candidates_to_filter=statement(names.layout.search_candidates, names, filtered_rows=rows, chosen_column=CHOSEN),
        best_hits=statement(names.layout.search_best, names),
        exact_search=_exact(names, sql.SQL(where)),
        found_hits=end or statement(names.layout.search_found, names),
    )  # fmt: skip


def words(names: Names, where: str) -> sql.Composed:
    """By words alone, among the rows that meet a condition."""
    return statement("search_words_among", names, words_among=_words(names, where))


def fused(names: Names, where: str | None) -> sql.Composed:
    """By words and vectors: an `end` for both searches by vectors, with the same condition."""
    return statement("fused", names, words_among=_words(names, where))


def _words(names: Names, where: str | None) -> sql.Composed:
    return statement("words_among", names, filtered_rows=_rows(names, _of(where)))


def _of(where: str | None) -> sql.SQL:
    return sql.SQL(where) if where else ALL


def _exact(names: Names, where: sql.Composable) -> sql.Composed:
    candidates = statement(
        names.layout.search_candidates, names, filtered_rows=_rows(names, where), chosen_column=CHOSEN
    )
    return statement(names.layout.search_exactly, names, candidates=candidates)


def _rows(names: Names, where: sql.Composable) -> sql.Composed:
    return statement("rows_filtered", names, own_condition=where, chosen_column=CHOSEN)


def _text(where: sql.Composable, *, has_values: bool) -> str:
    """As psycopg writes it. A percent sign in a name or a literal is itself; elsewhere it is as in a text."""
    if isinstance(where, sql.Composed):
        return "".join(_text(piece, has_values=has_values) for piece in where)
    text = where.as_string(None)
    is_fixed = isinstance(where, sql.Identifier | sql.Literal)
    return text.replace("%", "%%") if is_fixed and has_values else text
