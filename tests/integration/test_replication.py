"""Logical replication between two servers: what it brings is followed at the subscriber."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from harness import Cluster, Harness, eventually


class Publisher:
    """A database of PostgreSQL 16 that publishes, and what its subscribers have received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True)
        self.name = f"p_{self.connection.info.dbname}"

    def execute(self, *queries: str) -> None:
        for query in queries:
            self.connection.execute(query)

    @contextmanager
    def subscribed(self, harness: Harness, what: str = "FOR TABLE articles") -> Iterator[None]:
        """Publish, and let the database of the harness subscribe."""
        self.execute(f"CREATE PUBLICATION {self.name} {what}")
        harness.execute(f"CREATE SUBSCRIPTION {self.name} CONNECTION '{self.url}' PUBLICATION {self.name}")
        try:
            yield
        finally:
            harness.execute(f"DROP SUBSCRIPTION {self.name}")

    def received(self, harness: Harness, table: str = "articles") -> None:
        """Wait until the subscriber has what this has."""
        query = f"SELECT * FROM {table} ORDER BY 1"
        here = self.connection.execute(query).fetchall()
        eventually(lambda: harness.rows(query) == here)


@pytest.fixture
def publisher(clusters: Callable[[int], Cluster]) -> Iterator[Publisher]:
    with clusters(16).database("template1") as url:
        found = Publisher(url)
        found.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, views int NOT NULL DEFAULT 0)")
        found.execute("INSERT INTO articles VALUES (1, 'one'), (2, 'two'), (3, 'three')")
        yield found
        found.connection.close()


def by_row(harness: Harness) -> bool:
    """Whether INSERT and DELETE are followed row by row."""
    query = "SELECT bool_and(tgtype & 1 = 1), bool_or(tgtype & 1 = 1) FROM pg_trigger WHERE tgname ~ 'qwen_embed_(insert|delete)'"
    ((every, some),) = harness.rows(query)
    assert every is some
    return bool(every)


@pytest.mark.parametrize(
    "options", [(), ("--store", "column"), ("--chunk-tokens", "64")], ids=["table", "column", "chunked"]
)
def test_what_logical_replication_brings_is_followed(
    publisher: Publisher, harness: Harness, options: tuple[str, ...]
) -> None:
    harness.articles()
    with publisher.subscribed(harness):
        publisher.received(harness)
        harness.ok("attach", "articles", "--text", "body", *options)
        assert by_row(harness)
        harness.once()
        publisher.execute(
            "INSERT INTO articles VALUES (4, 'four')",
            "UPDATE articles SET body = 'changed' WHERE id = 1",
            "UPDATE articles SET id = 30 WHERE id = 3",
            "DELETE FROM articles WHERE id = 2",
        )
        eventually(lambda: harness.rows("SELECT id FROM articles ORDER BY id") == [(1,), (4,), (30,)])
        harness.once()
        harness.assert_in_step()
        publisher.execute("TRUNCATE articles; INSERT INTO articles VALUES (1, 'after it')")
        eventually(lambda: harness.rows("SELECT id, body FROM articles") == [(1, "after it")])
        harness.once()
        harness.assert_in_step()


def test_worker_exchanges_the_triggers_when_a_table_is_subscribed_to(publisher: Publisher, harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert not by_row(harness)
    with publisher.subscribed(harness):
        publisher.received(harness)
        publisher.execute("INSERT INTO articles VALUES (4, 'missed')", "DELETE FROM articles WHERE id = 2")
        publisher.received(harness)
        (status,) = json.loads(harness.ok("status", "--json"))
        assert status["broken_triggers"] == 2
        worker = harness.worker("--poll", "0.2")
        eventually(lambda: by_row(harness))
        eventually(lambda: "verified" in worker.said)
        eventually(lambda: harness.drift()[0] == 0)
        publisher.execute("INSERT INTO articles VALUES (5, 'five')", "DELETE FROM articles WHERE id = 1")
        publisher.received(harness)
        eventually(lambda: harness.drift()[0] == 0)
        assert json.loads(harness.ok("status", "--json"))[0]["broken_triggers"] == 0
    eventually(lambda: not by_row(harness))
    harness.execute("INSERT INTO articles (id, body) VALUES (6, 'six')")
    eventually(harness.settled)
    harness.assert_in_step()
    assert worker.end() == 0
    assert worker.said.count("verified") == 1  # rows were compared when changes may have been missed, and only then


def test_verify_repair_exchanges_the_triggers_where_no_worker_runs(publisher: Publisher, harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    with publisher.subscribed(harness):
        publisher.received(harness)
        publisher.execute("INSERT INTO articles VALUES (4, 'missed')")
        publisher.received(harness)
        assert "out of date" in harness.cli("doctor").stdout
        harness.cli("verify", "articles", "--repair")
        assert by_row(harness)
        harness.once()
        harness.assert_in_step()


# The recipes of docs/operations.md.

RECIPE = re.compile(r"^```(sql|bash)\n(?:--|#) ([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipe(heading: str) -> list[tuple[str, str]]:
    """The blocks under a heading: what the first line says, and the rest."""
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    section = text.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]
    return [(title, body) for _, title, body in RECIPE.findall(section)]


def caught_up(publisher: Publisher, subscription: str) -> None:
    """Wait until a subscription has received everything."""
    connection = publisher.connection
    (sent,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or ("",)
    query = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s"
    eventually(lambda: (connection.execute(query, [sent, subscription]).fetchone() or (False,))[0])


def copied(harness: Harness) -> bool:
    found: bool = harness.value("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
    return found


def publishing(publisher: Publisher, harness: Harness) -> Harness:
    """The publisher as a database with an embedding."""
    found = Harness(publisher.url, harness.server, harness.folder, harness.stack)
    found.ok("init")
    found.ok("attach", "articles", "--text", "body")
    found.once()
    return found


def copy_schema(source: Harness, target: Harness) -> None:
    tools = Path(target.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    dump = subprocess.run([tools / "pg_dump", "--schema-only", source.url], capture_output=True, check=True).stdout
    psql = [tools / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.url]
    subprocess.run(psql, input=dump, capture_output=True, check=True)


def test_publication_of_all_tables_is_found_and_left_by_the_recipe(publisher: Publisher, bare: Harness) -> None:
    steps = recipe("Publish the application's schemas, not all tables")
    assert [title for title, _ in steps] == ["at the publisher"] * 2 + ["at the subscriber", "at the publisher"]
    old = publishing(publisher, bare)
    copy_schema(old, bare)
    publisher.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    bare.execute(
        f"CREATE SUBSCRIPTION shop CONNECTION '{publisher.url}' PUBLICATION everything WITH (slot_name = '{publisher.name}')"
    )
    try:
        eventually(lambda: copied(bare))
        assert "the publication everything has" in old.cli("doctor").stdout
        assert "the subscription shop has" in bare.cli("doctor").stdout
        for where, statements in steps[1:]:
            (publisher if where == "at the publisher" else bare).execute(statements)
            if where == "at the publisher":
                caught_up(publisher, publisher.name)
        for one in (old, bare):
            assert "internal tables" not in one.cli("doctor").stdout
        bare.ok("detach", "articles", "--yes")
        bare.ok("attach", "articles", "--text", "body")
        old.execute("INSERT INTO articles VALUES (4, 'four'); DELETE FROM articles WHERE id = 2")
        for one in (old, bare):
            publisher.received(one)
            one.once()
            one.assert_in_step()
    finally:
        bare.execute("DROP SUBSCRIPTION shop")


@pytest.mark.long
def test_subscription_that_stands_still_on_an_internal_table_goes_on_when_that_is_emptied(
    publisher: Publisher, bare: Harness
) -> None:
    old = publishing(publisher, bare)
    copy_schema(old, bare)
    with publisher.subscribed(bare, "FOR ALL TABLES"):
        eventually(lambda: copied(bare))
        bare.once()
        old.execute("INSERT INTO articles VALUES (4, 'four')")
        publisher.received(bare)
        eventually(lambda: bare.value("SELECT count(*) FROM _qwen_embed.outbox_1"))
        bare.once()  # both have a worker: each writes the vector of row 4
        old.once()
        failed = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = %s"
        eventually(lambda: bare.value(failed, publisher.name))
        old.execute("INSERT INTO articles VALUES (5, 'five')")
        bare.execute("TRUNCATE _qwen_embed.store_1")
        publisher.received(bare)


def test_switch_over_to_another_version_carries_the_vectors_over(publisher: Publisher, bare: Harness) -> None:
    old = publishing(publisher, bare)
    tools = bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    path = os.pathsep.join([tools, str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {k: v for k, v in (os.environ | old.variables).items() if v is not None}
    env |= {"OLD": old.url, "NEW": bare.url, "PATH": path}
    bare.stack.callback(bare.execute, "DROP SUBSCRIPTION IF EXISTS shop")
    (prepare, finish, switch) = recipe("Switch over to another server or version")

    def run(step: tuple[str, str]) -> None:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", step[1]], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (step[0], done.stderr)

    run(prepare)
    eventually(lambda: copied(bare))
    publisher.execute(
        "INSERT INTO articles VALUES (4, 'four')", "UPDATE articles SET body = 'changed' WHERE id = 1",
        "DELETE FROM articles WHERE id = 2",
    )  # fmt: skip
    run(finish)
    caught_up(publisher, "shop")
    publisher.received(bare)
    before = len(bare.server.texts)
    run(switch)
    assert bare.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    bare.execute(
        "INSERT INTO articles VALUES (5, 'five'); UPDATE articles SET body = 'later' WHERE id = 3;"
        "DELETE FROM articles WHERE id = 1"
    )
    bare.once()
    bare.assert_in_step()
    assert sorted(bare.server.texts[before:]) == ["five", "later"]  # nothing else was embedded again


def test_single_table_is_copied_and_its_rows_are_brought_back_by_the_recipes(harness: Harness, bare: Harness) -> None:
    tools = bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    path = os.pathsep.join([tools, os.environ["PATH"]])
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    for _, commands in recipe("Single tables"):
        env = os.environ | {"OLD": harness.url, "NEW": bare.url, "PATH": path}
        subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", commands], env=env, cwd=harness.folder, check=True)
    harness.once()
    harness.assert_in_step()
    bare.ok("init")
    bare.ok("attach", "articles", "--text", "body")
    bare.once()
    bare.assert_in_step()


def test_copy_of_a_template_database_has_its_vectors_and_needs_a_worker_of_its_own(
    postgres: Cluster, harness: Harness
) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    database = harness.connection.info.dbname
    harness.connection.close()
    before = len(harness.server.texts)
    with postgres.database(template=database) as url:
        copy = Harness(url, harness.server, harness.folder, harness.stack)
        copy.execute("INSERT INTO articles VALUES (3, 'three')")
        copy.once()
        copy.assert_in_step()
        assert harness.server.texts[before:] == ["three"]
        copy.connection.close()


def test_worker_that_may_not_exchange_the_triggers_says_so_and_goes_on(publisher: Publisher, harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    with publisher.subscribed(harness), harness.connect(autocommit=False) as other:
        publisher.received(harness)
        other.execute("LOCK TABLE articles IN ACCESS SHARE MODE")  # a report of the application, which takes long
        worker = harness.worker("--poll", "0.2")
        eventually(lambda: "triggers_not_exchanged" in worker.said)
        publisher.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
        eventually(lambda: "changed" in harness.server.texts)
        assert worker.said.count("triggers_not_exchanged") == 1
        other.rollback()
        assert worker.end() == 0
