"""The embedding server misbehaves: nothing wrong is written, nothing is lost, and only documents that it rejects fail."""

import asyncio

import pytest
from harness import Harness, both_versions, eventually
from pauses import Pauses

from pg_qwen_embed.domain.errors import ServerUnavailable
from pg_qwen_embed.inference.breaker import LONGEST_PAUSE
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.process import Worker

FAULTS = ["503", "500", "429", "401", "html", "nan", "zero", "too_few", "too_short", "index_twice"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Those of a worker in this process."""
    pauses = Pauses()
    pauses.injected(monkeypatch)
    return pauses


def assert_paused(harness: Harness, pauses: Pauses, *, each: int = 1) -> None:
    """The next hundred requests come after as many pauses, or `each` after one of them, and these become long."""
    asked, paused = len(harness.server.requests), len(pauses.longest)
    eventually(lambda: len(harness.server.requests) >= asked + 100)
    assert len(pauses.longest) - paused >= 80 // each
    assert max(pauses.longest[-20:]) >= LONGEST_PAUSE


@pytest.fixture
def probes_only(harness: Harness) -> Harness:
    """Its server answers probes correctly, and everything else with one vector too few."""
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.server.fault = "only_probes"
    return harness


def test_server_that_answers_nothing_but_probes_is_asked_less_and_less_often(
    probes_only: Harness, pauses: Pauses
) -> None:
    with probes_only.worker_here():
        assert_paused(probes_only, pauses, each=3)  # a probe, the documents, and half of them
        assert probes_only.count("failure") == 0
        probes_only.server.fault = None
        eventually(probes_only.settled)
        probes_only.ok("failures", "retry", "articles")  # one that was being looked into just now may have been blamed
        eventually(lambda: probes_only.count("store") == 2 and probes_only.settled())
    probes_only.assert_in_step()


def test_worker_that_is_to_end_does_not_wait_for_ever_for_a_server_that_answers_nothing_but_probes(
    probes_only: Harness,
) -> None:
    settings = Settings(probes_only.url, probes_only.server.url)
    with pytest.raises(ServerUnavailable, match="vectors"):
        asyncio.run(Worker(settings, Options(once=True, outage_timeout=3.0)).run())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.long
def test_a_server_that_recovers_gets_everything_embedded_and_nothing_has_failed(harness: Harness, fault: str) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    eventually(harness.settled)
    harness.server.fault = fault
    harness.execute("INSERT INTO articles VALUES (3, 'three'), (4, 'four')")
    asked = len(harness.server.requests)
    eventually(lambda: len(harness.server.requests) > asked + 5)
    assert sorted(text for text, _ in harness.vectors()) == ["one", "two"]
    assert harness.count("outbox") == 2
    harness.server.fault = None
    eventually(harness.settled)
    harness.assert_in_step()
    assert harness.count("failure") == 0


@pytest.mark.parametrize("fault", ["503", "nan"])
def test_a_server_at_fault_is_not_asked_in_a_tight_loop(harness: Harness, pauses: Pauses, fault: str) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.server.fault = fault
    with harness.worker_here(shutdown_timeout=0.1):
        assert_paused(harness, pauses)


def test_a_server_that_is_away_when_the_worker_starts_is_waited_for(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.server.fault = "503"
    worker = harness.worker()
    eventually(lambda: len(harness.server.requests) > 3)
    assert worker.popen.poll() is None
    harness.server.fault = None
    eventually(harness.settled)
    harness.assert_in_step()


def test_a_server_of_another_model_gets_no_documents(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.server.model = "another"
    worker = harness.worker()
    eventually(lambda: "another" in worker.said)
    assert harness.server.texts == []
    harness.server.model = "stand-in"
    eventually(harness.settled)
    harness.assert_in_step()


def test_items_are_taken_by_their_index_and_floats_as_well_as_base64(harness: Harness) -> None:
    harness.articles(*(f"text {n}" for n in range(20)))
    harness.server.disordered = True
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.assert_in_step()
    harness.server.floats = True
    harness.execute("UPDATE articles SET body = body || '!'")
    harness.once()
    harness.assert_in_step()


@both_versions
@pytest.mark.parametrize("backfill", [True, False], ids=["backfill", "live"])
@pytest.mark.parametrize("store", ["table", "column"])
def test_a_document_that_is_rejected_fails_alone_with_the_servers_sentence(
    harness: Harness, backfill: bool, store: str
) -> None:
    rows = [f"text {n}" if n != 150 else "POISON" for n in range(300)]
    harness.articles(*(rows if backfill else ()))
    harness.server.poison = "POISON"
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    if not backfill:
        harness.many("INSERT INTO articles VALUES (%s, %s)", list(enumerate(rows, 1)))
    harness.once()
    assert len(harness.vectors()) == 299
    assert harness.rows(f"SELECT k1, error FROM {harness.internal('failure')}") == [
        (151, "The input (10002 tokens) is longer than the model's context length (512 tokens).")
    ]
    assert harness.settled()
    assert harness.drift() == (1, {"missing": 1, "stale": 0, "orphaned": 0})
    harness.execute("UPDATE articles SET body = 'short enough' WHERE id = 151")
    harness.once()
    assert harness.count("failure") == 0
    harness.assert_in_step()


@pytest.mark.parametrize("change", ["DELETE FROM articles", "UPDATE articles SET body = NULL", "TRUNCATE articles"])
def test_the_failure_goes_with_its_document(harness: Harness, change: str) -> None:
    harness.articles("POISON")
    harness.server.poison = "POISON"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert harness.count("failure") == 1
    harness.execute(change)
    harness.once()
    assert harness.count("failure") == 0
    harness.assert_in_step()


def test_a_rejected_change_leaves_the_older_vector_marked_stale(harness: Harness) -> None:
    harness.articles("text")
    harness.server.poison = "POISON"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("UPDATE articles SET body = 'POISON'")
    harness.once()
    assert harness.count("failure") == 1
    assert harness.rows("SELECT stale FROM qwen_embed.articles") in ([(True,)], [])


def test_a_server_that_hangs_is_given_up_on_and_asked_again(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--request-timeout", "0.3")
    eventually(harness.settled)
    harness.server.fault = "hang"
    harness.execute("UPDATE articles SET body = 'changed'")
    eventually(lambda: "did not answer" in worker.said)
    harness.server.fault = None
    eventually(harness.settled)
    harness.assert_in_step()
    assert harness.count("failure") == 0


def test_a_server_whose_vectors_have_become_too_short_gets_nothing_written(harness: Harness) -> None:
    """The same name, another model behind it."""
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.server.dimensions = 8
    worker = harness.worker()
    eventually(lambda: "level=warning" in worker.said)
    harness.server.dimensions = 16
    eventually(harness.settled)
    harness.assert_in_step()
    assert "write_failed" not in worker.said


@pytest.mark.parametrize("allowed", [(), (8, 16)])
def test_a_server_that_shortens_is_asked_for_the_dimensions_wanted(harness: Harness, allowed: tuple[int, ...]) -> None:
    harness.server.matryoshka_dimensions = allowed
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    harness.once()
    assert harness.server.requests[-1]["dimensions"] == 8
    harness.assert_in_step()


@pytest.mark.parametrize("shortens", [True, False])
def test_vectors_are_shortened_here_where_the_server_cannot(harness: Harness, shortens: bool) -> None:
    harness.server.supports_dimensions = shortens
    harness.server.matryoshka_dimensions = (4, 16) if shortens else ()
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    harness.once()
    assert not any("dimensions" in request for request in harness.server.requests)
    harness.assert_in_step()
    found = harness.value("SELECT max(abs(1 - (embedding <#> embedding) * -1)) FROM qwen_embed.articles")
    assert found < 1e-2


def test_a_server_that_no_longer_shortens_is_asked_for_whole_vectors(harness: Harness) -> None:
    """It was restarted without its Matryoshka option between two requests: it rejects every document."""
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    harness.worker()
    eventually(harness.settled)
    harness.server.supports_dimensions = False
    harness.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(harness.settled)
    harness.assert_in_step()
    assert harness.count("failure") == 0


def test_a_server_that_is_swapped_for_another_model_between_two_requests_gets_nothing_written(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(harness.settled)
    harness.server.model = "another"
    harness.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: "serves another" in worker.said)
    assert harness.count("store") == 1
    harness.server.model = "stand-in"
    eventually(harness.settled)
    harness.assert_in_step()


@pytest.mark.long
def test_overload_that_does_not_end_is_said_and_not_asked_about_in_a_tight_loop(
    harness: Harness, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(6):
        harness.execute(f"CREATE TABLE t{n} (id int PRIMARY KEY, body text)")
        harness.ok("attach", f"t{n}", "--text", "body")
    with harness.worker_here():
        eventually(lambda: all(harness.settled(f"t{n}") for n in range(6)))
        harness.server.fault = "503"
        for n in range(6):
            harness.execute(f"INSERT INTO t{n} SELECT i, 'text ' || i FROM generate_series(1, 100) i")
        eventually(lambda: "server_unavailable" in caplog.text)
        eventually(lambda: "does not answer" in harness.ok("status", "t0"))
        assert_paused(harness, pauses)
        harness.server.fault = None
        eventually(lambda: all(harness.settled(f"t{n}") for n in range(6)), deadline=30)
    assert all(harness.count("failure", f"t{n}") == 0 for n in range(6))


@pytest.mark.long
def test_document_that_overloads_a_server_which_takes_others_becomes_a_failure(harness: Harness) -> None:
    harness.server.poison, harness.server.overloads = "POISON", True
    harness.articles(*(f"text {n}" for n in range(100)), "POISON")
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    eventually(lambda: harness.count("store") == 100)
    eventually(lambda: harness.count("failure") == 1, deadline=60)
    eventually(harness.settled)


@pytest.mark.parametrize("locked", ["others", "part"])
@pytest.mark.long
def test_a_source_that_is_locked_does_not_hold_up_the_others(harness: Harness, locked: str) -> None:
    harness.articles("one")
    harness.execute("CREATE TABLE others (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    harness.execute("CREATE TABLE part PARTITION OF others DEFAULT")
    for table in ("articles", "others"):
        harness.ok("attach", table, "--text", "body")
    worker = harness.worker("--poll", "0.1")
    eventually(harness.settled)
    with harness.connect(autocommit=False) as holder:
        harness.execute("INSERT INTO others VALUES (1, 'waits')")
        holder.execute(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
        harness.execute("INSERT INTO articles VALUES (2, 'does not wait')")
        eventually(lambda: harness.value("SELECT count(*) FROM qwen_embed.articles") == 2)
    eventually(lambda: harness.settled("others"))
    assert "database_unavailable" not in worker.said
