"""A worker that lacks a right says which, and a database that is restored beneath a worker is followed again."""

import re
import subprocess
from pathlib import Path

import pytest
from harness import Harness, eventually
from psycopg.conninfo import make_conninfo


def as_role(harness: Harness, role: str) -> None:
    """Let commands and workers of the test log in as this role, which has every right to our schemas and none to tables."""
    harness.execute(f"DROP ROLE IF EXISTS {role}")
    harness.execute(f"CREATE ROLE {role} LOGIN")
    harness.stack.callback(harness.execute, f"DROP OWNED BY {role}; DROP ROLE {role}")
    harness.execute(f"GRANT USAGE ON SCHEMA _qwen_embed, qwen_embed TO {role}")
    harness.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA _qwen_embed TO {role}")
    harness.environment["PG_QWEN_EMBED_DATABASE_URL"] = make_conninfo(harness.url, user=role)


@pytest.mark.long
def test_a_worker_that_lacks_a_right_says_which_once_and_the_others_go_on(harness: Harness) -> None:
    for table in ("allowed", "denied"):
        harness.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, body text)")
        harness.ok("attach", table, "--text", "body", "--no-backfill")
    as_role(harness, "worker_without_right")
    harness.execute("GRANT SELECT ON allowed TO worker_without_right")
    for table in ("allowed", "denied"):
        harness.execute(f"INSERT INTO {table} VALUES (1, 'text')")
    worker = harness.worker("--poll", "0.2")
    eventually(lambda: harness.rows("SELECT id FROM qwen_embed.allowed"))
    eventually(lambda: worker.said.count("read_failed embedding=denied") == 3)
    assert worker.said.count("rights_missing") == 1
    assert "GRANT SELECT ON public.denied TO worker_without_right" in worker.said
    assert "database_unavailable" not in worker.said
    harness.execute("GRANT SELECT ON denied TO worker_without_right")
    eventually(lambda: harness.rows("SELECT id FROM qwen_embed.denied"))


def test_a_worker_that_may_not_write_says_which_right_it_lacks_and_loses_nothing(harness: Harness) -> None:
    harness.articles("text")
    harness.ok("attach", "articles", "--text", "body")
    as_role(harness, "worker_without_right")
    harness.execute("GRANT SELECT ON articles TO worker_without_right")
    harness.execute(f"REVOKE INSERT ON {harness.internal('store')} FROM worker_without_right")
    worker = harness.worker("--poll", "0.2")
    eventually(lambda: f"GRANT INSERT ON {harness.internal('store')} TO worker_without_right" in worker.said)
    eventually(lambda: worker.said.count("write_failed") > 3)
    assert worker.said.count("rights_missing") == 1
    assert harness.count("failure") == 0
    harness.execute(f"GRANT INSERT ON {harness.internal('store')} TO worker_without_right")
    eventually(lambda: harness.rows("SELECT id FROM qwen_embed.articles"))


def test_a_worker_that_may_not_read_the_registry_tries_less_and_less_often(harness: Harness) -> None:
    harness.articles("text")
    harness.ok("attach", "articles", "--text", "body")
    as_role(harness, "worker_without_right")
    harness.execute("GRANT SELECT ON articles TO worker_without_right")
    harness.execute("REVOKE SELECT ON _qwen_embed.backfill FROM worker_without_right")
    worker = harness.worker("--poll", "0.2")
    eventually(lambda: worker.said.count("database_unavailable") == 4)
    assert "permission denied for table backfill; make the worker's role a member" in worker.said
    harness.execute("GRANT SELECT ON _qwen_embed.backfill TO worker_without_right")
    eventually(lambda: harness.rows("SELECT id FROM qwen_embed.articles"))


def test_a_database_that_is_restored_beneath_a_worker_is_followed_again(harness: Harness, tmp_path: Path) -> None:
    tools = Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--poll", "0.2")
    eventually(harness.settled)
    subprocess.run([tools / "pg_dump", "-Fc", harness.url, "-f", tmp_path / "dump"], check=True)
    harness.execute("UPDATE articles SET body = 'three' WHERE id = 1")
    eventually(harness.settled)
    halfvec = "SELECT t.oid FROM pg_type t WHERE typname = 'halfvec'"
    before = harness.value(halfvec)
    subprocess.run([tools / "pg_restore", "--clean", "--if-exists", "-d", harness.url, tmp_path / "dump"], check=True)
    assert harness.value(halfvec) != before
    harness.execute("UPDATE articles SET body = 'four' WHERE id = 2")
    eventually(
        lambda: (
            harness.rows("SELECT body FROM qwen_embed.articles JOIN articles USING (id) WHERE NOT stale")
            == [("one",), ("four",)]
        ),
        45,
    )
    assert re.search(r"database_unavailable reason=.*(restored|not set up|does not exist)", worker.said)
    harness.assert_in_step()
