"""A queue of notifications that fills up fails no statement of the application, and polling alone follows every change."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import SETTINGS, Harness, eventually
from test_gate import gate_closed

from pg_qwen_embed.postgres import embedded, migrate

PAGES = 64  # the least that PostgreSQL allows; 8 GB by default


@pytest.fixture
def small_queue(tmp_path: Path) -> Iterator[Harness]:
    """A PostgreSQL whose queue of notifications is soon full."""
    settings = {**SETTINGS, "max_notify_queue_pages": str(PAGES)}
    with (
        embedded.postgres(version=18, settings=settings) as url,
        FakeSGLang().running() as server,
        ExitStack() as stack,
    ):
        migrate.init(url)
        yield Harness(url, server, tmp_path, stack)


def usage(harness: Harness) -> float:
    return float(harness.value("SELECT pg_notification_queue_usage()"))


def fill(harness: Harness) -> psycopg.Connection[object]:
    """Fill the queue. Returns the session that keeps it full: it listens, and is in a transaction."""
    holder = harness.connect(autocommit=False, application_name="holder")
    holder.execute("LISTEN something")
    holder.commit()
    holder.execute("SELECT 1")
    for size, most in ((7900, 100), (10, 2000)):  # to the last byte
        with suppress(psycopg.errors.ProgramLimitExceeded):
            for n in range(most):
                harness.execute("SELECT pg_notify('something', %s)", f"{n}{'x' * size}")
    return holder


@pytest.mark.long
def test_a_full_queue_of_notifications_fails_no_statement_and_no_change_is_late_for_long(small_queue: Harness) -> None:
    harness = small_queue
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--poll", "2")
    eventually(harness.settled)
    eventually(lambda: gate_closed(harness))
    holder = fill(harness)
    assert usage(harness) > 0.9
    harness.execute("UPDATE articles SET body = 'two'")  # the gate is held, and no notification can be sent
    eventually(
        lambda: harness.rows(
            "SELECT 1 FROM qwen_embed.articles JOIN articles USING (id) WHERE NOT stale AND body = 'two'"
        )
    )
    eventually(lambda: not gate_closed(harness))
    harness.execute("UPDATE articles SET body = 'three'")
    eventually(
        lambda: harness.rows(
            "SELECT 1 FROM qwen_embed.articles JOIN articles USING (id) WHERE NOT stale AND body = 'three'"
        )
    )
    said = harness.cli("doctor").output
    assert "the queue of notifications is " in said
    assert f"probably pid {holder.info.backend_pid} (holder)" in said
    harness.ok("failures", "retry", "articles")
    harness.ok("detach", "articles", "--yes")
    harness.ok("attach", "articles", "--text", "body")
    eventually(harness.settled)
    holder.rollback()
    holder.execute("SELECT 1")
    holder.commit()
    eventually(lambda: usage(harness) < 0.5)
    eventually(lambda: gate_closed(harness))
    assert "database_unavailable" not in worker.said


def test_without_notifications_a_transaction_can_be_prepared_and_is_followed(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--no-notify")
    harness.worker("--poll", "0")
    eventually(harness.settled)
    name = harness.connection.info.dbname
    for body in ("two", "three"):
        with harness.connect() as connection:
            connection.execute("BEGIN")
            connection.execute("UPDATE articles SET body = %s", [body])
            connection.execute(f"PREPARE TRANSACTION '{name}'")
        harness.execute(f"COMMIT PREPARED '{name}'")
        query = "SELECT 1 FROM qwen_embed.articles JOIN articles USING (id) WHERE NOT stale AND body = %s"
        eventually(lambda body=body, query=query: harness.rows(query, body))
    assert not gate_closed(harness)
    assert "pg_notify" not in harness.value("SELECT string_agg(prosrc, '') FROM pg_proc WHERE proname ~ '^follow_'")
