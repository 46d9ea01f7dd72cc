"""When the worker builds an index, when the index waits or gives way, and that searches are right without one."""

import json
import re

import pytest
from harness import LAYOUTS, Harness, both_versions, eventually, versions_and_layouts

from pg_qwen_embed.domain.report import INDEX_FROM
from pg_qwen_embed.worker import index_policy

INDEX = "_qwen_embed.store_1_hnsw"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog of a few hundred entries is large."""
    monkeypatch.setattr(index_policy, "SMALL_BACKLOG", 20)
    monkeypatch.setattr(index_policy, "DROP_BACKLOG", 300)


def state(harness: Harness) -> str:
    (one,) = json.loads(harness.ok("status", "articles", "--json"))
    return str(one["index"])


def number(harness: Harness, index: str = INDEX) -> int | None:
    """The oid of the index."""
    found: int | None = harness.value(f"SELECT to_regclass('{index}')::oid")
    return found


def add(harness: Harness, first: int, last: int) -> None:
    harness.execute(f"INSERT INTO articles SELECT i, 'article ' || i FROM generate_series({first}, {last}) i")


def indexed(harness: Harness, rows: int, *options: str) -> None:
    """A table whose rows have their vectors, and an index."""
    harness.articles(*[f"article {n}" for n in range(1, rows + 1)])
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()
    assert state(harness) == "valid"


@versions_and_layouts
@pytest.mark.long
def test_few_vectors_have_no_index_and_more_have_one(harness: Harness, layout: str) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    worker = harness.worker("--index-from", "5")
    eventually(lambda: harness.settled() and "index_not_needed" in worker.said)
    assert f"index none, not needed below {INDEX_FROM:,} vectors" in harness.ok("status")
    assert f"index none, not needed below {INDEX_FROM:,} vectors" in harness.ok("backfill", "articles")
    assert not [line for line in harness.cli("doctor").output.splitlines() if "index" in line and "ok" not in line]
    add(harness, 3, 6)
    eventually(lambda: state(harness) == "valid")
    assert "index valid" in harness.ok("status")
    harness.assert_in_step()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_searches_without_an_index_are_right(harness: Harness, layout: str) -> None:
    harness.articles(*[f"article {n}" for n in range(1, 41)])
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.ok("worker", "--once")
    assert state(harness) == "none"
    without = json.loads(harness.ok("search", "articles", "article 7", "--limit", "12", "--json"))
    assert without[0]["row"]["body"] == "article 7"
    assert len({hit["row"]["id"] for hit in without}) == 12
    harness.once()
    assert state(harness) == "valid"
    assert json.loads(harness.ok("search", "articles", "article 7", "--limit", "12", "--json")) == without


@both_versions
@pytest.mark.long
def test_an_index_of_few_vectors_gives_way_to_a_large_backlog_and_is_built_again(harness: Harness, small: None) -> None:
    indexed(harness, 50)
    before = number(harness)
    add(harness, 51, 650)
    with harness.worker_here():
        eventually(lambda: number(harness) is None)
        eventually(lambda: number(harness) and state(harness) == "valid" and harness.settled())
    assert number(harness) != before
    harness.assert_in_step()


def test_an_index_of_few_vectors_gives_way_to_a_backfill(harness: Harness, small: None) -> None:
    harness.articles(*[f"article {n}" for n in range(1, 601)])
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    add(harness, 1001, 1010)
    harness.once()
    before = number(harness)
    with harness.worker_here():
        eventually(harness.settled)
        with harness.server.hold(lambda texts: any(text.startswith("article 5") for text in texts)):
            harness.connection.execute("UPDATE _qwen_embed.backfill SET state = 'pending'")
            harness.execute("NOTIFY qwen_embed, 'registry'")
            eventually(lambda: number(harness) is None)
        eventually(lambda: number(harness) and state(harness) == "valid" and harness.settled())
    assert number(harness) != before
    harness.assert_in_step()


@pytest.mark.parametrize("made", ["by hand", "in the application's table", "for many vectors"])
@pytest.mark.long
def test_an_index_does_not_give_way(harness: Harness, small: None, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made by hand may have other parameters, and queries of the application may rest on the others."""
    column = made == "in the application's table"
    indexed(harness, 50, *(("--store", "column") if column else ()))
    index = "qwen_embed_store_1_hnsw" if column else INDEX
    if made == "by hand":
        harness.execute(f"DROP INDEX {index}")
        harness.execute(
            "CREATE INDEX store_1_hnsw ON _qwen_embed.store_1 USING hnsw (embedding halfvec_cosine_ops) WITH (m = 8)"
        )
    if made == "for many vectors":
        monkeypatch.setattr(index_policy, "DROP_VECTORS", 40)
    before = number(harness, index)
    add(harness, 51, 650)
    with harness.worker_here():
        eventually(harness.settled)
    assert number(harness, index) == before
    assert state(harness) == "valid"
    harness.assert_in_step()


def test_a_backlog_is_written_before_the_index_is_built_also_after_a_restart(
    harness: Harness, small: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pg_qwen_embed.worker")
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.ok("worker", "--once", "--index-from", "10")
    add(harness, 1, 400)
    for _ in range(2):  # a worker that is stopped, and the one after it
        caplog.clear()
        with (
            harness.server.hold(lambda texts: any(re.match(r"article [34]\d\d", text) for text in texts)),
            harness.worker_here(index_from=10, shutdown_timeout=0.0),
        ):
            eventually(lambda: "index_waits" in caplog.text)
            assert number(harness) is None
    harness.once()
    assert state(harness) == "valid"
    harness.assert_in_step()


def test_an_index_that_was_dropped_by_hand_is_built_again(harness: Harness) -> None:
    indexed(harness, 3)
    harness.worker()
    eventually(harness.settled)
    harness.execute(f"DROP INDEX {INDEX}")
    add(harness, 4, 5)
    eventually(lambda: state(harness) == "valid")


@pytest.mark.superuser  # it looks at the phase of the worker's build
@both_versions
def test_a_build_gives_way_to_a_statement_that_waits_for_its_lock(harness: Harness) -> None:
    """The statement has a snapshot, for whose end the build waits: one of the two would fail."""
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--store", "column")
    older = harness.connect()
    older.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    older.execute("SELECT")
    waiting = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE phase ~ 'waiting')"
    with harness.worker_here(index_pause=0.1):
        eventually(lambda: harness.value(waiting))
        harness.execute("ALTER TABLE articles ADD extra int")
        eventually(lambda: harness.value(waiting))
        older.execute("COMMIT")
        eventually(lambda: state(harness) == "valid")
