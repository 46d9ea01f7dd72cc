"""Commit to visible: how long after the commit of one changed row its new vector is in the view.

    python benchmarks/freshness.py [--changes 500] [--rows 400000] [--dimensions 1024] [--rounds 2]

The server takes almost no time; what is left is the trigger, the notification, the worker and its statements. A change
is an UPDATE of the text of one row of a small table with an index, each its own transaction. There are five loads, in
turn. Idle: 30 to 70 ms apart, so that the worker sleeps before each (it stays awake for 20 ms). 100 and 500 changes per
second, at random times that do not wait for the worker. 100 per second while the same worker fills another embedding, or
this one, whose index comes later; then the changed rows are all over its table. The peer, if it is installed, polls every
second: `changes` / 16 changes, 0.5 to 1.5 s apart, idle.

No session polls during the measurement. The times are read afterwards, from PostgreSQL's timestamps of two commits
(track_commit_timestamp): the row's, and that of the vector that belongs to its text. Both timestamps are taken before the
commit is flushed to disk. So a figure is off by the difference of two flushes, and includes no way to or from a client. A
session that polled every 0.2 ms saw the same within 0.2 ms (medians of 200 changes), and took CPU from the worker."""

import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import harness
import peer
import psycopg
import record
import texts
from record import SEED, Figure, Goal, Label

from pg_qwen_embed.postgres import embedded

GOALS = {"p50 ms": Goal("<=", 10), "p99 ms": Goal("<=", 50)}
PERCENTILES = {"p50 ms": 50, "p95 ms": 95, "p99 ms": 99}
SETTINGS = {"track_commit_timestamp": "on", "max_wal_size": "8GB", "shared_buffers": "1GB"}
TIMEOUT = 60.0  # seconds until the last vector must be there
KEPT_UP = 0.95  # share of the rate: a writer that is slower measures something else

TOOK = """
SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(s.xmin) - pg_xact_commit_timestamp(d.xmin))::float8
FROM {table} d JOIN {store} WHERE d.id = ANY (%s)
"""
OUR_STORE = "_qwen_embed.store_{generation} s ON s.k1 = d.id JOIN qwen_embed.{table} v ON v.id = d.id AND NOT v.stale"
PEERS_STORE = "{table}_embedding_store s ON s.id = d.id AND s.chunk = d.body"
GENERATION = (
    "SELECT g.id FROM _qwen_embed.generation g JOIN _qwen_embed.embedding e ON e.id = embedding_id WHERE name = %s"
)


@dataclass(frozen=True)
class Load:
    """table: whose rows are changed. apart: least and most seconds between changes; without it they come at random
    times, `rate` per second. backfill: the table `many` is filled meanwhile."""

    name: str
    table: str
    changes: int
    rate: float = 0.0
    apart: tuple[float, float] | None = None
    backfill: bool = False
    goals: Mapping[str, Goal] = field(default_factory=dict)

    @property
    def worker(self) -> str:
        return "peer" if self.table == "theirs" else "ours"

    def times(self, rng: random.Random) -> list[float]:
        """When each change is due, in seconds from the beginning."""
        if self.apart:
            return list(accumulate(rng.uniform(*self.apart) for _ in range(self.changes)))
        return sorted(rng.uniform(0, self.changes / self.rate) for _ in range(self.changes))


@dataclass(frozen=True)
class Waiter:
    took: list[float]  # milliseconds from commit to visible
    rate: float  # changes per second


@dataclass
class Bench:
    url: str
    server_url: str
    connection: psycopg.Connection
    dimensions: int
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    turns: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return harness.environment(self.url, self.server_url)

    def run(self, *command: str) -> None:
        assert harness.run(list(command), self.environment).status == 0

    def attach(self, table: str) -> None:
        self.run("attach", table, "--text", "body", "--dimensions", str(self.dimensions))

    def turn(self, load: Load) -> Waiter:
        self.connection.execute("CHECKPOINT")
        with self._beside(load):
            keys = self.rng.sample(range(1, self._value(f"SELECT max(id) FROM {load.table}") + 1), load.changes)
            rate = self._change(load, keys)
            if load.backfill and self._value(harness.BACKFILL_STATE) != "running":
                raise SystemExit("the backfill ended before the changes did; it takes more --rows, or fewer --changes")
            return Waiter(self._took(load, keys), rate)

    def _beside(self, load: Load) -> AbstractContextManager[Any]:
        if load.backfill:
            return self._backfill()
        return peer.worker(self.url) if load.worker == "peer" else nullcontext()

    @contextmanager
    def _backfill(self) -> Iterator[None]:
        self.attach("many")
        try:
            while self._value(harness.BACKFILL_STATE) == "pending":
                time.sleep(0.01)
            yield
        finally:
            self.run("detach", "many", "--yes")

    def _change(self, load: Load, keys: Sequence[int]) -> float:
        """Make each change when it is due, or at once if it is late. Returns changes per second."""
        self.turns += 1
        update, text = f"UPDATE {load.table} SET body = body || %s WHERE id = %s", f" Change {self.turns}."
        began = time.perf_counter()
        for key, due in zip(keys, load.times(self.rng), strict=True):
            time.sleep(max(0.0, began + due - time.perf_counter()))
            self.connection.execute(update, (text, key))
        return len(keys) / (time.perf_counter() - began)

    def _took(self, load: Load, keys: list[int]) -> list[float]:
        """Milliseconds of each change, read when all vectors are there."""
        generation = self._value(GENERATION, load.table)
        store = (PEERS_STORE if load.worker == "peer" else OUR_STORE).format(table=load.table, generation=generation)
        query, until = TOOK.format(table=load.table, store=store), time.perf_counter() + TIMEOUT
        while len(found := self.connection.execute(query, (keys,)).fetchall()) < len(keys):
            assert time.perf_counter() < until, f"{load.name}: {len(found)} vectors of {len(keys)}"
            time.sleep(0.2)
        return [took for (took,) in found]

    def _value(self, query: str, *values: str) -> Any:
        return (self.connection.execute(query, values).fetchone() or (None,))[0]


def loads(changes: int) -> list[Load]:
    theirs = [Load("idle", "theirs", changes // 16, apart=(0.5, 1.5))] if peer.installed() else []
    if not theirs:
        print("the peer is left out: make peer installs it", file=sys.stderr)
    return [
        Load("idle", "documents", changes, apart=(0.03, 0.07), goals=GOALS),
        *theirs,
        Load("100 writes/s", "documents", changes, rate=100, goals=GOALS),
        Load("500 writes/s", "documents", 5 * changes, rate=500),
        Load("backfill of another", "documents", changes, rate=100, backfill=True),
        Load("backfill of the same", "many", changes, rate=100, backfill=True),
    ]


def figures(load: Load, turns: Sequence[Waiter]) -> Iterator[Figure]:
    labels: dict[str, Label] = {"load": load.name, "worker": load.worker}
    cuts = [statistics.quantiles(turn.took, n=100, method="inclusive") for turn in turns]
    for what, percent in PERCENTILES.items():
        yield Figure(what, labels, [cut[percent - 1] for cut in cuts], load.goals.get(what))
    if load.rate:
        yield Figure("writes/s", labels, [turn.rate for turn in turns], Goal(">=", KEPT_UP * load.rate))


def main() -> None:
    parser = record.parser(__doc__, rounds=2)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--rows", type=int, default=400_000, help="rows of the table that is filled")
    parser.add_argument("--dimensions", type=int, default=1024)
    wanted = parser.parse_args()
    measured = loads(wanted.changes)
    with (
        embedded.postgres(settings=SETTINGS) as url,
        harness.gpu(64, 0, 0, wanted.dimensions) as server_url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        for table, rows in {"documents": 6 * wanted.changes, "theirs": 1000, "many": wanted.rows}.items():
            harness.load(url, texts.documents(rows), table)
        bench = Bench(url, server_url, connection, wanted.dimensions)
        bench.run("init")
        bench.attach("documents")
        if peer.installed():
            peer.init(url)
            peer.vectorizer(connection, server_url, "theirs", wanted.dimensions, enqueue_existing=False)
        with harness.started(["worker"], bench.environment, "index_ready"):
            rounds = [[bench.turn(load) for load in measured] for _ in range(wanted.rounds)]
        found = [
            figure
            for load, turns in zip(measured, zip(*rounds, strict=True), strict=True)
            for figure in figures(load, turns)
        ]
        record.report("freshness", wanted, url, found, **peer.versions())


if __name__ == "__main__":
    main()
