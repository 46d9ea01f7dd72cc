"""The embedding server misbehaves: nothing wrong is written, nothing is lost, and only the documents it refuses fail."""

import asyncio
import time
from typing import Any

import pytest
from fake_sglang import PROBE
from harness import Rig, both_versions, eventually

from pg_qwen_embed.domain.errors import ServerUnavailable
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.session import Worker

FAULTS = ["503", "500", "429", "401", "html", "nan", "zero", "too_few", "too_short", "index_twice"]


@pytest.fixture
def probes_only(rig: Rig) -> Rig:
    """Its server answers probes, and everything else with one vector too few."""
    items = rig.server._items

    def fewer(texts: list[str], *how: Any) -> list[dict[str, Any]]:
        return items(texts, *how)[: None if texts == [PROBE] else -1]

    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body")
    rig.server._items = fewer  # type: ignore[method-assign]
    return rig


def test_server_that_answers_nothing_but_probes_is_asked_less_and_less_often(probes_only: Rig) -> None:
    probes_only.worker()
    eventually(lambda: len(probes_only.server.requests) > 30)
    asked = len(probes_only.server.requests)
    time.sleep(2)
    assert len(probes_only.server.requests) - asked < 40
    assert probes_only.count("failure") == 0
    del probes_only.server._items
    # One that was being looked into just now may have been blamed, and is tried again soon.
    eventually(lambda: probes_only.count("store") == 2 and probes_only.settled(), deadline=60)
    probes_only.assert_in_step()


def test_worker_that_is_to_end_does_not_wait_for_ever_for_a_server_that_answers_nothing_but_probes(
    probes_only: Rig,
) -> None:
    settings = Settings(probes_only.url, probes_only.server.url)
    with pytest.raises(ServerUnavailable, match="vectors"):
        asyncio.run(Worker(settings, Options(once=True, patience=1.0)).run())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_recovers_gets_everything_embedded_and_nothing_has_failed(rig: Rig, fault: str) -> None:
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body")
    rig.worker()
    eventually(rig.settled)
    rig.server.fault = fault
    rig.execute("INSERT INTO articles VALUES (3, 'three'), (4, 'four')")
    asked = len(rig.server.requests)
    eventually(lambda: len(rig.server.requests) > asked + 5)
    assert sorted(text for text, _ in rig.vectors()) == ["one", "two"]
    assert rig.count("outbox") == 2
    rig.server.fault = None
    eventually(rig.settled)
    rig.assert_in_step()
    assert rig.count("failure") == 0


@pytest.mark.parametrize("fault", ["503", "nan"])
def test_a_server_at_fault_is_not_asked_in_a_tight_loop(rig: Rig, fault: str) -> None:
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    rig.server.fault = fault
    rig.worker()
    eventually(lambda: len(rig.server.requests) > 1)
    began, asked = time.monotonic(), len(rig.server.requests)
    eventually(lambda: len(rig.server.requests) >= asked + 6)
    assert time.monotonic() - began > 0.1


def test_a_server_that_is_away_when_the_worker_starts_is_waited_for(rig: Rig) -> None:
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    rig.server.fault = "503"
    worker = rig.worker()
    eventually(lambda: len(rig.server.requests) > 3)
    assert worker.popen.poll() is None
    rig.server.fault = None
    eventually(rig.settled)
    rig.assert_in_step()


def test_a_server_of_another_model_gets_no_documents(rig: Rig) -> None:
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    rig.server.model = "another"
    worker = rig.worker()
    eventually(lambda: "another" in worker.said)
    assert rig.server.texts == []
    rig.server.model = "stand-in"
    eventually(rig.settled)
    rig.assert_in_step()


def test_items_are_taken_by_their_index_and_floats_as_well_as_base64(rig: Rig) -> None:
    rig.articles(*(f"text {n}" for n in range(20)))
    rig.server.disordered = True
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.assert_in_step()
    rig.server.floats = True
    rig.execute("UPDATE articles SET body = body || '!'")
    rig.once()
    rig.assert_in_step()


@both_versions
@pytest.mark.parametrize("backfill", [True, False], ids=["backfill", "live"])
@pytest.mark.parametrize("store", ["table", "column"])
def test_a_document_that_is_refused_fails_alone_with_the_servers_sentence(rig: Rig, backfill: bool, store: str) -> None:
    rows = [f"text {n}" if n != 150 else "POISON" for n in range(300)]
    rig.articles(*(rows if backfill else ()))
    rig.server.poison = "POISON"
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    if not backfill:
        rig.many("INSERT INTO articles VALUES (%s, %s)", list(enumerate(rows, 1)))
    rig.once()
    assert len(rig.vectors()) == 299
    assert rig.rows(f"SELECT k1, error FROM {rig.machinery('failure')}") == [
        (151, "The input (10002 tokens) is longer than the model's context length (512 tokens).")
    ]
    assert rig.settled()
    assert rig.drift() == (1, {"missing": 1, "stale": 0, "orphaned": 0})
    rig.execute("UPDATE articles SET body = 'short enough' WHERE id = 151")
    rig.once()
    assert rig.count("failure") == 0
    rig.assert_in_step()


@pytest.mark.parametrize("change", ["DELETE FROM articles", "UPDATE articles SET body = NULL", "TRUNCATE articles"])
def test_the_failure_goes_with_its_document(rig: Rig, change: str) -> None:
    rig.articles("POISON")
    rig.server.poison = "POISON"
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    assert rig.count("failure") == 1
    rig.execute(change)
    rig.once()
    assert rig.count("failure") == 0
    rig.assert_in_step()


def test_a_refused_change_leaves_the_older_vector_marked_stale(rig: Rig) -> None:
    rig.articles("text")
    rig.server.poison = "POISON"
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.execute("UPDATE articles SET body = 'POISON'")
    rig.once()
    assert rig.count("failure") == 1
    assert rig.rows("SELECT stale FROM qwen_embed.articles") in ([(True,)], [])


def test_a_server_that_hangs_is_given_up_on_and_asked_again(rig: Rig) -> None:
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body")
    worker = rig.worker("--request-timeout", "0.3")
    eventually(rig.settled)
    rig.server.fault = "hang"
    rig.execute("UPDATE articles SET body = 'changed'")
    eventually(lambda: "did not answer" in worker.said)
    rig.server.fault = None
    eventually(rig.settled)
    rig.assert_in_step()
    assert rig.count("failure") == 0


def test_a_server_whose_vectors_have_become_too_short_gets_nothing_written(rig: Rig) -> None:
    """The same name, another model behind it."""
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body")
    rig.server.dimensions = 8
    worker = rig.worker()
    eventually(lambda: "WARNING" in worker.said)
    rig.server.dimensions = 16
    eventually(rig.settled)
    rig.assert_in_step()
    assert "write_failed" not in worker.said


@pytest.mark.parametrize("allowed", [(), (8, 16)])
def test_a_server_that_shortens_is_asked_for_the_dimensions_wanted(rig: Rig, allowed: tuple[int, ...]) -> None:
    rig.server.matryoshka_dimensions = allowed
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    rig.once()
    assert rig.server.requests[-1]["dimensions"] == 8
    rig.assert_in_step()


@pytest.mark.parametrize("shortens", [True, False])
def test_vectors_are_shortened_here_where_the_server_cannot(rig: Rig, shortens: bool) -> None:
    rig.server.supports_dimensions = shortens
    rig.server.matryoshka_dimensions = (4, 16) if shortens else ()
    rig.articles("one", "two")
    rig.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    rig.once()
    assert not any("dimensions" in request for request in rig.server.requests)
    rig.assert_in_step()
    found = rig.value("SELECT max(abs(1 - (embedding <#> embedding) * -1)) FROM qwen_embed.articles")
    assert found < 1e-2


def test_a_server_that_no_longer_shortens_is_asked_for_whole_vectors(rig: Rig) -> None:
    """It was restarted without its Matryoshka option between two requests: every document would be refused."""
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    rig.worker()
    eventually(rig.settled)
    rig.server.supports_dimensions = False
    rig.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(rig.settled)
    rig.assert_in_step()
    assert rig.count("failure") == 0


def test_a_server_that_is_swapped_for_another_model_between_two_requests_gets_nothing_written(rig: Rig) -> None:
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    worker = rig.worker()
    eventually(rig.settled)
    rig.server.model = "another"
    rig.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: "serves another" in worker.said)
    assert rig.count("store") == 1
    rig.server.model = "stand-in"
    eventually(rig.settled)
    rig.assert_in_step()


def test_overload_that_does_not_end_is_said_and_not_asked_about_in_a_tight_loop(rig: Rig) -> None:
    for n in range(6):
        rig.execute(f"CREATE TABLE t{n} (id int PRIMARY KEY, body text)")
        rig.ok("attach", f"t{n}", "--text", "body")
    worker = rig.worker()
    eventually(lambda: all(rig.settled(f"t{n}") for n in range(6)))
    rig.server.fault = "503"
    for n in range(6):
        rig.execute(f"INSERT INTO t{n} SELECT i, 'text ' || i FROM generate_series(1, 100) i")
    eventually(lambda: "server_unavailable" in worker.said)
    eventually(lambda: "does not answer" in rig.ok("status", "t0"))
    asked = len(rig.server.requests)
    time.sleep(2)
    assert len(rig.server.requests) - asked < 40
    rig.server.fault = None
    eventually(lambda: all(rig.settled(f"t{n}") for n in range(6)), deadline=30)
    assert all(rig.count("failure", f"t{n}") == 0 for n in range(6))


def test_document_that_overloads_a_server_which_takes_others_becomes_a_failure(rig: Rig) -> None:
    rig.server.poison, rig.server.overloads = "POISON", True
    rig.articles(*(f"text {n}" for n in range(100)), "POISON")
    rig.ok("attach", "articles", "--text", "body")
    rig.worker()
    eventually(lambda: rig.count("store") == 100)
    eventually(lambda: rig.count("failure") == 1, deadline=60)
    eventually(rig.settled)


@pytest.mark.parametrize("locked", ["others", "part"])
def test_a_source_that_is_locked_does_not_hold_up_the_others(rig: Rig, locked: str) -> None:
    rig.articles("one")
    rig.execute("CREATE TABLE others (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    rig.execute("CREATE TABLE part PARTITION OF others DEFAULT")
    for table in ("articles", "others"):
        rig.ok("attach", table, "--text", "body")
    worker = rig.worker("--poll", "0.1")
    eventually(rig.settled)
    with rig.connect(autocommit=False) as holder:
        rig.execute("INSERT INTO others VALUES (1, 'waits')")
        holder.execute(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
        rig.execute("INSERT INTO articles VALUES (2, 'does not wait')")
        eventually(lambda: rig.value("SELECT count(*) FROM qwen_embed.articles") == 2)
    eventually(lambda: rig.settled("others"))
    assert "database_unavailable" not in worker.said
