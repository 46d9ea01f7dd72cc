"""What bypassed the triggers is found by its fingerprint, and repaired."""

import asyncio
import re
import threading
from typing import Any

import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed.admin import status
from pg_qwen_embed.domain.version import READS
from pg_qwen_embed.postgres import drift
from pg_qwen_embed.postgres.connection import connect_async
from pg_qwen_embed.postgres.store import Store


@pytest.fixture
def drifted(harness: Harness, request: pytest.FixtureRequest) -> Harness:
    """Of 1,200 rows one vector is missing, one stale and one orphaned; a blank row is as it should be."""
    harness.execute("CREATE TABLE articles (lang text, id int, body text, PRIMARY KEY (lang, id))")
    harness.execute("INSERT INTO articles SELECT 'de', n, 'text ' || n FROM generate_series(1, 1200) n")
    harness.ok("attach", "articles", "--text", "body", "--store", getattr(request, "param", "table"))
    harness.once()
    harness.bypass(
        "INSERT INTO articles VALUES ('zh', 1, 'new'), ('zh', 2, ' ')",
        "UPDATE articles SET body = 'other' WHERE id = 700",
        "DELETE FROM articles WHERE id = 1100",
    )
    return harness


@both_versions
@pytest.mark.parametrize("drifted", ["table", "column"], indirect=True)
def test_verify_repair_enqueues_exactly_what_has_drifted(drifted: Harness) -> None:
    assert drifted.drift() == (1, {"missing": 1, "stale": 1, "orphaned": 1})
    said = drifted.ok("verify", "articles", "--repair")
    assert said == "articles: 1 missing, 1 stale, 1 orphaned\nenqueued: 2 missing or stale, 1 orphaned\n"
    assert drifted.count("outbox") == 3
    asked = len(drifted.server.texts)
    drifted.once()
    assert sorted(drifted.server.texts[asked:]) == ["new", "other"]
    drifted.assert_in_step()
    assert drifted.ok("verify", "articles", "--repair").endswith("enqueued: 0 missing or stale, 0 orphaned\n")


def test_sleeping_worker_is_woken_by_a_repair(drifted: Harness) -> None:
    drifted.worker("--poll", "0")
    eventually(lambda: "leader pg_qwen" in drifted.ok("status", "articles"))
    drifted.ok("verify", "articles", "--repair")
    eventually(lambda: drifted.drift()[0] == 0)


def test_worker_repairs_by_itself_when_asked_to(drifted: Harness) -> None:
    drifted.worker("--poll", "0", "--verify-every", "0.1")
    eventually(lambda: drifted.drift()[0] == 0, deadline=30)


def test_row_that_is_being_changed_is_left_to_its_own_change(drifted: Harness) -> None:
    with drifted.connect(autocommit=False) as writer:
        writer.execute("UPDATE articles SET body = 'newest' WHERE id = 700")
        said = drifted.cli("verify", "articles", "--repair")
        assert "enqueued: 1 missing or stale, 1 orphaned" in said.stdout
        assert (said.exit_code, "other sessions have 1 rows locked" in said.stderr) == (1, True)
        drifted.once()
        writer.commit()
    drifted.once()
    drifted.assert_in_step()


def test_row_that_is_locked_for_a_moment_is_waited_for(drifted: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker locks a row whose vector stands in it."""
    with drifted.connect(autocommit=False) as writer:
        writer.execute("SELECT FROM articles WHERE id = 700 FOR UPDATE")
        slept = asyncio.sleep

        async def until_free(seconds: float) -> None:
            if seconds:
                writer.rollback()
            await slept(seconds)

        monkeypatch.setattr("pg_qwen_embed.postgres.drift.asyncio.sleep", until_free)
        assert drifted.ok("verify", "articles", "--repair").endswith("enqueued: 2 missing or stale, 1 orphaned\n")
    assert drifted.count("outbox") == 3


def test_row_that_is_locked_and_not_changed_is_found_by_the_next_look(drifted: Harness) -> None:
    with drifted.connect(autocommit=False) as writer:
        writer.execute("SELECT FROM articles WHERE id = 700 FOR UPDATE")
        assert drifted.cli("verify", "articles", "--repair").exit_code == 1
    drifted.ok("verify", "articles", "--repair")
    drifted.once()
    drifted.assert_in_step()


def test_repair_beside_writers_leaves_everything_in_step(drifted: Harness) -> None:
    drifted.worker("--poll", "0.2")

    def write() -> None:
        with drifted.connect() as writer:
            for n in range(200):
                writer.execute("UPDATE articles SET body = %s WHERE id = %s", (f"changed {n}", 1 + n % 50))

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(3):
        drifted.cli("verify", "articles", "--repair")
    writer.join()
    eventually(lambda: drifted.settled() and drifted.drift()[0] == 0)
    drifted.assert_in_step()


def test_rejected_documents_are_not_enqueued_again_by_a_repair(harness: Harness) -> None:
    harness.articles("one", "POISON")
    harness.server.poison = "POISON"
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    assert "enqueued: 0 missing or stale" in harness.ok("verify", "articles", "--repair")


@both_versions
@pytest.mark.parametrize(
    ("harm", "missing"),
    [
        ("ALTER TABLE articles DISABLE TRIGGER USER", 5),
        ("ALTER TABLE articles ENABLE REPLICA TRIGGER qwen_embed_update_1", 1),
        ("ALTER TABLE articles ENABLE TRIGGER USER", 5),  # no longer in a session of a replica
        ("DROP TRIGGER qwen_embed_delete_1 ON articles", 1),
        (
            "CREATE OR REPLACE FUNCTION _qwen_embed.follow_update_1() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RETURN NULL; END'",
            1,
        ),
    ],
)
@pytest.mark.long
def test_harmed_triggers_are_reported_by_status_and_made_anew_by_a_repair(
    harness: Harness, harm: str, missing: int
) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    before = sorted(row for row in harness.catalog() if row[0] == "trigger")
    harness.execute(harm)
    assert f"warning: {missing} of its 5 triggers are missing, disabled or out of date" in harness.ok(
        "status", "articles"
    )
    harness.ok("verify", "articles", "--repair")
    assert "warning" not in harness.ok("status", "articles")
    assert sorted(row for row in harness.catalog() if row[0] == "trigger") == before
    harness.execute("UPDATE articles SET body = 'two'")
    harness.execute("INSERT INTO articles VALUES (2, 'three')")
    harness.once()
    harness.assert_in_step()


def test_before_trigger_added_later_is_reported_by_status_and_followed_after_a_repair(harness: Harness) -> None:
    harness.articles("text")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("CREATE FUNCTION count_views() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN NEW.body := 'seen ' || NEW.views; RETURN NEW; END $$")  # fmt: skip
    harness.execute("CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION count_views()")
    assert "warning: 2 of its 5 triggers are missing, disabled or out of date" in harness.ok("status", "articles")
    harness.ok("verify", "articles", "--repair")
    assert "warning" not in harness.ok("status", "articles")
    harness.execute("UPDATE articles SET views = 7")
    harness.once()
    assert [text for text, _ in harness.vectors()] == ["seen 7"]


def test_old_transaction_that_holds_vacuum_back_is_named_by_status(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with harness.connect(autocommit=False, application_name="a report") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("TABLE articles")
        assert "warning" not in harness.ok("status", "articles")
        monkeypatch.setattr(status, "OLD_TRANSACTION", 0.0)
        said = harness.ok("status", "articles")
        assert re.search(r"\(a report\), in a transaction for \d+ s, keeps vacuum from the outbox", said)


@pytest.mark.parametrize("store", ["table", "column"])
def test_orphan_whose_row_comes_back_while_it_is_removed_keeps_its_new_vector(harness: Harness, store: str) -> None:
    """The repair's entry is drawn after the writer's, and read before the writer commits."""
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.once()
    harness.bypass("DELETE FROM articles WHERE id = 2")
    with harness.connect(autocommit=False) as writer:
        writer.execute("INSERT INTO articles (id, body) VALUES (2, 'back again')")
        harness.ok("verify", "articles", "--repair")
        following = Store(harness.embedding().target, harness.value("SELECT 'halfvec'::regtype::oid::int"))

        async def follow_too_early() -> None:
            async with await connect_async(harness.url, "test") as connection:
                version = await following.begin_term(connection) * READS
                page = await following.read_outbox(
                    connection, version=version, after=0, in_flight=set(), entries=10, keys=10
                )
                assert [(change.key, change.here) for change in page.changes] == [((2,), False)]
                writer.commit()
                await following.clear(connection, page.changes)

        asyncio.run(follow_too_early())
    harness.once()
    harness.assert_in_step()


def test_table_that_is_altered_again_while_its_rows_are_compared_is_compared_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    compare, compared = drift.repair, []

    def changed() -> None:
        harness.bypass("UPDATE articles SET body = upper(body)")
        harness.execute("UPDATE _qwen_embed.generation SET check_drift = true; NOTIFY qwen_embed, 'registry'")

    async def altered_meanwhile(*arguments: Any, **options: Any) -> drift.Repaired:
        done = await compare(*arguments, **options)
        compared.append(done)
        if len(compared) == 1:
            await asyncio.to_thread(changed)
        return done

    monkeypatch.setattr(drift, "repair", altered_meanwhile)
    with harness.worker_here(poll=0.2):
        eventually(harness.settled)
        harness.ok("alter", "articles", "--sql", "SELECT 1")
        eventually(lambda: len(compared) == 2)
        eventually(lambda: harness.drift()[0] == 0)
        eventually(harness.settled)
    assert {text for text, _ in harness.vectors()} == {"ONE", "TWO"}
    harness.assert_in_step()
