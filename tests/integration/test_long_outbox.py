"""A long outbox is compacted before it is read: one embedding a key, and nothing is lost."""

import asyncio
import threading
from contextlib import suppress

import psycopg
import pytest
from harness import LAYOUTS, Harness, both_versions, eventually, versions_and_layouts

from pg_qwen_embed.postgres.connection import connect_async
from pg_qwen_embed.postgres.store import Store

ROWS, CHANGES = 600, 8  # more than a page of keys, more than a page of entries after it


def compact(harness: Harness, in_flight: set[int] | None = None, parts: int = 1) -> list[tuple[int, int, int]]:
    """Compact the outbox as the worker does: what went, what came and the last entry, for each part of the keys."""

    async def work() -> list[tuple[int, int, int]]:
        store = Store(harness.embedding().target, 0)
        async with await connect_async(harness.url, "compact") as connection:
            return [await store.compact_outbox(connection, in_flight or set(), part, parts) for part in range(parts)]

    return asyncio.run(work())


def change_all(harness: Harness, n: int) -> None:
    harness.execute("UPDATE articles SET body = id || ' after change ' || %s", n)


@versions_and_layouts
def test_a_backlog_costs_one_embedding_for_each_key(harness: Harness, layout: str) -> None:
    harness.articles(*[f"start {n}" for n in range(ROWS)])
    harness.ok("attach", "articles", "--text", "body", "--no-backfill", *LAYOUTS[layout])
    for n in range(CHANGES):
        change_all(harness, n)
    harness.execute("DELETE FROM articles WHERE id % 10 = 0")
    harness.once()
    assert sorted(harness.server.texts) == sorted(
        f"{n} after change {CHANGES - 1}" for n in range(1, ROWS + 1) if n % 10
    )
    harness.assert_in_step()
    assert harness.count("outbox") == 0


def test_a_burst_under_a_running_worker_costs_one_embedding_for_each_key(harness: Harness) -> None:
    harness.articles(*[f"start {n}" for n in range(ROWS)])
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    worker = harness.worker("--log-level", "debug")
    eventually(lambda: harness.settled() and "index_ready" in worker.said)
    with harness.connection.transaction():
        for n in range(CHANGES):
            change_all(harness, n)
    eventually(harness.settled)
    assert len(harness.server.texts) == len(set(harness.server.texts)) == ROWS
    assert "outbox_compacted" in worker.said
    harness.assert_in_step()


@both_versions
@pytest.mark.parametrize("key", ["bigint", "text", "numeric", "numeric, lang text"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.long
def test_a_compaction_leaves_one_entry_of_each_key_and_every_truncate(harness: Harness, key: str, parts: int) -> None:
    harness.execute(f"CREATE TABLE articles (id {key}, body text)")
    columns = "id, lang" if "lang" in key else "id"
    harness.execute(f"ALTER TABLE articles ADD PRIMARY KEY ({columns})")
    harness.ok("attach", "articles", "--text", "body")
    for n in range(3):
        harness.execute(
            f"INSERT INTO articles ({columns}, body) SELECT i{', i' * ('lang' in key)}, {n} FROM generate_series(1, 20) i"
        )
        harness.execute("UPDATE articles SET body = body || 'x' WHERE id::int > 5")
        harness.execute("TRUNCATE articles")
    outbox = harness.internal("outbox")
    keys = ", ".join(f"k{n}" for n in range(1, 3 if "lang" in key else 2))
    highest = harness.value(f"SELECT max(seq) FROM {outbox}")
    truncates = harness.rows(f"SELECT seq FROM {outbox} WHERE k1 IS NULL")
    oldest = harness.value(f"SELECT min(changed_at) FROM {outbox}")
    done = compact(harness, parts=parts)
    assert sum(removed for removed, *_ in done) == 3 * (20 + 15)
    assert (
        harness.value(f"SELECT count(*) FROM (SELECT {keys} FROM {outbox} WHERE seq > {highest} GROUP BY {keys}) k")
        == 20
    )
    assert sorted(harness.rows(f"SELECT seq FROM {outbox} WHERE seq <= {highest}")) == sorted(truncates)
    assert harness.value(f"SELECT min(changed_at) FROM {outbox}") == oldest  # the lag is not forgotten
    harness.once()
    harness.assert_in_step()


def test_a_compaction_leaves_what_is_in_flight_and_what_has_one_entry(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    for n in range(3):
        change_all(harness, n)
    harness.execute("INSERT INTO articles VALUES (3, 'three')")
    rows = harness.rows(f"SELECT k1, seq FROM {harness.internal('outbox')} ORDER BY k1, seq")
    first, second, third = ([seq for key, seq in rows if key == wanted] for wanted in (1, 2, 3))
    ((removed, appended, last),) = compact(harness, in_flight={first[0], second[1], second[2]})
    left = [seq for (seq,) in harness.rows(f"SELECT seq FROM {harness.internal('outbox')} ORDER BY seq")]
    assert (removed, appended) == (2, 1)
    assert left == [*sorted([first[0], *second, *third]), last]


def test_a_compaction_spares_what_is_not_committed_and_what_is_rolled_back(harness: Harness) -> None:
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = 'committed'")
    application = harness.connect(autocommit=False)
    application.execute("UPDATE articles SET body = 'open' WHERE id = 1")
    assert compact(harness) == [(0, 0, 0)]
    application.rollback()
    harness.once()
    assert sorted(harness.server.texts) == ["committed"]
    harness.assert_in_step()


def test_compactions_while_eight_writers_change_the_same_rows_lose_no_change(harness: Harness) -> None:
    harness.articles(*[f"start {n}" for n in range(40)])
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(harness.settled)

    def write(writer: int) -> None:
        connection = harness.connect(autocommit=False)
        for n in range(40):
            connection.execute(
                "UPDATE articles SET body = %s WHERE id = %s", [f"{writer} {n}", 1 + (n * 7 + writer) % 40]
            )
            if n % 10 == 9:
                connection.execute("DELETE FROM articles WHERE id = %s", [1 + writer])
                connection.execute("INSERT INTO articles VALUES (%s, 'again')", [1 + writer])
            connection.rollback() if n % 5 == 4 else connection.commit()

    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in writers:
        thread.start()
    while any(thread.is_alive() for thread in writers):
        with suppress(psycopg.errors.DeadlockDetected):  # it does not know what the worker has in flight
            compact(harness)
    for thread in writers:
        thread.join()
    eventually(harness.settled)
    assert worker.popen.poll() is None
    harness.assert_in_step()
