"""The worker's life: start, stop, death, a successor; and what happens to embeddings meanwhile."""

import json
import signal

import pytest
from fake_sglang import PROBE
from harness import Process, Rig, both_versions, eventually

from pg_qwen_embed.inference import batching
from pg_qwen_embed.worker.pipeline import Limits


def leader(rig: Rig, name: str = "articles") -> str | None:
    (one,) = json.loads(rig.ok("status", name, "--json"))
    found: str | None = one["leader"]
    return found


def backends(rig: Rig) -> int:
    found: int = rig.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^pg_qwen_embed' AND datname = current_database()"
    )
    return found


def die(rig: Rig, worker: Process) -> None:
    """kill -9, until PostgreSQL has noticed."""
    assert worker.end(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: backends(rig) == 0)


def test_worker_follows_what_is_attached_and_leaves_what_is_detached_while_it_runs(rig: Rig) -> None:
    rig.articles("one", "two")
    worker = rig.worker("--poll", "0")
    eventually(lambda: backends(rig) == 3)
    rig.ok("attach", "articles", "--text", "body", "--name", "first")
    eventually(lambda: rig.settled("first"))
    rig.ok("attach", "articles", "--text", "body", "--name", "second", "--dimensions", "8")
    eventually(lambda: rig.settled("second"))
    rig.ok("detach", "first", "--yes")
    rig.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    eventually(lambda: rig.settled("second"))
    rig.assert_in_step(name="second")
    eventually(lambda: "left embedding=first" in worker.said)
    assert worker.end() == 0
    assert "WARNING" not in worker.said
    assert "Traceback" not in worker.said


@both_versions
def test_an_embedding_attached_while_no_worker_runs_is_filled_by_the_next(rig: Rig) -> None:
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body")
    rig.execute("INSERT INTO articles VALUES (3, 'three')")
    rig.execute("DELETE FROM articles WHERE id = 1")
    rig.worker()
    eventually(rig.settled)
    rig.assert_in_step()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_is_told_to_stop_writes_what_is_in_flight_and_exits_0(rig: Rig, number: int) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body")
    worker = rig.worker()
    eventually(rig.settled)
    with rig.server.hold(lambda texts: "text" in texts):
        rig.execute("INSERT INTO articles VALUES (1, 'text')")
        eventually(lambda: rig.server.waiting)
        worker.popen.send_signal(number)
        eventually(lambda: "stopping" in worker.said)
    assert worker.popen.wait(20) == 0
    assert rig.count("outbox") == 0
    rig.assert_in_step()
    assert "Traceback" not in worker.said


def test_worker_once_ends_with_status_0_when_everything_is_done(rig: Rig) -> None:
    rig.articles(*(f"text {n}" for n in range(1000)))
    rig.ok("attach", "articles", "--text", "body")
    rig.execute("UPDATE articles SET body = body || '!' WHERE id <= 600")
    worker = rig.worker("--once")
    assert worker.popen.wait(30) == 0
    assert rig.settled()
    rig.assert_in_step()


def test_worker_once_without_an_embedding_ends_with_status_0(rig: Rig) -> None:
    rig.once()


def test_worker_refuses_with_one_sentence_where_init_has_not_run(bare: Rig) -> None:
    assert "run: pg-qwen-embed init" in bare.refused("worker", "--once")


def test_worker_refuses_with_one_sentence_where_there_is_no_database(rig: Rig) -> None:
    nowhere = {"PG_QWEN_EMBED_DATABASE_URL": "postgresql://u@127.0.0.1:1/nowhere"}
    assert "PostgreSQL does not answer" in rig.refused("worker", env=nowhere)


@both_versions
def test_a_worker_that_is_killed_is_followed_by_the_one_that_stands_by(rig: Rig) -> None:
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    first = rig.worker("--poll", "0.1")
    eventually(rig.settled)
    second = rig.worker("--poll", "0.1")
    eventually(lambda: backends(rig) >= 6)
    led_by = leader(rig)
    first.end(signal.SIGKILL)
    rig.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: "two" in rig.server.texts)
    eventually(rig.settled)
    assert leader(rig) not in (None, led_by)
    rig.assert_in_step()
    assert second.end() == 0


def test_of_two_workers_one_leads_and_nothing_is_embedded_twice(rig: Rig) -> None:
    rig.articles(*(f"text {n}" for n in range(300)))
    rig.ok("attach", "articles", "--text", "body")
    workers = [rig.worker("--poll", "0.1") for _ in range(2)]
    eventually(rig.settled)
    eventually(lambda: backends(rig) >= 6)
    assert len(rig.server.texts) == len(set(rig.server.texts)) == 300
    assert sum("following" in worker.said for worker in workers) == 1
    rig.assert_in_step()


@both_versions
def test_a_backfill_goes_on_where_a_killed_worker_left_it(rig: Rig) -> None:
    rig.articles(*(f"text {n}" for n in range(2000)))
    rig.ok("attach", "articles", "--text", "body")
    worker = rig.worker()
    with rig.server.hold(lambda _: len(rig.server.texts) >= 700):
        eventually(lambda: rig.server.waiting and rig.count("store") >= 512)
        die(rig, worker)
        written = {text for text, _ in rig.vectors()}
        eventually(lambda: not rig.server.waiting)
        rig.server.texts.clear()
        rig.server.texts.extend(["seen before"] * 700)
    rig.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    rig.worker()
    eventually(rig.settled)
    assert len(written) >= 512
    assert not written & set(rig.server.texts)
    rig.assert_in_step()
    (one,) = json.loads(rig.ok("status", "--json"))
    assert (one["backfill"]["rows_done"], one["index"]) == (2000, "valid")


def test_live_changes_are_embedded_before_the_rest_of_a_backfill(rig: Rig) -> None:
    rig.articles(*(f"text {n}" for n in range(3000)))
    rig.ok("attach", "articles", "--text", "body")
    rig.worker()
    with rig.server.hold(lambda texts: len(rig.server.texts) >= 200 and "changed" not in texts):
        eventually(lambda: rig.server.waiting)
        rig.execute("INSERT INTO articles VALUES (9999, 'changed')")
        read = "query ~ ':read_(outbox|failures)' AND state = 'idle' AND query_start > %s"
        look = f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND {read})"
        inserted = rig.value("SELECT clock_timestamp()")
        eventually(lambda: rig.value(look, inserted))
    eventually(lambda: "changed" in rig.server.texts)
    assert rig.server.texts.index("changed") < 900
    eventually(rig.settled)
    rig.assert_in_step()


def test_live_changes_are_read_whatever_length_of_documents_a_backfill_has_in_hand(rig: Rig) -> None:
    rig.articles(*(f"{n} " + "long " * 1000 for n in range(20)))
    rig.ok("attach", "articles", "--text", "body")
    with rig.server.hold(lambda texts: "long" in texts[0]), rig.worker_here(limits=Limits(size=2000), grace=0.5):
        eventually(lambda: rig.server.waiting)
        rig.execute("INSERT INTO articles VALUES (9999, 'changed')")
        eventually(lambda: "changed" in rig.server.texts)


def test_changes_that_are_late_are_written_many_at_a_time(rig: Rig) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.many("INSERT INTO articles VALUES (%s, %s)", [(n, f"text {n}") for n in range(600)])
    rig.server.delay = 0.01
    few = Limits(documents=256, request=batching.Limits(documents=4))
    with rig.worker_here(limits=few):
        eventually(rig.settled)
    transactions = rig.value(f"SELECT count(DISTINCT xmin::text) FROM {rig.machinery('store')}")
    assert len(rig.server.requests) >= 150
    assert transactions <= 40


def test_without_a_backfill_only_changes_are_embedded(rig: Rig) -> None:
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body", "--no-backfill")
    rig.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    rig.once()
    assert rig.server.texts == ["changed"]
    assert rig.drift() == (1, {"missing": 1, "stale": 0, "orphaned": 0})


def test_backfill_started_again_fills_what_is_missing_and_embeds_nothing_twice(rig: Rig) -> None:
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body", "--no-backfill")
    rig.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    rig.worker()
    eventually(lambda: rig.server.texts == ["changed"] and rig.count("outbox") == 0)
    assert "2 vectors of 2 rows, index valid" in rig.ok("backfill", "articles")
    assert sorted(rig.server.texts) == ["changed", "one"]
    rig.assert_in_step()


@pytest.mark.parametrize("poll", [0, 0.2])
@pytest.mark.parametrize("kind", ["lead and read", "listen", "write"])
def test_a_connection_that_is_cut_is_made_again_and_nothing_is_lost(rig: Rig, kind: str, poll: float) -> None:
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    with rig.worker_here(poll=poll, ping=0.3):
        eventually(rig.settled)
        ours = "FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
        cut = [pid for (pid,) in rig.rows(f"SELECT pid {ours}", f"pg_qwen_embed worker: {kind}")]
        assert cut
        rig.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid", cut)
        rig.execute("UPDATE articles SET body = 'changed'")
        eventually(lambda: "changed" in rig.server.texts)
        eventually(rig.settled)
        rig.assert_in_step()


def test_altering_the_source_in_other_ways_does_not_stop_the_worker(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (gone int, id int PRIMARY KEY, body text, views int)")
    rig.execute("ALTER TABLE articles DROP COLUMN gone")
    rig.ok("attach", "articles", "--text", "body")
    worker = rig.worker("--poll", "0.1")
    eventually(rig.settled)
    for n, change in enumerate(
        ["ADD COLUMN more text DEFAULT 'x'", "RENAME COLUMN body TO words", "RENAME COLUMN id TO number",
         "DROP COLUMN more", "RENAME TO papers"],
    ):  # fmt: skip
        rig.execute(f"ALTER TABLE articles {change}")
        table = "papers" if change == "RENAME TO papers" else "articles"
        body, key = ("words" if n >= 1 else "body"), ("number" if n >= 2 else "id")
        rig.execute(f"INSERT INTO {table} ({key}, {body}) VALUES ({n}, 'text {n}')")
        rig.execute(f"UPDATE {table} SET {body} = 'again {n}' WHERE {key} = {n}")
        eventually(lambda n=n: f"again {n}" in rig.server.texts)
        eventually(rig.settled)
        rig.assert_in_step("body")
    rig.execute("DELETE FROM papers WHERE number = 0")
    rig.execute("UPDATE papers SET number = 100 WHERE number = 1")
    eventually(lambda: rig.settled() and rig.count("store") == 4)
    rig.assert_in_step("body")
    assert worker.end() == 0
    rig.ok("detach", "articles", "--yes")
    assert [
        name for (name,) in rig.rows("SELECT proname FROM pg_proc WHERE pronamespace = '_qwen_embed'::regnamespace")
    ] == ["fingerprint"]


def test_a_source_that_is_dropped_stops_nothing_else_and_can_be_detached(rig: Rig) -> None:
    rig.articles("one")
    rig.execute("CREATE TABLE papers (id int PRIMARY KEY, body text)")
    rig.ok("attach", "articles", "--text", "body")
    rig.ok("attach", "papers", "--text", "body")
    rig.worker("--poll", "0.1")
    eventually(lambda: rig.settled() and rig.settled("papers"))
    rig.execute("DROP TABLE papers CASCADE")
    rig.execute("UPDATE articles SET body = 'changed'")
    eventually(lambda: "changed" in rig.server.texts)
    eventually(rig.settled)
    rig.assert_in_step()
    assert "not followed: its table was dropped" in rig.ok("status", "papers")
    rig.ok("detach", "papers", "--yes")
    assert rig.rows("SELECT relname FROM pg_class WHERE relname ~ '^(outbox|store|failure)_2$'") == []


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_requests_than_allowed_are_in_flight_though_live_changes_go_first(rig: Rig, most: int) -> None:
    rig.articles(*(f"text {n}" for n in range(2000)))
    rig.ok("attach", "articles", "--text", "body")
    with rig.server.hold(lambda texts: texts != [PROBE]):
        rig.worker("--max-requests", str(most))
        eventually(lambda: rig.server.waiting)
        for n in range(2001, 2051):
            rig.execute("INSERT INTO articles VALUES (%s, 'new')", n)
        eventually(lambda: len(rig.server.waiting) == most)
    eventually(rig.settled)
    assert rig.server.most_waiting == most
    rig.assert_in_step()


@pytest.mark.parametrize("most", ["0", "1025", "many"])
def test_a_number_of_requests_that_cannot_be_is_a_usage_error(rig: Rig, most: str) -> None:
    assert rig.cli("worker", "--max-requests", most).exit_code == 2
