"""Documents that the server rejects: isolated, kept, retried, parked, handled by commands."""

import json

import pytest
from harness import Harness, eventually

from pg_qwen_embed.worker.policy import REJECTIONS


@pytest.fixture
def failed(harness: Harness) -> Harness:
    """Three rows, the second of which is rejected."""
    harness.articles("one", "poison two", "three")
    harness.server.poison = "poison"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    return harness


def listed(harness: Harness) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(harness.ok("failures", "list", "articles", "--json"))
    return found


def test_rows_that_share_a_rejected_text_are_failures_each_and_one_line_in_the_log(harness: Harness) -> None:
    harness.articles(*["poison"] * 300, "fine")
    harness.server.poison = "poison"
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(lambda: harness.count("failure") == 300)
    eventually(harness.settled)
    assert worker.said.count("document_rejected") < 10
    assert len([r for r in harness.server.requests if r["input"] == ["poison"]]) < 10


def test_rejected_document_is_kept_with_the_sentence_of_the_server(failed: Harness) -> None:
    (failure,) = listed(failed)
    assert failure["key"] == {"id": 2}
    assert failure["attempts"] == 1
    assert "longer than the model's context length" in str(failure["error"])
    assert failure["next_attempt_at"] is not None
    assert failed.count("store") == 2
    assert "id=2  1 attempt, again at " in failed.ok("failures", "list", "articles")


def test_failure_is_tried_again_when_its_time_has_come(failed: Harness) -> None:
    failed.server.poison = None
    failed.execute(f"UPDATE {failed.internal('failure')} SET next_attempt_at = now()")
    failed.once()
    assert listed(failed) == []
    failed.assert_in_step()


def test_failure_that_is_rejected_again_counts_its_attempts_and_is_parked_at_last(failed: Harness) -> None:
    failed.execute(f"UPDATE {failed.internal('failure')} SET next_attempt_at = now(), attempts = {REJECTIONS - 2}")
    failed.once()
    assert [(f["attempts"], f["next_attempt_at"] is None) for f in listed(failed)] == [(REJECTIONS - 1, False)]
    failed.execute(f"UPDATE {failed.internal('failure')} SET next_attempt_at = now()")
    failed.once()
    assert [(f["attempts"], f["next_attempt_at"] is None) for f in listed(failed)] == [(REJECTIONS, True)]
    assert "parked" in failed.ok("failures", "list", "articles")


def test_newer_change_of_the_row_supersedes_its_failure(failed: Harness) -> None:
    failed.execute("UPDATE articles SET body = 'harmless' WHERE id = 2")
    failed.once()
    assert listed(failed) == []
    failed.assert_in_step()


def test_newer_change_that_is_rejected_too_starts_counting_again(failed: Harness) -> None:
    failed.execute(f"UPDATE {failed.internal('failure')} SET attempts = 5")
    failed.execute("UPDATE articles SET body = 'other poison' WHERE id = 2")
    failed.once()
    assert [f["attempts"] for f in listed(failed)] == [1]


@pytest.mark.parametrize("change", ["DELETE FROM articles WHERE id = 2", "UPDATE articles SET body = ' ' WHERE id = 2"])
def test_failure_goes_with_its_document(failed: Harness, change: str) -> None:
    failed.execute(change)
    failed.once()
    assert listed(failed) == []


def test_running_worker_retries_what_is_asked_for(failed: Harness) -> None:
    failed.execute(f"UPDATE {failed.internal('failure')} SET next_attempt_at = NULL")
    failed.worker("--poll", "0")
    eventually(lambda: "lead and read" in failed.ok("status", "articles"))
    failed.server.poison = None
    assert failed.ok("failures", "retry", "articles", "--key", "2") == "articles: 1 to be tried again\n"
    eventually(lambda: listed(failed) == [])
    failed.assert_in_step()


def test_discarded_failure_is_forgotten_and_not_tried_again(failed: Harness) -> None:
    assert "articles has no failure with the key 3; list them" in failed.refused(
        "failures", "discard", "articles", "--key", "3"
    )
    assert failed.ok("failures", "discard", "articles") == "articles: 1 discarded\n"
    failed.server.poison = None
    failed.once()
    assert failed.count("store") == 2


def test_key_of_the_wrong_length_is_rejected(failed: Harness) -> None:
    said = failed.refused("failures", "retry", "articles", "--key", "1", "--key", "2")
    assert said == "the key of articles is (id): give --key 1 time"


@pytest.mark.long
def test_one_rejected_document_among_three_thousand_costs_few_requests(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(1, 3000) n")
    harness.ok("attach", "articles", "--text", "body", "--name", "clean")
    harness.once()
    without = len(harness.server.requests)
    harness.ok("detach", "clean", "--yes")
    harness.server.requests.clear()
    harness.execute("UPDATE articles SET body = 'POISON' WHERE id = 1234")
    harness.server.poison = "POISON"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert harness.count("store") == 2999
    assert [failure["key"] for failure in listed(harness)] == [{"id": 1234}]
    assert len(harness.server.requests) <= without + 40


@pytest.mark.parametrize("when", ["IMMEDIATE", "DEFERRED"])
def test_row_whose_vector_a_trigger_of_the_application_rejects_fails_alone(harness: Harness, when: str) -> None:
    """A deferred trigger raises at the commit."""
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body", "--store", "column")
    harness.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 2 THEN RAISE EXCEPTION 'not this one'; END IF;
            RETURN NULL;
        END $$""")
    harness.execute(f"""
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON articles DEFERRABLE INITIALLY {when}
        FOR EACH ROW EXECUTE FUNCTION refuse()""")
    harness.once()
    (failure,) = json.loads(harness.ok("failures", "list", "articles", "--json"))
    assert (failure["key"], failure["error"]) == ({"id": 2}, "PostgreSQL: not this one")
    assert harness.rows("SELECT id FROM articles WHERE embedding IS NOT NULL ORDER BY id") == [(1,), (3,)]
