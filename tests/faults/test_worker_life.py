"""The worker's life: start, stop, death, takeover; and what happens to embeddings meanwhile."""

import json
import os
import re
import signal
import time

import pytest
from fake_sglang import PROBE
from harness import Harness, Process, both_versions, eventually

from pg_qwen_embed.inference import batching
from pg_qwen_embed.worker.options import Limits


def leader(harness: Harness, name: str = "articles") -> str | None:
    (one,) = json.loads(harness.ok("status", name, "--json"))
    found: str | None = one["leader"]
    return found


def backends(harness: Harness) -> int:
    found: int = harness.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^pg_qwen_embed' AND datname = current_database()"
    )
    return found


def die(harness: Harness, worker: Process) -> None:
    """Kill -9, and wait until PostgreSQL has noticed."""
    assert worker.end(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: backends(harness) == 0)


def test_worker_follows_what_is_attached_and_leaves_what_is_detached_while_it_runs(harness: Harness) -> None:
    harness.articles("one", "two")
    worker = harness.worker("--poll", "0")
    eventually(lambda: backends(harness) == 3)
    harness.ok("attach", "articles", "--text", "body", "--name", "first")
    eventually(lambda: harness.settled("first"))
    harness.ok("attach", "articles", "--text", "body", "--name", "second", "--dimensions", "8")
    eventually(lambda: harness.settled("second"))
    harness.ok("detach", "first", "--yes")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    eventually(lambda: harness.settled("second"))
    harness.assert_in_step(name="second")
    eventually(lambda: "left embedding=first" in worker.said)
    assert worker.end() == 0
    warnings = [line for line in worker.said.splitlines() if "level=warning" in line]
    if "TESTS_POLL" in os.environ:  # it does not hear of a detach, and may read what is gone
        warnings = [line for line in warnings if "read_failed embedding=first" not in line]
    assert warnings == []
    assert "Traceback" not in worker.said


@both_versions
def test_an_embedding_attached_while_no_worker_runs_is_filled_by_the_next(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("INSERT INTO articles VALUES (3, 'three')")
    harness.execute("DELETE FROM articles WHERE id = 1")
    harness.worker()
    eventually(harness.settled)
    harness.assert_in_step()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_is_told_to_stop_writes_what_is_in_flight_and_exits_0(harness: Harness, number: int) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(harness.settled)
    with harness.server.hold(lambda texts: "text" in texts):
        harness.execute("INSERT INTO articles VALUES (1, 'text')")
        eventually(lambda: harness.server.waiting)
        worker.popen.send_signal(number)
        eventually(lambda: "stopping" in worker.said)
    assert worker.popen.wait(20) == 0
    assert harness.count("outbox") == 0
    harness.assert_in_step()
    assert "Traceback" not in worker.said


@pytest.mark.parametrize("away", ["nobody answers", "another model"])
def test_worker_that_is_told_to_stop_while_no_server_can_help_exits_within_a_second(
    harness: Harness, away: str
) -> None:
    harness.articles(*(f"text {n}" for n in range(50)))
    harness.ok("attach", "articles", "--text", "body")
    if away == "nobody answers":
        harness.environment["PG_QWEN_EMBED_SERVER_URL"] = "http://127.0.0.1:1/v1"
    else:
        harness.server.model = "another"
    worker = harness.worker("--log-level", "debug")
    eventually(lambda: "server_unavailable" in worker.said or "model_mismatch" in worker.said)
    eventually(lambda: "rows_scanned" in worker.said)
    began = time.monotonic()
    assert worker.end() == 0
    assert time.monotonic() - began < 1
    assert harness.count("store") == 0
    assert "Traceback" not in worker.said


def test_worker_once_ends_with_status_0_when_everything_is_done(harness: Harness) -> None:
    harness.articles(*(f"text {n}" for n in range(1000)))
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("UPDATE articles SET body = body || '!' WHERE id <= 600")
    worker = harness.worker("--once")
    assert worker.popen.wait(30) == 0
    assert harness.settled()
    harness.assert_in_step()


def test_worker_once_without_an_embedding_ends_with_status_0(harness: Harness) -> None:
    harness.once()


def test_worker_rejects_with_one_sentence_where_init_has_not_run(bare: Harness) -> None:
    assert "run: pg-qwen-embed init" in bare.refused("worker", "--once")


def test_worker_rejects_with_one_sentence_where_there_is_no_database(harness: Harness) -> None:
    nowhere = {"PG_QWEN_EMBED_DATABASE_URL": "postgresql://u@127.0.0.1:1/nowhere"}
    assert "PostgreSQL does not answer" in harness.refused("worker", env=nowhere)


@both_versions
def test_a_worker_that_is_killed_is_followed_by_the_one_that_stands_by(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    first = harness.worker("--poll", "0.1")
    eventually(harness.settled)
    second = harness.worker("--poll", "0.1")
    eventually(lambda: backends(harness) >= 6)
    eventually(lambda: "standing_by embedding=articles" in second.said)
    led_by = leader(harness)
    first.end(signal.SIGKILL)
    harness.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: "two" in harness.server.texts)
    eventually(harness.settled)
    assert leader(harness) not in (None, led_by)
    harness.assert_in_step()
    assert second.end() == 0
    assert second.said.count("standing_by") == 1


def test_the_log_says_when_a_backfill_and_its_index_are_done(harness: Harness) -> None:
    harness.articles("one", "two", "")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(lambda: "index_ready embedding=articles" in worker.said)
    assert re.search(r"event=backfill_done embedding=articles rows=3 embedded=[23] seconds=\d", worker.said)
    assert worker.end() == 0


def test_the_log_says_again_and_again_that_no_server_answers_and_how_late_the_vectors_are(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.server.url = "http://127.0.0.1:1/v1"
    harness.execute("INSERT INTO articles VALUES (1, 'one')")
    caplog.set_level("WARNING", "pg_qwen_embed.worker")

    def reports() -> list[str]:
        return [message for message in caplog.messages if message.startswith("waiting_for_server embedding=articles")]

    with harness.worker_here(outage_report_interval=0.1):
        eventually(lambda: len(reports()) >= 2)
    assert all("pending=1 lag_seconds=" in report for report in reports())


def test_of_two_workers_one_leads_and_nothing_is_embedded_twice(harness: Harness) -> None:
    harness.articles(*(f"text {n}" for n in range(300)))
    harness.ok("attach", "articles", "--text", "body")
    workers = [harness.worker("--poll", "0.1") for _ in range(2)]
    eventually(harness.settled)
    eventually(lambda: backends(harness) >= 6)
    assert len(harness.server.texts) == len(set(harness.server.texts)) == 300
    assert sum("following" in worker.said for worker in workers) == 1
    harness.assert_in_step()


@both_versions
@pytest.mark.long
def test_a_backfill_goes_on_where_a_killed_worker_left_it(harness: Harness) -> None:
    harness.articles(*(f"text {n}" for n in range(2000)))
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    with harness.server.hold(lambda _: len(harness.server.texts) >= 700):
        eventually(lambda: harness.server.waiting and harness.count("store") >= 512)
        die(harness, worker)
        written = {text for text, _ in harness.vectors()}
        eventually(lambda: not harness.server.waiting)
        harness.server.texts.clear()
        harness.server.texts.extend(["seen before"] * 700)
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    harness.worker()
    eventually(harness.settled)
    assert len(written) >= 512
    assert not written & set(harness.server.texts)
    harness.assert_in_step()
    (one,) = json.loads(harness.ok("status", "--json"))
    assert (one["backfill"]["rows_done"], one["index"]) == (2000, "valid")


def test_live_changes_are_embedded_before_the_rest_of_a_backfill(harness: Harness) -> None:
    harness.articles(*(f"text {n}" for n in range(3000)))
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    with harness.server.hold(lambda texts: len(harness.server.texts) >= 200 and "changed" not in texts):
        eventually(lambda: harness.server.waiting)
        harness.execute("INSERT INTO articles VALUES (9999, 'changed')")
        read = "query ~ ':read_(outbox|failures)' AND state = 'idle' AND query_start > %s"
        look = f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND {read})"
        inserted = harness.value("SELECT clock_timestamp()")
        eventually(lambda: harness.value(look, inserted))
    eventually(lambda: "changed" in harness.server.texts)
    assert harness.server.texts.index("changed") < 900
    eventually(harness.settled)
    harness.assert_in_step()


def test_live_changes_are_read_whatever_length_of_documents_a_backfill_has_in_hand(harness: Harness) -> None:
    harness.articles(*(f"{n} " + "long " * 1000 for n in range(20)))
    harness.ok("attach", "articles", "--text", "body")
    with (
        harness.server.hold(lambda texts: "long" in texts[0]),
        harness.worker_here(limits=Limits(size=2000), shutdown_timeout=0.5),
    ):
        eventually(lambda: harness.server.waiting)
        harness.execute("INSERT INTO articles VALUES (9999, 'changed')")
        eventually(lambda: "changed" in harness.server.texts)


def test_changes_that_are_late_are_written_many_at_a_time(harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.many("INSERT INTO articles VALUES (%s, %s)", [(n, f"text {n}") for n in range(600)])
    harness.server.delay = 0.01
    few = Limits(documents=256, request=batching.Limits(documents=4))
    with harness.worker_here(limits=few):
        eventually(harness.settled)
    transactions = harness.value(f"SELECT count(DISTINCT xmin::text) FROM {harness.internal('store')}")
    assert len(harness.server.requests) >= 150
    assert transactions <= 40


def test_without_a_backfill_only_changes_are_embedded(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    harness.once()
    assert harness.server.texts == ["changed"]
    assert harness.drift() == (1, {"missing": 1, "stale": 0, "orphaned": 0})


def test_backfill_started_again_fills_what_is_missing_and_embeds_nothing_twice(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    harness.worker()
    eventually(lambda: harness.server.texts == ["changed"] and harness.count("outbox") == 0)
    assert "2 vectors of 2 rows, index valid" in harness.ok("backfill", "articles")
    assert sorted(harness.server.texts) == ["changed", "one"]
    harness.assert_in_step()


@pytest.mark.parametrize("poll", [0, 0.2])
@pytest.mark.parametrize("kind", ["lead and read", "listen", "write"])
def test_a_connection_that_is_cut_is_made_again_and_nothing_is_lost(harness: Harness, kind: str, poll: float) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with harness.worker_here(poll=poll, ping=0.3):
        eventually(harness.settled)
        ours = "FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
        cut = [pid for (pid,) in harness.rows(f"SELECT pid {ours}", f"pg_qwen_embed worker: {kind}")]
        assert cut
        harness.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid", cut)
        harness.execute("UPDATE articles SET body = 'changed'")
        eventually(lambda: "changed" in harness.server.texts)
        eventually(harness.settled)
        harness.assert_in_step()


def test_altering_the_source_in_other_ways_does_not_stop_the_worker(harness: Harness) -> None:
    functions = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = '_qwen_embed'::regnamespace ORDER BY 1"
    before = harness.rows(functions)
    harness.execute("CREATE TABLE articles (gone int, id int PRIMARY KEY, body text, views int)")
    harness.execute("ALTER TABLE articles DROP COLUMN gone")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--poll", "0.1")
    eventually(harness.settled)
    for n, change in enumerate(
        ["ADD COLUMN more text DEFAULT 'x'", "RENAME COLUMN body TO words", "RENAME COLUMN id TO number",
         "DROP COLUMN more", "RENAME TO papers"],
    ):  # fmt: skip
        harness.execute(f"ALTER TABLE articles {change}")
        table = "papers" if change == "RENAME TO papers" else "articles"
        body, key = ("words" if n >= 1 else "body"), ("number" if n >= 2 else "id")
        harness.execute(f"INSERT INTO {table} ({key}, {body}) VALUES ({n}, 'text {n}')")
        harness.execute(f"UPDATE {table} SET {body} = 'again {n}' WHERE {key} = {n}")
        eventually(lambda n=n: f"again {n}" in harness.server.texts)
        eventually(harness.settled)
        harness.assert_in_step(body)
    harness.execute("DELETE FROM papers WHERE number = 0")
    harness.execute("UPDATE papers SET number = 100 WHERE number = 1")
    eventually(lambda: harness.settled() and harness.count("store") == 4)
    harness.assert_in_step("words")
    assert worker.end() == 0
    harness.ok("detach", "articles", "--yes")
    assert harness.rows(functions) == before


def test_a_source_that_is_dropped_stops_nothing_else_and_can_be_detached(harness: Harness) -> None:
    harness.articles("one")
    harness.execute("CREATE TABLE papers (id int PRIMARY KEY, body text)")
    harness.ok("attach", "articles", "--text", "body")
    harness.ok("attach", "papers", "--text", "body")
    harness.worker("--poll", "0.1")
    eventually(lambda: harness.settled() and harness.settled("papers"))
    harness.execute("DROP TABLE papers CASCADE")
    harness.execute("UPDATE articles SET body = 'changed'")
    eventually(lambda: "changed" in harness.server.texts)
    eventually(harness.settled)
    harness.assert_in_step()
    assert "not followed: its table was dropped" in harness.ok("status", "papers")
    harness.ok("detach", "papers", "--yes")
    assert harness.rows("SELECT relname FROM pg_class WHERE relname ~ '^(outbox|store|failure)_2$'") == []


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.long
def test_no_more_requests_than_allowed_are_in_flight_though_live_changes_go_first(harness: Harness, most: int) -> None:
    harness.articles(*(f"text {n}" for n in range(2000)))
    harness.ok("attach", "articles", "--text", "body")
    with harness.server.hold(lambda texts: texts != [PROBE]):
        harness.worker("--max-requests", str(most))
        eventually(lambda: harness.server.waiting)
        for n in range(2001, 2051):
            harness.execute("INSERT INTO articles VALUES (%s, 'new')", n)
        eventually(lambda: len(harness.server.waiting) == most)
    eventually(harness.settled)
    assert harness.server.most_waiting == most
    harness.assert_in_step()


@pytest.mark.parametrize("most", ["0", "1025", "many"])
def test_a_number_of_requests_that_cannot_be_is_a_usage_error(harness: Harness, most: str) -> None:
    assert harness.cli("worker", "--max-requests", most).exit_code == 2
