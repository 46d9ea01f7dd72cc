"""A backfill against its baseline, COPY and the peer; and changes with an HNSW index present against plain INSERTs.

    python benchmarks/backfill.py [--rows 100000] [--dimensions 1024] [--rounds 5]

The server takes almost no time (tests/support/modelled_gpu.py with both times 0), so worker and database are measured.
All variants have the same rows and the same server.

Without an index there are four variants. The worker, from the first row read to the last vector written. The baseline
(`floor` in the records), a script with the fewest steps and no safety (baseline.py). COPY of finished vectors. The peer's
worker, if it is installed (`make peer`), from its first request to its last, without its start and its last write. CPU
and memory are those of the process from start to end.

With an index present: the time from the commit of new rows until the last has its vector, against a script that only
INSERTs such vectors on as many connections, in groups of 64. Both indexes have the same rows and grow alike. The vectors
are in clusters, and no two are equal, because pgvector keeps equal ones as one."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import harness
import peer
import psycopg
import record
import texts
from clusters import clustered, saved
from record import Figure, Goal, Label

from pg_qwen_embed.postgres import embedded
from pg_qwen_embed.worker.writer import WRITERS

BASELINE = str(Path(__file__).parent / "baseline.py")
GOALS = {"rows/s as a share of the floor's": Goal(">=", 0.75), "rows/s as times the peer's": Goal(">=", 15.0)}
RESOURCE_GOALS = {"CPU ms/row": Goal("<=", 0.05), "memory MB": Goal("<=", 200)}


@dataclass
class Bench:
    """A database with the documents, and a server."""

    url: str
    server_url: str
    rows: int
    dimensions: int
    resources: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by quantity and process

    @property
    def environment(self) -> dict[str, str]:
        return harness.environment(self.url, self.server_url)

    def command(self, *arguments: str) -> None:
        assert harness.run([*arguments], self.environment).status == 0

    def attach(self, table: str) -> None:
        self.command("attach", table, "--text", "body", "--dimensions", str(self.dimensions))

    def worker(self) -> float:
        """Rows per second of the worker; the next methods give those of the other variants."""
        self.attach("documents")
        with (
            harness.Running(["worker", "--log-level", "warning"], self.environment) as worker,
            psycopg.connect(self.url, autocommit=True) as connection,
        ):
            began = _when(connection, "running")
            seconds = _when(connection, "indexing") - began
            ended = worker.stop()  # the build of the index is not measured; it would take minutes
            (vectors,) = connection.execute("SELECT count(*) FROM qwen_embed.documents").fetchone() or (0,)
        assert vectors == self.rows, f"{vectors} vectors of {self.rows} rows"
        self.command("detach", "documents", "--yes")
        self._used("worker", ended)
        return self.rows / seconds

    def baseline(self) -> float:
        return self.rows / self.script("fewest_steps", self.rows)

    def copy(self) -> float:
        return self.rows / self.script("copied", self.rows)

    def peer(self) -> float:
        with psycopg.connect(self.url, autocommit=True) as connection:
            vectorizer = peer.vectorizer(connection, self.server_url, "documents", self.dimensions)
            harness.ask(self.server_url, "counters", {})
            self._used("peer", peer.once(self.url))
            seconds = harness.ask(self.server_url, "counters")["wall"]
            vectors = vectorizer.count(connection)
            vectorizer.drop(connection)
        assert vectors == self.rows, f"the peer has {vectors} vectors of {self.rows} rows"
        return self.rows / float(seconds)

    def script(self, what: str, rows: int) -> float:
        """Seconds of a run of the baseline script."""
        command = [sys.executable, BASELINE, what, self.url, self.server_url, str(rows), str(self.dimensions)]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def _used(self, whose: str, ended: harness.Ended) -> None:
        self.resources["CPU ms/row", whose].append(1000 * ended.cpu / self.rows)
        self.resources["memory MB", whose].append(ended.peak_mb)


@dataclass
class Indexed:
    """A table whose vectors have an index and are followed by a worker, and a copy of the vectors."""

    bench: Bench
    base: int  # rows at the start
    more: int  # new rows in a round
    documents: list[str]
    inserted: int = 0

    def prepare(self) -> None:
        harness.load(self.bench.url, self.documents[: self.base], "live")
        self.bench.attach("live")
        self.inserted = self.base

    def worker(self) -> float:
        """Rows a second."""
        added = self.documents[self.inserted : self.inserted + self.more]
        first = self.inserted + 1
        self.inserted += self.more
        with psycopg.connect(self.bench.url, autocommit=True) as connection:
            (newest,) = connection.execute("SELECT max(id) FROM _qwen_embed.generation").fetchone() or (0,)
            harness.add(connection, added, "live", first)
            began = time.perf_counter()
            while connection.execute(f"SELECT EXISTS (SELECT FROM _qwen_embed.outbox_{newest})").fetchone() == (True,):
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            (vectors,) = connection.execute("SELECT count(*) FROM qwen_embed.live").fetchone() or (0,)
        assert vectors == self.inserted
        return self.more / seconds

    def script(self) -> float:
        """Rows per second of the script, which inserts the worker's last vectors into the copy."""
        return self.more / self.bench.script("indexed", self.more)


def _when(connection: psycopg.Connection, state: str) -> float:
    """The time at which the newest backfill reached this state."""
    while connection.execute(harness.BACKFILL_STATE).fetchone() != (state,):
        time.sleep(0.005)
    return time.perf_counter()


def without_index(bench: Bench, rounds: int) -> list[Figure]:
    turns: dict[str, Callable[[], float]] = {"worker": bench.worker, "floor": bench.baseline, "copy": bench.copy}
    if peer.installed():
        peer.init(bench.url)
        turns["peer"] = bench.peer
    else:
        print("the peer is left out: make peer installs it", file=sys.stderr)
    rates = in_turns(bench.url, turns, rounds)
    figures = [Figure("rows/s", {"writer": name, "index": "absent"}, found) for name, found in rates.items()]
    for other, quantity in (("floor", "rows/s as a share of the floor's"), ("peer", "rows/s as times the peer's")):
        if other in rates:
            ratios = record.ratios(rates["worker"], rates[other])
            figures.append(Figure(quantity, {"writer": "worker", "index": "absent"}, ratios, GOALS[quantity]))
    for (quantity, whose), found in bench.resources.items():
        goal = RESOURCE_GOALS[quantity] if whose == "worker" else None
        figures.append(Figure(quantity, {"writer": whose, "index": "absent"}, found, goal))
    return figures


def with_index(bench: Bench, rounds: int, base: int, more: int) -> list[Figure]:
    documents = [f"{number} {text}" for number, text in enumerate(texts.documents(base + more * rounds))]
    indexed = Indexed(bench, base, more, documents)
    indexed.prepare()
    with harness.started(["worker"], bench.environment, "index_ready"):
        bench.script("indexed_base", base)
        rates = in_turns(bench.url, {"worker": indexed.worker, "script": indexed.script}, rounds)
    figures = [Figure("rows/s", {"writer": name, "index": "present"}, found) for name, found in rates.items()]
    shares = record.ratios(rates["worker"], rates["script"])
    labels: dict[str, Label] = {"writer": "worker", "index": "present", "writers": WRITERS}
    return [*figures, Figure("rows/s as a share of INSERT's", labels, shares, Goal(">=", 0.9))]


def in_turns(url: str, turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            rates[name].append(turn())
            time.sleep(0.5)
    return rates


def main() -> None:
    parser = record.parser(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--indexed-rows", type=int, default=3000, help="rows in the index at the start")
    parser.add_argument("--more-rows", type=int, default=5000, help="new rows in each round with an index")
    wanted = parser.parse_args()
    settings = {"max_wal_size": "8GB", "shared_buffers": "1GB"}
    with embedded.postgres(settings=settings) as url:
        harness.load(url, texts.documents(wanted.rows))
        with harness.gpu(64, 0, 0, wanted.dimensions) as server_url:
            bench = Bench(url, server_url, wanted.rows, wanted.dimensions)
            bench.command("init")
            figures = without_index(bench, wanted.rounds)
        vectors = clustered(wanted.indexed_rows + wanted.rounds * wanted.more_rows, wanted.dimensions)
        with saved(vectors) as file, harness.gpu(64, 0, 0, wanted.dimensions, file) as server_url:
            bench = replace(bench, server_url=server_url)
            figures += with_index(bench, wanted.rounds, wanted.indexed_rows, wanted.more_rows)
        record.report("backfill", wanted, url, figures, **peer.versions())


if __name__ == "__main__":
    main()
