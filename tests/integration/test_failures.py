"""Documents the server refuses: isolated, kept, retried, parked, handled by hand."""

import json
import random

import pytest
from harness import Rig, eventually

from pg_qwen_embed.domain import retry


@pytest.fixture
def failed(rig: Rig) -> Rig:
    """Three rows, the second of them refused."""
    rig.articles("one", "poison two", "three")
    rig.server.poison = "poison"
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    return rig


def listed(rig: Rig) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(rig.ok("failures", "list", "articles", "--json"))
    return found


def test_rows_that_share_a_refused_text_are_failures_each_and_one_line_in_the_log(rig: Rig) -> None:
    rig.articles(*["poison"] * 300, "fine")
    rig.server.poison = "poison"
    rig.ok("attach", "articles", "--text", "body")
    worker = rig.worker()
    eventually(lambda: rig.count("failure") == 300)
    eventually(rig.settled)
    assert worker.said.count("document_refused") < 10
    assert len([r for r in rig.server.requests if r["input"] == ["poison"]]) < 10


def test_refused_document_is_kept_with_the_sentence_of_the_server(failed: Rig) -> None:
    (failure,) = listed(failed)
    assert failure["key"] == {"id": 2}
    assert failure["attempts"] == 1
    assert "longer than the model's context length" in str(failure["error"])
    assert failure["next_attempt_at"] is not None
    assert failed.count("store") == 2
    assert "id=2  1 attempts, again at " in failed.ok("failures", "list", "articles")


def test_failure_is_tried_again_when_its_time_has_come(failed: Rig) -> None:
    failed.server.poison = None
    failed.execute(f"UPDATE {failed.machinery('failure')} SET next_attempt_at = now()")
    failed.once()
    assert listed(failed) == []
    failed.assert_in_step()


def test_failure_that_is_refused_again_counts_its_attempts_and_is_parked_at_last(failed: Rig) -> None:
    failed.execute(f"UPDATE {failed.machinery('failure')} SET next_attempt_at = now(), attempts = {retry.ATTEMPTS - 2}")
    failed.once()
    assert [(f["attempts"], f["next_attempt_at"] is None) for f in listed(failed)] == [(retry.ATTEMPTS - 1, False)]
    failed.execute(f"UPDATE {failed.machinery('failure')} SET next_attempt_at = now()")
    failed.once()
    assert [(f["attempts"], f["next_attempt_at"] is None) for f in listed(failed)] == [(retry.ATTEMPTS, True)]
    assert "parked" in failed.ok("failures", "list", "articles")


def test_newer_change_of_the_row_supersedes_its_failure(failed: Rig) -> None:
    failed.execute("UPDATE articles SET body = 'harmless' WHERE id = 2")
    failed.once()
    assert listed(failed) == []
    failed.assert_in_step()


def test_newer_change_that_is_refused_too_starts_counting_again(failed: Rig) -> None:
    failed.execute(f"UPDATE {failed.machinery('failure')} SET attempts = 5")
    failed.execute("UPDATE articles SET body = 'other poison' WHERE id = 2")
    failed.once()
    assert [f["attempts"] for f in listed(failed)] == [1]


@pytest.mark.parametrize("change", ["DELETE FROM articles WHERE id = 2", "UPDATE articles SET body = ' ' WHERE id = 2"])
def test_failure_goes_with_its_document(failed: Rig, change: str) -> None:
    failed.execute(change)
    failed.once()
    assert listed(failed) == []


def test_running_worker_retries_what_is_asked_for(failed: Rig) -> None:
    failed.execute(f"UPDATE {failed.machinery('failure')} SET next_attempt_at = NULL")
    failed.worker("--poll", "0")
    eventually(lambda: "lead and read" in failed.ok("status", "articles"))
    failed.server.poison = None
    assert failed.ok("failures", "retry", "articles", "--key", "2") == "articles: 1 to be tried again\n"
    eventually(lambda: listed(failed) == [])
    failed.assert_in_step()


def test_discarded_failure_is_forgotten_and_not_tried_again(failed: Rig) -> None:
    assert failed.ok("failures", "discard", "articles", "--key", "3") == "articles: 0 discarded\n"
    assert failed.ok("failures", "discard", "articles") == "articles: 1 discarded\n"
    failed.server.poison = None
    failed.once()
    assert failed.count("store") == 2


def test_key_of_the_wrong_length_is_refused(failed: Rig) -> None:
    said = failed.refused("failures", "retry", "articles", "--key", "1", "--key", "2")
    assert said == "the key of articles is (id): give --key 1 time"


def test_pauses_grow_and_end() -> None:
    longest = [retry.backoff(n, base=10, cap=3600, rng=_Highest()) for n in range(1, 12)]
    assert longest[:4] == [10, 20, 40, 80]
    assert longest[-1] == 3600
    assert retry.decide(retry.ATTEMPTS, random.Random(1)) == retry.Park()
    assert isinstance(retry.decide(retry.ATTEMPTS - 1, random.Random(1)), retry.RetryAfter)


class _Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def test_one_refused_document_among_three_thousand_costs_few_requests(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    rig.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(1, 3000) n")
    rig.ok("attach", "articles", "--text", "body", "--name", "clean")
    rig.once()
    without = len(rig.server.requests)
    rig.ok("detach", "clean", "--yes")
    rig.server.requests.clear()
    rig.execute("UPDATE articles SET body = 'POISON' WHERE id = 1234")
    rig.server.poison = "POISON"
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    assert rig.count("store") == 2999
    assert [failure["key"] for failure in listed(rig)] == [{"id": 1234}]
    assert len(rig.server.requests) <= without + 40


@pytest.mark.parametrize("when", ["IMMEDIATE", "DEFERRED"])
def test_row_whose_vector_a_trigger_of_the_application_refuses_fails_alone(rig: Rig, when: str) -> None:
    """A deferred one speaks at the commit."""
    rig.articles("one", "two", "three")
    rig.ok("attach", "articles", "--text", "body", "--store", "column")
    rig.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 2 THEN RAISE EXCEPTION 'not this one'; END IF;
            RETURN NULL;
        END $$""")
    rig.execute(f"""
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON articles DEFERRABLE INITIALLY {when}
        FOR EACH ROW EXECUTE FUNCTION refuse()""")
    rig.once()
    (failure,) = json.loads(rig.ok("failures", "list", "articles", "--json"))
    assert (failure["key"], failure["error"]) == ({"id": 2}, "PostgreSQL: not this one")
    assert rig.rows("SELECT id FROM articles WHERE embedding IS NOT NULL ORDER BY id") == [(1,), (3,)]
