"""Rows that PostgreSQL cannot write or read: each becomes a failure, and no other row waits for it."""

import json
from typing import Any

import pytest
from harness import Harness, eventually

from pg_qwen_embed.worker.options import Limits

ROWS = 200  # in one batch
LEADER = (
    "SELECT pid, backend_start FROM pg_stat_activity WHERE application_name = 'pg_qwen_embed worker: lead and read'"
)


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
def test_a_key_that_its_domain_has_come_to_reject_has_its_vector(
    harness: Harness, options: list[str], live: bool
) -> None:
    harness.execute("CREATE DOMAIN number AS bigint")
    fill(harness, "id number PRIMARY KEY")
    harness.ok("attach", "articles", "--text", "body", *options, *(["--no-backfill"] if live else []))
    if live:
        harness.execute("UPDATE articles SET body = body || '.'")
    harness.execute("ALTER DOMAIN number ADD CHECK (value <> 77) NOT VALID")
    harness.once()
    assert [*failures(harness)] == []
    assert harness.count("store") == ROWS
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
            and harness.rows(
                "SELECT 1 FROM qwen_embed.articles JOIN articles USING (id) WHERE body = 'another' AND NOT stale"
            )
        )
    )
    assert worker.said.count("row_held_back") == 1
    assert worker.said.count("write_failed") < 10
    assert worker.end() == 0
    assert "stopped_early" not in worker.said


# Reads


@pytest.mark.superuser
@pytest.mark.parametrize("options", [[], ["--store", "column"], ["--chunk-tokens", "64"]])
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.long
def test_documents_that_are_not_utf8_fail_and_the_others_have_their_vectors(
    harness: Harness, options: list[str], live: bool
) -> None:
    harness.execute("CREATE CAST (bytea AS text) WITHOUT FUNCTION")
    fill(harness)
    bad = [1, 77, 78, ROWS]
    followed(harness, *options, live=live)
    harness.execute(r"UPDATE articles SET body = '\xff41'::bytea::text WHERE id = ANY (%s)", bad)
    harness.once()
    found = failures(harness)
    assert sorted(found) == bad
    assert all("not UTF-8" in sentence for sentence in found.values())
    assert harness.count("outbox") == 0
    assert harness.value("SELECT count(*) FROM qwen_embed.articles") == ROWS - len(bad)
    harness.execute("UPDATE articles SET body = 'good' WHERE id = 77")
    harness.execute(f"UPDATE {harness.internal('failure')} SET next_attempt_at = now()")
    harness.once()
    assert sorted(failures(harness)) == [1, 78, ROWS]
    harness.execute("UPDATE articles SET body = 'good' WHERE id = ANY (%s)", bad)
    harness.once()
    harness.assert_in_step()


def test_a_document_whose_text_raises_an_error_fails_alone_and_a_repair_goes_on(harness: Harness) -> None:
    """As a JSON value of 75 kB does whose text has more than 1 GB; this one is quicker."""
    harness.execute("CREATE TYPE size AS ENUM ('small', 'huge')")
    harness.execute("""
        CREATE FUNCTION text_of(size) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF $1 = 'huge' THEN RAISE 'too large' USING ERRCODE = 'program_limit_exceeded'; END IF;
            RETURN enum_out($1); END $$""")
    harness.execute("CREATE CAST (size AS text) WITH FUNCTION text_of(size) AS ASSIGNMENT")
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body size)")
    harness.ok("attach", "articles", "--text", "body")
    by_cast(harness)
    harness.execute(f"""
        INSERT INTO articles SELECT n, (CASE n WHEN 7 THEN 'huge' ELSE 'small' END)::size
        FROM generate_series(1, {ROWS}) n""")
    harness.once()
    assert failures(harness) == {7: "PostgreSQL: too large"}
    assert harness.count("store") == ROWS - 1
    harness.execute(f"UPDATE {harness.internal('failure')} SET next_attempt_at = NULL")
    harness.execute(f"DELETE FROM {harness.internal('store')} WHERE k1 = {ROWS}")
    result = harness.cli("verify", "articles")
    assert result.exit_code == 1
    assert "articles: 1 missing, 0 stale, 0 orphaned" in result.stdout
    assert "cannot read the documents of 1 rows; run: pg-qwen-embed verify articles --repair" in result.stdout
    said = harness.ok("verify", "articles", "--repair")
    assert "enqueued: 2 missing or stale" in said
    assert "cannot read the documents of 1 rows" in said
    harness.once()
    assert harness.count("store") == ROWS - 1
    assert [*failures(harness)] == [7]


@pytest.mark.parametrize(
    ("options", "live"), [([], False), (["--store", "column"], True), (["--chunk-tokens", "64"], False)]
)
@pytest.mark.long
def test_a_document_whose_text_takes_too_long_fails_alone_and_no_session_is_lost(
    harness: Harness, options: list[str], live: bool
) -> None:
    """As a JSON value of 75 kB does whose text has nearly 1 GB, on a slow machine."""
    harness.execute("CREATE TYPE size AS ENUM ('small', 'huge')")
    harness.execute("""
        CREATE FUNCTION size_text(size) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF $1 = 'huge' THEN PERFORM pg_sleep(100); END IF;
            RETURN enum_out($1); END $$""")
    harness.execute("CREATE CAST (size AS text) WITH FUNCTION size_text(size) AS ASSIGNMENT")
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body size)")
    harness.ok("attach", "articles", "--text", "body", *options, *(["--no-backfill"] if live else []))
    by_cast(harness)
    fill = f"""INSERT INTO articles SELECT n, (CASE n WHEN 7 THEN 'huge' ELSE 'small' END)::size
               FROM generate_series(1, {ROWS}) n"""
    if live:
        harness.execute(fill)
    else:
        harness.bypass(fill)
    with harness.worker_here(limits=Limits(longest_read=0.5)):
        (leader,) = eventually(lambda: harness.rows(LEADER))
        eventually(lambda: failures(harness) == {7: "its text took PostgreSQL more than 0.5 s"})
        eventually(lambda: harness.count("store") == ROWS - 1)
        eventually(harness.settled)
        assert harness.rows(LEADER) == [leader]
    assert harness.count("outbox") == 0


@pytest.mark.parametrize("options", [[], ["--store", "column"], ["--chunk-tokens", "64"]])
def test_drift_is_counted_around_the_documents_that_cannot_be_read(harness: Harness, options: list[str]) -> None:
    """The rows span several pages. What is wrong with the others is counted as without the bad ones."""
    harness.execute("CREATE TYPE size AS ENUM ('small', 'other', 'huge')")
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body size)")
    harness.execute("INSERT INTO articles SELECT n, 'small' FROM generate_series(1, 1100) n")
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()
    store = harness.internal("store")
    harness.bypass(
        "UPDATE articles SET body = 'other' WHERE id IN (2, 600)",
        "UPDATE articles SET body = NULL WHERE id = 1100",
        "DELETE FROM articles WHERE id IN (5, 700)",
        f"DELETE FROM {store} WHERE k1 IN (3, 500, 501)",
    )
    assert harness.drift() == (1, {"missing": 3, "stale": 3, "orphaned": 2})
    harness.execute("""
        CREATE FUNCTION text_of(size) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF $1 = 'huge' THEN RAISE 'too large' USING ERRCODE = 'program_limit_exceeded'; END IF;
            RETURN enum_out($1); END $$""")
    bad = (1, 500, 1000)
    harness.bypass(f"UPDATE articles SET body = 'huge' WHERE id IN {bad}")
    oid = "(SELECT oid FROM pg_cast WHERE castsource = 'size'::regtype AND casttarget = 'text'::regtype)"
    assert harness.rows(f"SELECT {oid}") == [(None,)]
    # The document function is made again with the cast, as a release would.
    harness.execute("CREATE CAST (size AS text) WITH FUNCTION text_of(size) AS ASSIGNMENT")
    by_cast(harness)
    counted = {"missing": 2, "stale": 3, "orphaned": 2}  # 500 is missing, and cannot be read
    assert harness.drift() == (1, counted | {"unreadable": len(bad)})


def by_cast(harness: Harness) -> None:
    """Let a cast make the documents, as an earlier release did: it stands for a value whose text is hard to make."""
    generation = harness.embedding().live.id
    harness.execute(f"""
        CREATE OR REPLACE FUNCTION _qwen_embed.document_{generation}(body size) RETURNS text
        LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC SELECT body::text; END""")


def test_an_error_of_every_read_makes_no_failure(harness: Harness) -> None:
    fill(harness)
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(harness.settled)
    harness.execute(f"ALTER TABLE {harness.internal('failure')} RENAME COLUMN version TO another")
    harness.execute("UPDATE articles SET body = 'another' WHERE id = 1")
    eventually(lambda: "read_failed" in worker.said)
    harness.execute(f"ALTER TABLE {harness.internal('failure')} RENAME COLUMN another TO version")
    eventually(harness.settled)
    assert failures(harness) == {}
    harness.assert_in_step()
