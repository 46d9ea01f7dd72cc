"""`sql query`: the SELECT for an application that searches an embedding by text, as each driver takes it.

It is planned before it is printed, so a condition that PostgreSQL does not take is a sentence."""

import re
from enum import StrEnum

from psycopg import sql

from pg_qwen_embed.admin.doctor.query import require_planned
from pg_qwen_embed.domain.condition import condition as checked
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import IndexKind
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.call_names import free
from pg_qwen_embed.postgres.connection import Connection, as_text
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.names import Names, names_of
from pg_qwen_embed.postgres.sql import statement


class Driver(StrEnum):
    PSQL = "psql"
    PSYCOPG = "psycopg"
    SQLALCHEMY = "sqlalchemy"
    DJANGO = "django"


_TEXTS = {
    Driver.PSQL: ":'query'",
    Driver.SQLALCHEMY: ":query",
}  # how the text of a query is written; the others: %(query)s

_PSYCOPG = '''\
import psycopg

query = """
{query}"""
with psycopg.connect(database_url) as connection:
{setting}    rows = connection.execute(query, {{"query": text}}).fetchall()
'''
_SQLALCHEMY = '''\
import sqlalchemy as sa

query = sa.text("""
{query}""")
with engine.begin() as connection:
{setting}    rows = connection.execute(query, {{"query": text}}).all()
'''
_DJANGO = '''\
from django.db import connection, transaction

query = """
{query}"""
with transaction.atomic(), connection.cursor() as cursor:
{setting}    cursor.execute(query, {{"query": text}})
    rows = cursor.fetchall()
'''


def query(connection: Connection, name: str, condition: str | None, driver: Driver) -> str:
    """The statement, or the lines of Python around it. Raises UsageError."""
    embedding = catalog.embedding(connection, name)
    if condition is not None and not condition.strip():
        raise UsageError("the condition is empty; write it like --where 'likes > 10'")
    require_planned(connection, _select(embedding, condition, "'text'"))
    if condition is not None:
        checked(condition, None)  # PostgreSQL takes one that closes the brackets around it
    select = _select(embedding, condition, _TEXTS.get(driver, "%(query)s"))
    filtered = condition is not None and not _needs_function(names_of(embedding))
    if driver is Driver.PSQL:
        setting = as_text(statement("example_setting")) + ";\n" if filtered else ""
        return f"{setting}{select};\n"
    template = {Driver.PSYCOPG: _PSYCOPG, Driver.SQLALCHEMY: _SQLALCHEMY, Driver.DJANGO: _DJANGO}[driver]
    return template.format(query=_in_python(_escaped(select, driver)), setting=_setting(driver) if filtered else "")


def _setting(driver: Driver) -> str:
    command = as_text(statement("example_setting_local"))
    if driver is Driver.SQLALCHEMY:
        return f'    connection.execute(sa.text("{command}"))\n'
    return f'    {"cursor" if driver is Driver.DJANGO else "connection"}.execute("{command}")\n'


def _select(embedding: Embedding, condition: str | None, text: str) -> str:
    names = names_of(embedding)
    form = _of_function if _needs_function(names) else _of_rows
    return as_text(form(names, condition, sql.SQL(text.replace("%", "%%"))))


def _needs_function(names: Names) -> bool:
    """Chunks of one row are joined by it, candidates of a compressed index ranked, and lists of ivfflat read."""
    return names.layout.has_chunks or names.target.spec.index.kind not in (IndexKind.HNSW, IndexKind.NONE)


def _of_rows(names: Names, condition: str | None, text: sql.Composable) -> sql.Composed:
    rows: sql.Composable = names.source
    if condition is not None:
        rows = _bare(statement("example_where", names, condition=_written(condition)))
    embedding = names.target.embedding
    operator = names.distance if embedding.vector_schema != "public" else sql.SQL(embedding.live.spec.distance.operator)
    return statement(
        "example_of_rows", names, columns=joined(_shown(names)), text=text, rows=rows, operator=operator, measure=_measure(names),
        same=names.same_key("view_key:e=source_key:t"),
    )  # fmt: skip


def _of_function(names: Names, condition: str | None, text: sql.Composable) -> sql.Composed:
    keys = [] if condition is None else names.target.source.key
    among = [
        _bare(statement("example_among", names, one=sql.Identifier("t", key.name), condition=_written(condition or "")))
        for key in keys
    ]
    view = names.target.embedding.view
    chunk = [sql.Identifier("h", view.name(one)) for one in ("chunk", "chunk_text")] if names.layout.has_chunks else []
    return statement(
        "example_of_function", names, columns=joined([*_shown(names), *chunk]), text=text,
        among=sql.SQL("").join(sql.SQL(", {}").format(one) for one in among),
        distance_column=sql.Identifier(names.distance_column), measure=_measure(names),
        same=names.same_key("view_key:h=source_key:t"),
    )  # fmt: skip


def _written(condition: str) -> sql.SQL:
    """A comment at its end does not reach what follows."""
    return sql.SQL(condition.replace("%", "%%") + ("\n" if "--" in condition else ""))


def _bare(part: sql.Composable) -> sql.SQL:
    """A part of a statement, without its name."""
    return sql.SQL(as_text(part).replace("%", "%%"))


def _shown(names: Names) -> list[sql.Identifier]:
    """The key and what is embedded."""
    return [sql.Identifier("t", name) for name in _shown_names(names)]


def _shown_names(names: Names) -> list[str]:
    return list(dict.fromkeys(column.name for column in (*names.target.source.key, *names.embedded)))


def _measure(names: Names) -> sql.SQL:
    """What the statement calls the distance; a column that it shows may have that name."""
    return sql.SQL(free("distance", set(_shown_names(names))))


def _escaped(select: str, driver: Driver) -> str:
    """With the characters doubled or escaped that the driver would read as a parameter."""
    if driver is Driver.SQLALCHEMY:
        return re.sub(r"(?<!:):(?!:)(?!query\b)", r"\:", select)
    return select.replace("%", "%%").replace("%%(query)s", "%(query)s")


def _in_python(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
