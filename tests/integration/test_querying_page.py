"""The SQL of docs/querying.md and docs/psql.md: each form is planned as the page says, and the session is run."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, eventually

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS = 3000
VECTOR = json.dumps([0.25] * 16)
FORMS = re.findall(r"```sql\n(.*?)```", (DOCS / "querying.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module", params=[16, 18])
def large(
    request: pytest.FixtureRequest, clusters: Callable[[int], Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    """The tables of the page, with vectors and indexes. Tests must not change them."""
    with clusters(request.param).database() as url, FakeSGLang().running() as server, ExitStack() as stack:
        harness = Harness(url, server, Path(tmp_path_factory.mktemp("large")), stack)
        for name, options in {"articles": ["--words", "english"], "manuals": ["--chunk-tokens", "64"]}.items():
            harness.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, title text, body text, likes int)")
            harness.execute(
                f"INSERT INTO {name} SELECT n, 'title', 'text ' || n, n % 110 FROM generate_series(1, {ROWS}) n"
            )
            harness.ok("attach", name, "--text", "body", *options)
        harness.once()
        harness.execute("VACUUM ANALYZE")
        harness.worker()
        eventually(harness.settled)
        yield harness


def read_by_index(harness: Harness) -> int:
    harness.execute("SELECT pg_stat_force_next_flush()")
    count: int = harness.value("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE indexrelname ~ '_hnsw$'")
    return count


@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
@pytest.mark.long
def test_sql_of_the_page_is_planned_as_it_says(large: Harness, form: str) -> None:
    """By the index, in the plan or inside of a function; a filter that comes first is not."""
    name = f"form_{FORMS.index(form)}"
    large.execute(f"PREPARE {name} AS {form.rstrip().rstrip(';')}")
    values = f"('{VECTOR}')" if "$1" in form else ""
    plan = "\n".join(line for (line,) in large.rows(f"EXPLAIN EXECUTE {name} {values}"))
    before = read_by_index(large)
    rows = eventually_rows(large, f"EXECUTE {name} {values}")
    by_function = re.search(r"Function Scan on \w*(articles|manuals)\w*", plan)
    assert rows or "duplicates" in form
    if "ARRAY(SELECT" in form:
        assert by_function
        assert read_by_index(large) == before
    else:
        assert by_function or re.search(r"Index Scan using store_\d+_hnsw", plan), plan
        assert read_by_index(large) > before


def eventually_rows(harness: Harness, query: str) -> list[tuple[object, ...]]:
    """The rows, once a worker is there that embeds queries."""

    def rows() -> tuple[list[tuple[object, ...]]] | None:
        try:
            return (harness.rows(query),)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return None

    (found,) = eventually(rows) or ([],)
    return found


@pytest.mark.long
def test_session_in_psql_is_as_the_page_shows_it(bare: Harness) -> None:
    """With WRITE_PAGES=1 in the environment it writes the page."""
    serving = bare.process("serve", "--port", "0", fork=True)
    bare.environment["PG_QWEN_EMBED_SERVER_URL"] = eventually(lambda: re.search(r"on (http://\S+/v1)", serving.said))[1]
    bare.ok("init")
    page = DOCS / "psql.md"
    text = page.read_text(encoding="utf-8")
    (table,) = re.findall(r"```sql\n(CREATE TABLE .*?)```", text, re.DOTALL)
    bare.execute(table)
    bare.ok("attach", "articles", "--text", "title", "--text", "body")
    bare.worker()
    eventually(bare.settled)
    eventually_rows(bare, "SELECT qwen_embed.embed_query('articles', 'ready')::text")
    psql = Path(bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / "psql"

    def shown(found: re.Match[str]) -> str:
        done = subprocess.run([psql, "-X", bare.url], input=found[1], capture_output=True, check=False, text=True)
        output = re.sub(r"^(ERROR:.*)\n(CONTEXT:.*\n)?", r"\1\n", done.stdout + done.stderr, flags=re.MULTILINE)
        lines = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
        return f"```sql\n{found[1]}```\n\n```text\n{lines}\n```"

    now = re.sub(r"```sql\n((?:(?!```).)*)```\n\n```text\n.*?```", shown, text, flags=re.DOTALL)
    if os.environ.get("WRITE_PAGES"):
        page.write_text(now, encoding="utf-8")
    assert now == text
