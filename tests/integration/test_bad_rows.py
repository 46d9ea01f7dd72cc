"""Rows that PostgreSQL cannot write or read: each becomes a failure, and no other row waits for it."""

import json
from typing import Any

import pytest
from harness import Harness, eventually

ROWS = 200  # in one batch


def failures(harness: Harness, name: str = "articles") -> dict[Any, str]:
    """The sentence of each failure, by the first column of its key."""
    found = json.loads(harness.ok("failures", "list", name, "--json"))
    return {next(iter(one["key"].values())): one["error"] for one in found}


def fill(harness: Harness, key: str = "id bigint PRIMARY KEY") -> None:
    harness.execute(f"CREATE TABLE articles ({key}, body text)")
    harness.execute(f"INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(1, {ROWS}) n")


def followed(harness: Harness, *options: str, live: bool) -> None:
    """Attach the filled table; the rows come by a backfill, or each by its entry of the outbox."""
    harness.ok("attach", "articles", "--text", "body", *options, *(["--no-backfill"] if live else []))
    if live:
        harness.execute("UPDATE articles SET body = body || '.'")


# Writes


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    "refusal",
    [
        "IF NEW.id = 77 THEN RAISE EXCEPTION 'not this one' USING ERRCODE = 'XX000'; END IF",
        "IF NEW.id = 77 THEN PERFORM no_such_function(); END IF",  # class 42, as of a privilege
        "IF NEW.id = 77 THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '72000'; END IF",
    ],
)
def test_a_row_whose_write_fails_for_any_reason_fails_alone(harness: Harness, refusal: str, live: bool) -> None:
    fill(harness)
    followed(harness, "--store", "column", live=live)
    harness.execute(
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refusal}; RETURN NEW; END $$"
    )
    harness.execute("CREATE TRIGGER refuse BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION refuse()")
    harness.once()
    ((key, sentence),) = failures(harness).items()
    assert key == 77
    assert sentence.startswith("PostgreSQL: ")
    assert harness.value("SELECT count(*) FROM articles WHERE embedding IS NOT NULL") == ROWS - 1
    assert harness.count("outbox") == 0
    harness.execute("DROP TRIGGER refuse ON articles")
    harness.ok("failures", "retry", "articles")
    harness.once()
    harness.assert_in_step()


def test_an_error_that_no_row_causes_makes_no_failure(harness: Harness) -> None:
    """A statement trigger fires without rows too."""
    fill(harness)
    harness.ok("attach", "articles", "--text", "body", "--store", "column")
    harness.execute("""
        CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'closed for maintenance'; END $$""")
    harness.execute("CREATE TRIGGER closed BEFORE UPDATE ON articles FOR EACH STATEMENT EXECUTE FUNCTION closed()")
    worker = harness.worker()
    eventually(lambda: worker.said.count("closed for maintenance") > 2)
    assert failures(harness) == {}
    harness.execute("DROP TRIGGER closed ON articles")
    eventually(harness.settled)
    harness.assert_in_step()


@pytest.mark.parametrize("live", [True, False])
def test_a_key_that_fits_no_index_of_chunks_fails_alone(harness: Harness, live: bool) -> None:
    """A key of 2,692 bytes fits the source's index, and not one that has the chunk's number too."""
    fill(harness, "id text PRIMARY KEY")
    harness.execute("""
        INSERT INTO articles SELECT left(string_agg(sha512(n::text::bytea)::text, ''), 2692), 'long key'
        FROM generate_series(1, 40) n""")
    followed(harness, "--chunk-tokens", "64", live=live)
    harness.once()
    ((key, sentence),) = failures(harness).items()
    assert len(key) == 2692
    assert "index row size" in sentence
    assert harness.count("store") == ROWS


@pytest.mark.parametrize("options", [[], ["--store", "column"], ["--chunk-tokens", "64"]])
@pytest.mark.parametrize("live", [True, False])
def test_a_key_that_its_domain_has_come_to_reject_fails_alone(harness: Harness, options: list[str], live: bool) -> None:
    harness.execute("CREATE DOMAIN number AS bigint")
    fill(harness, "id number PRIMARY KEY")
    harness.ok("attach", "articles", "--text", "body", *options, *(["--no-backfill"] if live else []))
    if live:
        harness.execute("UPDATE articles SET body = body || '.'")
    harness.execute("ALTER DOMAIN number ADD CHECK (value <> 77) NOT VALID")
    harness.once()
    assert [*failures(harness)] == [77]
    assert harness.count("store") == ROWS - 1
    assert harness.count("outbox") == 0


def test_a_row_that_can_be_neither_written_nor_recorded_is_held_back_and_no_other_waits(harness: Harness) -> None:
    fill(harness)
    followed(harness, live=True)
    for kind in ("store", "failure"):
        harness.execute(f"ALTER TABLE {harness.internal(kind)} ADD CHECK (k1 <> 77)")
    worker = harness.worker()
    eventually(lambda: harness.count("store") == ROWS - 1)
    eventually(lambda: "row_held_back embedding=articles key=(77,)" in worker.said)
    assert harness.count("outbox") == 1
    harness.execute("UPDATE articles SET body = 'another' WHERE id = 78")
    eventually(
        lambda: (
            harness.count("outbox") == 1
            and harness.rows("SELECT 1 FROM qwen_embed.articles WHERE body = 'another' AND NOT stale")
        )
    )
    assert worker.said.count("row_held_back") == 1
    assert worker.said.count("write_failed") < 10
    assert worker.end() == 0
    assert "stopped_early" not in worker.said
