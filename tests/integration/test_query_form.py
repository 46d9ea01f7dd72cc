"""`sql query`: what it prints is run, in psql, with psycopg, SQLAlchemy and Django."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, both_versions, eventually

NAMES = {
    "articles": [],
    "in_column": ["--store", "column"],
    "chunked": ["--chunk-tokens", "64"],
    "compressed": ["--index", "hnsw-binary"],
}


@pytest.fixture(scope="module")
def served(clusters: Callable[[int], Cluster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A table with an embedding in each layout, and a worker. Tests must not change it."""
    with clusters(18).database() as url, FakeSGLang().running() as server, ExitStack() as stack:
        harness = Harness(url, server, Path(tmp_path_factory.mktemp("served")), stack)
        harness.articles(*(f"text {n} 100% :of" for n in range(1, 31)))
        harness.execute("UPDATE articles SET views = id")
        for name, options in NAMES.items():
            harness.ok("attach", "articles", "--text", "body", "--name", name, "--column", f"v_{name}", *options)
        harness.worker()
        eventually(lambda: all(harness.settled(name) for name in NAMES))
        yield harness


WHERE = ["views > 20", "t.body LIKE '%100\\%%' AND t.body ~ ':of' AND views::text <> ' \"\"\" ' AND views > 20"]


def wanted(harness: Harness, name: str, where: str | None) -> list[int]:
    vector = harness.value("SELECT qwen_embed.embed_query(%s, 'text 7')", name)
    rows = harness.connection.execute(
        f"SELECT t.id FROM articles t JOIN qwen_embed.{name} e USING (id) WHERE ({where or 'true'})"
        f" ORDER BY e.v_{name} <=> '{vector}' LIMIT 10".encode()
    ).fetchall()
    return [key for (key,) in rows]


def printed(harness: Harness, name: str, where: str | None, driver: str) -> str:
    return harness.ok("sql", "query", name, *(["--where", where] if where else []), "--for", driver)


@pytest.mark.parametrize("name", NAMES)
def test_select_for_psql_runs_in_psql(served: Harness, name: str) -> None:
    psql = Path(served.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / "psql"
    for where in (None, *WHERE):
        text = printed(served, name, where, "psql")
        done = subprocess.run(
            [psql, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "query=text 7", served.url],
            input=text, capture_output=True, check=False, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [int(line.split("|")[0]) for line in done.stdout.splitlines()] == wanted(served, name, where)


@pytest.mark.parametrize("driver", ["psycopg", "sqlalchemy", "django"])
@pytest.mark.parametrize("name", NAMES)
def test_lines_of_python_run_as_they_are_printed(served: Harness, name: str, driver: str) -> None:
    for where in (None, *WHERE):
        variables: dict[str, Any] = {"database_url": served.url, "text": "text 7"}
        if driver == "sqlalchemy":
            variables["engine"] = served.engine()
        if driver == "django":
            configure_django(served)
        exec(printed(served, name, where, driver), variables)  # noqa: S102  # as an application would
        rows = variables["rows"]
        assert [row[0] for row in rows] == wanted(served, name, where)
        assert rows[0][1].startswith("text ")
        distances = [row[-1] for row in rows]
        assert distances == sorted(distances)


def test_an_index_that_is_compressed_is_searched_by_the_function_of_the_embedding(served: Harness) -> None:
    for name, by_function in (("compressed", True), ("chunked", True), ("articles", False)):
        select = printed(served, name, "views > 20", "psql")
        assert (f'"qwen_embed"."{name}"(' in select) == by_function
        assert ("hnsw.iterative_scan" in select) != by_function


def configure_django(harness: Harness) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings

    parameters = psycopg.conninfo.conninfo_to_dict(harness.url)
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parameters["dbname"],
                "USER": parameters["user"], "HOST": parameters["host"]}  # fmt: skip
    if not settings.configured:
        settings.configure(DATABASES={"default": database})
        django.setup()


@both_versions
@pytest.mark.long
def test_select_is_planned_with_the_index(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, views int)")
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n, n %% 10 FROM generate_series(1, %s) n", 3000)
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("VACUUM ANALYZE")
    for where in (None, "views <> 3"):
        (*_, select) = printed(harness, "articles", where, "psql").replace(":'query'", "'x'").strip(";\n").split(";\n")
        plan = "\n".join(line for (line,) in harness.rows(f"EXPLAIN {select}"))
        assert "Index Scan using store_1_hnsw" in plan
        assert "Sort" not in plan
        assert "warning" not in harness.ok("doctor", "--query", select) or where


@pytest.mark.parametrize(
    ("where", "words"),
    [(" ", "the condition is empty"), ("likes > 10", 'column "likes" does not exist'), ("views >", "syntax error"),
     ("true); DELETE FROM articles; --", "PostgreSQL does not plan the query"), ("true) OR (true", "closes a bracket"),
     ("sum(views) > 1", "aggregate functions")],
)  # fmt: skip
def test_condition_that_postgresql_does_not_take_is_a_sentence(served: Harness, where: str, words: str) -> None:
    assert words in served.refused("sql", "query", "articles", "--where", where)
    assert served.value("SELECT count(*) FROM articles") == 30


def test_condition_sees_the_columns_of_the_table_alone_and_may_end_in_a_comment(served: Harness) -> None:
    for name in NAMES:
        for where in ("id > 3 -- of the table, and not of the view", "t.id > 3"):
            variables: dict[str, Any] = {"database_url": served.url, "text": "text 7"}
            exec(printed(served, name, where, "psycopg"), variables)  # noqa: S102
            assert [row[0] for row in variables["rows"]] == wanted(served, name, "t.id > 3")


def test_query_of_a_composite_key_keeps_the_condition_in_front(harness: Harness) -> None:
    harness.execute('CREATE TABLE "Texts" (lang text, "N o" int, body text, PRIMARY KEY (lang, "N o"))')
    harness.execute(
        """INSERT INTO "Texts" SELECT l, n, l || n FROM unnest('{a,b}'::text[]) l, generate_series(1, 9) n"""
    )
    harness.ok("attach", '"Texts"', "--text", "body", "--name", "texts", "--chunk-tokens", "64")
    harness.worker()
    eventually(lambda: harness.settled("texts"))
    variables = {"database_url": harness.url, "text": "a3"}
    exec(printed(harness, "texts", """lang = 'b' AND "N o" < 4""", "psycopg"), variables)  # noqa: S102
    assert sorted(row[:2] for row in variables["rows"]) == [("b", 1), ("b", 2), ("b", 3)]
