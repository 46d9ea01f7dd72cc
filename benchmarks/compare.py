"""Two checkouts of this project in one run, in turns: a backfill, the time from a commit to its vector, and doing nothing.

    python benchmarks/compare.py OLD NEW [--rounds 8] [--rows 40000] [--changes 480] [--embeddings 100]

OLD and NEW are folders of checkouts; both run in the environment of this Python. The server costs next to nothing. Each
checkout has a database of its own in one PostgreSQL, with the same rows. A backfill is `worker --once`, from the start of
the process to its end; an index of its name over no rows is there already, so none is built. A change is an UPDATE of one
row of 500, every 30 to 70 ms, until the view shows its new vector.

Prints a line of JSON for each figure: both medians, and the ratio NEW / OLD, the median of the rounds."""

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import harness
import psycopg
import texts
from psycopg.conninfo import make_conninfo

from pg_qwen_embed.postgres import embedded

DIMENSIONS = 1024
SETTLED = "SELECT count(*) FROM _qwen_embed.backfill WHERE state <> 'done'"
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
SETTLE = 25.0  # seconds until connections that are not needed are given back
IDLE = 30.0  # seconds
SMALL = 500  # rows


@dataclass
class Checkout:
    """One of the two, with its database."""

    name: str
    folder: Path
    url: str
    server: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def run(self, *arguments: str) -> harness.Ended:
        ended = harness.run([*arguments], self.environment)
        if ended.status:
            raise SystemExit(f"{self.folder}: {' '.join(arguments)} ended with {ended.status}")
        return ended

    @property
    def environment(self) -> dict[str, str]:
        # Safe path: or `python -m` would take the package of the current folder.
        own = {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}
        return own | harness.environment(self.url, self.server)

    @contextmanager
    def worker(self) -> Iterator[harness.Process]:
        with harness.started(["worker"], self.environment, "following ") as (process, _):
            yield harness.Process(process.pid)

    def note(self, figure: str, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)

    # What is compared.

    def backfill(self) -> None:
        self.run("attach", "documents", "--text", "body")
        with psycopg.connect(self.url, autocommit=True) as connection:
            (newest,) = connection.execute("SELECT max(id) FROM _qwen_embed.generation").fetchone() or (0,)
            connection.execute(
                f"CREATE INDEX store_{newest}_hnsw ON _qwen_embed.store_{newest} "
                "USING hnsw (embedding halfvec_cosine_ops) WHERE false"
            )
            connection.execute("CHECKPOINT")
        ended = self.run("worker", "--once")
        self.note("backfill seconds", ended.wall)
        self.note("backfill CPU seconds", ended.cpu)
        self.note("backfill peak MB", ended.peak_mb)
        self.run("detach", "documents", "--yes")

    def changes(self, number: int) -> None:
        self.run("attach", "small", "--text", "body")
        with self.worker(), psycopg.connect(self.url, autocommit=True) as connection:
            _until(connection, SETTLED, 0)
            took = [self._change(connection, n % SMALL + 1) for n in range(number)]
        self.note("change p50 ms", statistics.median(took))
        self.note("change p90 ms", statistics.quantiles(took, n=10)[8])
        self.run("detach", "small", "--yes")

    @staticmethod
    def _change(connection: psycopg.Connection, key: int) -> float:
        time.sleep(random.uniform(0.03, 0.07))
        connection.execute("UPDATE small SET body = body || ' x' WHERE id = %s", (key,))
        committed = time.perf_counter()
        while (connection.execute("SELECT stale FROM qwen_embed.small WHERE id = %s", (key,)).fetchone() or (True,))[0]:
            time.sleep(0.0003)
        return 1000 * (time.perf_counter() - committed)

    def idle(self, embeddings: int) -> None:
        names = [f"idle_{n}" for n in range(embeddings)]
        with psycopg.connect(self.url, autocommit=True) as connection:
            for name in names:
                connection.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, body text)")
                connection.execute(f"INSERT INTO {name} VALUES (1, 'one'), (2, 'two')")
        for name in names:
            self.run("attach", name, "--text", "body")
        with self.worker() as process:
            with psycopg.connect(self.url, autocommit=True) as connection:
                _until(connection, SETTLED, 0)
            time.sleep(SETTLE)
            before, cpu = self._transactions(), process.cpu
            time.sleep(IDLE)
            self.note("idle transactions a second", (self._transactions() - before) / IDLE)
            self.note("idle CPU ms a second", 1000 * (process.cpu - cpu) / IDLE)

    def _transactions(self) -> int:
        """As PostgreSQL counts them, asked from another database."""
        with psycopg.connect(make_conninfo(self.url, dbname="postgres")) as connection:
            (count,) = connection.execute(TRANSACTIONS, (self.name,)).fetchone() or (0,)
        return int(count)


def _until(connection: psycopg.Connection, query: str, value: int) -> None:
    while (connection.execute(query).fetchone() or (None,))[0] != value:
        time.sleep(0.1)


def prepare(url: str, checkouts: list[Checkout], rows: int) -> None:
    documents = list(texts.documents(rows))
    with psycopg.connect(url, autocommit=True) as connection:
        for one in checkouts:
            connection.execute(f"CREATE DATABASE {one.name}")
    for one in checkouts:
        one.run("init")
        one.run("worker", "--help")  # compiles its modules
        harness.load(one.url, documents)
        harness.load(one.url, documents[:SMALL], "small")


def report(old: Checkout, new: Checkout) -> None:
    for figure, values in new.figures.items():
        before = old.figures[figure]
        ratios = [b / a for a, b in zip(before, values, strict=True) if a]
        harness.report(
            figure, old=round(statistics.median(before), 3), new=round(statistics.median(values), 3),
            ratio=round(statistics.median(ratios), 3) if ratios else None, rounds=len(values),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--changes", type=int, default=480)
    parser.add_argument("--embeddings", type=int, default=100, help="with nothing to do; 0 leaves that part out")
    wanted = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling its modules is no part of a worker's work
    with harness.gpu(64, 0, 0, DIMENSIONS) as server, embedded.postgres() as url:
        both = [
            Checkout(name, folder.resolve(), make_conninfo(url, dbname=name), server)
            for name, folder in (("old", wanted.old), ("new", wanted.new))
        ]
        prepare(url, both, wanted.rows)
        for number in range(wanted.rounds):
            for one in both if number % 2 == 0 else both[::-1]:
                one.backfill()
                one.changes(wanted.changes // wanted.rounds)
        for one in both if wanted.embeddings else ():
            one.idle(wanted.embeddings)
        report(*both)


if __name__ == "__main__":
    main()
