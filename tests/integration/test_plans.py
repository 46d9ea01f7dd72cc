"""The hot statements reach rows by key, whatever the table's size and statistics: no sequential scan."""

import re

import pytest
from harness import Harness, both_versions
from psycopg import sql

from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

LAYOUTS = {"table": [], "column": ["--store", "column"], "chunked": ["--chunk-tokens", "64"]}
KEYS = {
    "bigint": ("id bigint PRIMARY KEY", "n"),
    "composite": ("a int, b uuid, PRIMARY KEY (a, b)", "n, md5(n::text)::uuid"),
}


def plan_of(harness: Harness, query: sql.Composed) -> str:
    """The plan of the worker's prepared statement: a generic one, under the worker's settings."""
    text = query.as_string(harness.connection).replace("%%", "%")
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    for number, name in enumerate(names, 1):
        text = text.replace(f"%({name})s", f"${number}")
    harness.connection.execute(f"PREPARE hot AS {text}".encode())
    lines = harness.rows(f"EXPLAIN EXECUTE hot ({', '.join(['NULL'] * len(names))})")
    harness.execute("DEALLOCATE hot")
    return "\n".join(line for (line,) in lines)


@both_versions
@pytest.mark.parametrize(("rows", "analysed"), [(5000, True), (5000, False), (3, True)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.long
def test_hot_statements_scan_no_table_from_end_to_end(
    harness: Harness, key: tuple[str, str], layout: str, rows: int, analysed: bool
) -> None:
    columns, values = key
    harness.execute(f"CREATE TABLE articles (body text, views int, {columns})")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    embedding = harness.embedding()
    harness.execute(f"INSERT INTO articles SELECT 'text ' || n, 0, {values} FROM generate_series(1, {rows}) n")
    keys = ", ".join(f"k{n}" for n in range(1, len(embedding.source.key) + 1))
    keys, values = (f"{keys}, chunk", f"{values}, 1") if layout == "chunked" else (keys, values)
    harness.execute(
        f"INSERT INTO {harness.internal('store')} ({keys}, version) SELECT {values}, 1 FROM generate_series(1, {rows}) n"
    )
    if analysed:
        harness.execute(f"ANALYZE articles, {harness.internal('store')}, {harness.internal('outbox')}")
    harness.connection.execute(statement("configure_worker_session"))
    names = names_of(embedding)
    statements = {
        "read_outbox": statement("read_outbox", names),
        "first page": statement("read_backfill", names, beyond=TRUE),
        "next page": statement("read_backfill", names, beyond=statement("beyond", names)),
        **{name: statement(name, names) for name in (f"write_{layout}", f"clear_{layout}", "record_failures")},
    }
    for name, query in statements.items():
        plan = plan_of(harness, query)
        tables = rf"articles|{'|'.join(f'{kind}_{embedding.live.id}' for kind in ('store', 'outbox', 'failure'))}"
        assert not re.search(rf"Seq Scan on ({tables})", plan), f"{name}:\n{plan}"
        assert not re.search(r"(Hash|Merge) \w*Join", plan), f"{name}:\n{plan}"


def test_the_plans_of_pages_read_on_from_where_the_last_ended(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (a int, b text, body text, PRIMARY KEY (a, b))")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("INSERT INTO articles SELECT n, 'b', 'x' FROM generate_series(1, 5000) n")
    harness.connection.execute(statement("configure_worker_session"))
    names = names_of(harness.embedding())
    plan = plan_of(harness, statement("read_backfill", names, beyond=statement("beyond", names)))
    assert re.search(r"Index Cond: \(ROW\(.*a, .*b\) > ROW", plan), plan
    assert "Sort" not in plan, plan


@both_versions
@pytest.mark.parametrize("layout", ["table", "chunked"])
def test_entries_are_acknowledged_by_their_index_and_a_hash_of_their_places(harness: Harness, layout: str) -> None:
    """Without the hash, the time grows with the square of the entries."""
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.connection.execute(statement("configure_worker_session"))
    for name in (f"write_{layout}", f"clear_{layout}", "record_failures"):
        plan = plan_of(harness, statement(name, names_of(harness.embedding())))
        assert re.search(r"Index Scan (using|on) outbox_1_seq", plan), f"{name}:\n{plan}"
        assert re.search(r"Filter: .*hashed SubPlan", plan), f"{name}:\n{plan}"
