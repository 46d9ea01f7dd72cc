"""`doctor --query`: whether a query uses the index of an embedding, and if not, why. The query is planned, not run."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from pg_qwen_embed.admin.doctor.findings import Finding, State
from pg_qwen_embed.domain import query_plan
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import IndexKind
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.query_plan import Node, Read
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import Connection, connect, first_line, own_search_path
from pg_qwen_embed.postgres.index_names import index_text
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA, PUBLIC_SCHEMA
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

AREA = "query"
TIMEOUT = "10s"
_COMMENT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*", re.DOTALL)
_FIRST_WORD = re.compile(r"[A-Za-z]+")
_READS = {"select", "with", "table", "values"}


def diagnose_query(url: str, query: str) -> list[Finding]:
    """Findings on a query. Raises UsageError if it is no SELECT, or PostgreSQL cannot plan it."""
    _require_select(query)
    with connect(url, "pg_qwen_embed doctor") as connection:
        catalog.require_initialised(connection)
        embeddings = [one.embedding for one in catalog.registered(connection) if one.problem is None]
        plan = _plan(connection, query, forced=False)
        if query_plan.writes(plan):
            raise UsageError("the query changes rows; give a SELECT")
        found = [*_of_functions(plan, embeddings)]
        for embedding in embeddings:
            found += _of_embedding(connection, embedding, plan, query)
    if not found:
        found.append(Finding(AREA, State.WARNING, "it reads no vectors of an embedding",
                             "join the view qwen_embed.NAME, or call the function of that name"))  # fmt: skip
    return found


def require_planned(connection: Connection, query: str) -> None:
    """Raises UsageError for a query that PostgreSQL does not plan."""
    _require_select(query)
    _plan(connection, query, forced=False)


def _require_select(query: str) -> None:
    begin = _COMMENT.match(query + "\n")
    word = _FIRST_WORD.match(query, min(begin.end(), len(query)) if begin else 0)
    if not word:
        raise UsageError("the query is empty; write it like --query 'SELECT ... ORDER BY ... LIMIT 10'")
    if word[0].lower() not in _READS:
        raise UsageError(f"only a SELECT can be looked at, and this query begins with {word[0][:30].upper()}")


def _plan(connection: Connection, query: str, *, forced: bool) -> Node:
    """The plan of a query as the application would get it. forced: where no table may be read as a whole, nor sorted."""
    generic = sql.SQL(", GENERIC_PLAN" if re.search(r"\$\d", query) else "")
    command = statement("explain_query", generic=generic, query=sql.SQL(query.replace("%", "%%")))
    text = command.as_string(connection).replace("%%", "%").rstrip().rstrip(";")
    try:
        with _read_only(connection):
            if forced:
                connection.execute(statement("force_index"))
            _require_one(connection, text)
            (row,) = connection.execute(text.encode()).fetchall()
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise UsageError(f"PostgreSQL does not plan the query: {first_line(error)}") from None
    plan: Node = (json.loads(row[0]) if isinstance(row[0], str) else row[0])[0]["Plan"]
    return plan


def _require_one(connection: Connection, text: str) -> None:
    """Have the server parse it by the protocol that takes one statement only."""
    result = connection.pgconn.prepare(b"", text.encode())
    if result.status != ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(result, encoding="utf-8")


@contextmanager
def _read_only(connection: Connection) -> Iterator[None]:
    with connection.transaction(force_rollback=True):
        connection.execute(statement("limit_plan"), {"timeout": TIMEOUT})
        with own_search_path(connection):
            yield


def _of_functions(plan: Node, embeddings: list[Embedding]) -> Iterator[Finding]:
    names = {(PUBLIC_SCHEMA, name_of) for one in embeddings for name_of in (one.name,)}
    for schema, name in query_plan.functions_of(plan):
        if (schema, name) in names:
            yield Finding(AREA, State.OK, f"{name}: the function of that name uses the index by itself")


def _of_embedding(connection: Connection, embedding: Embedding, plan: Node, query: str) -> Iterator[Finding]:
    names, name = names_of(embedding), embedding.name
    index, source = names.index, embedding.source.table
    schema, relation = (
        (source.schema, source.name) if names.layout.in_source else (INTERNAL_SCHEMA, f"store_{embedding.live.id}")
    )
    read = Read(schema, relation, index.name, embedding.column, embedding.live.spec.distance)
    scan = query_plan.scan_of(plan, read)
    store = replace(read, schema=INTERNAL_SCHEMA, relation=f"store_{embedding.live.id}")
    if scan is None or not (query_plan.scan_of(plan, store) or query_plan.orders_by_distance(scan)):
        return  # at most other columns of the source
    kind = embedding.live.spec.index
    if scan.by_index:
        yield Finding(AREA, State.OK, f"{name}: it uses the index {index.name}")
        for text in _warnings(connection, embedding, scan):
            what, _, advice = text.partition("; ")
            yield Finding(AREA, State.WARNING, f"{name}: {what}", advice)
        return
    if kind.compressed:
        what = f"ORDER BY the distance cannot use an index of kind {kind.kind}, so every vector is compared"
        yield Finding(AREA, State.WARNING, f"{name}: it does not use the index: {what}",
                      f"select from the function {names.view.as_string(None)} instead")  # fmt: skip
        return
    reasons = query_plan.reasons(scan, read)
    for text in reasons:
        what, _, advice = text.partition("; ")
        yield Finding(AREA, State.WARNING, f"{name}: it does not use the index: {what}", advice)
    (state,) = connection.execute(statement("index_state"), {"index": index_text(names)}).fetchone() or ("none",)
    if state != IndexState.VALID:
        what = {"none": "there is none yet", "invalid": "it is invalid", "building": "it is being built"}.get(
            state, state
        )
        yield Finding(AREA, State.WARNING, f"{name}: it does not use the index: {what}",
                      f"see: {command('status {}', name)}")  # fmt: skip
    elif not reasons:
        yield _chosen(name, query_plan.scan_of(_plan(connection, query, forced=True), read))


def _warnings(connection: Connection, embedding: Embedding, scan: query_plan.Scan) -> Iterator[str]:
    """What the index may miss with the settings of this role."""
    if embedding.live.spec.index.kind is not IndexKind.IVFFLAT:
        iterative, ef_search = connection.execute(statement("search_settings")).fetchone() or ("off", 40)
        yield from query_plan.warnings(scan, iterative=iterative != "off", ef_search=ef_search)
        return
    row = connection.execute(statement("search_settings_of_lists"), {"name": embedding.name}).fetchone()
    iterative, probes, measured = row or ("off", 1, 1)
    function = names_of(embedding).view.as_string(None)
    yield from query_plan.warnings_of_lists(
        scan, iterative=iterative != "off", probes=probes, measured=measured, function=function
    )


def _chosen(name: str, forced: query_plan.Scan | None) -> Finding:
    """Why PostgreSQL does not take an index that serves the query, as far as can be seen."""
    if forced is not None and forced.by_index:
        return Finding(AREA, State.OK, f"{name}: PostgreSQL compares all vectors, or those that the filter leaves: it expects "
                       "that to be cheaper than the index, and the result is exact")  # fmt: skip
    return Finding(AREA, State.WARNING, f"{name}: it does not use the index, and its plan does not tell why",
                   "compare it with what pg-qwen-embed sql query prints")  # fmt: skip
