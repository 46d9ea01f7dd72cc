"""Waking: with `--poll 0` the worker trusts NOTIFY alone, so a wake-up lost is a change that waits for ever."""

import random
import threading
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.worker import session_locks

ROWS = 40
ROLLED_BACK = (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation)  # these roll back too


def gate_closed(harness: Harness) -> bool:
    """Whether the worker sleeps."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND mode = 'ExclusiveLock'"
    return bool(harness.value(query, int(Lock.GATE)))


class Writer(threading.Thread):
    """Random transactions on a table: savepoints, rollbacks, and commits that come long after their writes."""

    def __init__(self, harness: Harness, seed: int, transactions: int) -> None:
        super().__init__()
        self._connection = harness.connect(autocommit=False)
        self._rng = random.Random(seed)
        self._transactions = transactions
        self.committed = 0

    def run(self) -> None:
        for _ in range(self._transactions):
            with suppress(*ROLLED_BACK), self._connection.transaction():
                for _ in range(self._rng.choice([1, 1, 1, 2, 5])):
                    self._change()
                if self._rng.random() < 0.2:
                    self._connection.execute("SELECT pg_sleep(%s)", [self._rng.random() / 20])
                if self._rng.random() < 0.2:
                    raise psycopg.Rollback
                self.committed += 1

    def _change(self) -> None:
        with self._connection.transaction() as savepoint:
            key = self._rng.randint(1, ROWS)
            text = self._rng.choice([f"text {self._rng.randint(1, 10**6)}"] * 8 + ["", " "])
            change: tuple[str, tuple[Any, ...]] = self._rng.choice(
                [
                    ("INSERT INTO articles (id, body) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                     (key, text)),
                    ("UPDATE articles SET body = %s WHERE id = %s", (text, key)),
                    ("UPDATE articles SET views = views + 1 WHERE id = %s", (key,)),
                    ("DELETE FROM articles WHERE id = %s", (key,)),
                    ("UPDATE articles SET id = -id WHERE abs(id) = %s", (key,)),
                ]
            )  # fmt: skip
            self._connection.execute(*change)
            if self._rng.random() < 0.1:
                raise psycopg.Rollback(savepoint)


@both_versions
@pytest.mark.parametrize("store", ["table", "column"])
@pytest.mark.long
def test_eight_writers_at_once_lose_no_change(harness: Harness, store: str) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    worker = harness.worker("--poll", "0")
    eventually(harness.settled)
    writers = [Writer(harness, seed, transactions=40) for seed in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sum(writer.committed for writer in writers) > 100
    eventually(harness.settled)
    harness.assert_in_step()
    assert worker.end() == 0


@pytest.mark.long
def test_a_sleeping_worker_hears_of_every_single_commit(harness: Harness) -> None:
    harness.articles("text")
    harness.ok("attach", "articles", "--text", "body")
    harness.worker("--poll", "0")
    eventually(harness.settled)
    outbox = harness.internal("outbox")
    for n in range(50):
        eventually(lambda: gate_closed(harness))
        harness.execute("UPDATE articles SET body = %s", f"text {n}")
        eventually(lambda: not harness.value(f"SELECT count(*) FROM {outbox}"))
    harness.assert_in_step()


def test_the_worker_does_not_sleep_while_a_writer_that_will_not_notify_is_in_flight(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    late = harness.connect(autocommit=False)
    harness.once()
    late.execute("UPDATE articles SET body = 'late' WHERE id = 1")  # no worker: the gate is open
    harness.worker("--poll", "0")
    harness.execute("UPDATE articles SET body = 'quick' WHERE id = 2")
    eventually(lambda: harness.count("outbox") == 0)
    assert not gate_closed(harness)
    late.commit()
    eventually(lambda: harness.drift()[0] == 0)
    eventually(lambda: gate_closed(harness))
    harness.assert_in_step()


def test_a_commit_between_the_last_look_and_the_closing_of_the_gate_is_seen(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    close_gates = session_locks.close_gates
    written = threading.Event()
    other = harness.connect()

    async def commit_first(connection: AsyncConnection, ids: list[int]) -> list[int]:
        if not written.is_set():
            written.set()
            other.execute("UPDATE articles SET body = 'in between'")  # finds the gate open: does not notify
        return await close_gates(connection, ids)

    monkeypatch.setattr(session_locks, "close_gates", commit_first)

    with harness.worker_here(poll=0):
        eventually(lambda: "in between" in harness.server.texts)
    harness.assert_in_step()


@both_versions
@pytest.mark.long
def test_an_entry_that_becomes_visible_late_is_found_while_the_worker_is_busy(harness: Harness) -> None:
    """The worker never sleeps here, so it never reads again from the beginning: only the sweep can find the entry."""
    harness.articles("late", "quick")
    harness.ok("attach", "articles", "--text", "body")
    with harness.worker_here(poll=0, linger=1e9, sweep=0.05):
        eventually(harness.settled)
        late = harness.connect(autocommit=False)
        late.execute("UPDATE articles SET body = 'came late' WHERE id = 1")  # draws the lower number
        for n in range(3):
            harness.execute("UPDATE articles SET body = %s WHERE id = 2", f"quick {n}")
            eventually(lambda n=n: f"quick {n}" in harness.server.texts)
        late.commit()
        eventually(lambda: "came late" in harness.server.texts)
        eventually(harness.settled)
    harness.assert_in_step()
