"""Rows loaded into an attached, empty table, against the same rows loaded before attach (a backfill).

    python benchmarks/bulk_load.py [--rows 120000] [--dimensions 256] [--rounds 1]

A worker runs all the time, and the server takes almost no time. In turn in one run: `backfill` is the time from attach of a
full table until every row has its vector and the index is valid; `load` the time from the end of a COPY into an attached,
empty table until the same. The goal is 1.3 times the backfill's time. Prints one line of JSON."""

import argparse
import statistics
import sys
import time

import harness
import psycopg
import texts
from clusters import clustered, saved

from pg_qwen_embed.postgres import embedded

GOAL = 1.3
VALID = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass(%s) AND indisvalid"


class Bench:
    """One database, one worker, tables one after the other."""

    def __init__(self, url: str, server_url: str, documents: list[str], dimensions: int) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._environment = harness.environment(url, server_url)
        self._documents = documents
        self._dimensions = dimensions

    def command(self, *arguments: str) -> None:
        assert harness.run([*arguments], self._environment).status == 0

    def attach(self, table: str) -> None:
        self.command("attach", table, "--text", "body", "--dimensions", str(self._dimensions))

    def create(self, table: str) -> None:
        self._connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, body text NOT NULL)")

    def fill(self, table: str) -> None:
        harness.add(self._connection, self._documents, table)

    def backfill(self, table: str) -> float:
        """Seconds."""
        self.create(table)
        self.fill(table)
        self._connection.execute("CHECKPOINT")
        self.attach(table)
        return self.searchable(table, time.perf_counter())

    def load(self, table: str) -> float:
        """Seconds."""
        self.create(table)
        self.attach(table)
        self._connection.execute("CHECKPOINT")
        while self._one("SELECT state FROM _qwen_embed.backfill ORDER BY generation_id DESC LIMIT 1") != "done":
            time.sleep(0.01)
        self.fill(table)
        return self.searchable(table, time.perf_counter())

    def searchable(self, table: str, began: float) -> float:
        """Seconds until every row has its vector and the index is valid."""
        generation = self._one("SELECT max(id) FROM _qwen_embed.generation")
        written = 0.0
        while not self._one(VALID, [f"_qwen_embed.store_{generation}_hnsw"]) or self._outbox(generation):
            if not written and self._one(f"SELECT count(*) FROM _qwen_embed.store_{generation}") == len(
                self._documents
            ):
                written = time.perf_counter() - began
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        assert self._one(f"SELECT count(*) FROM qwen_embed.{table} WHERE NOT stale") == len(self._documents)
        print(f"{table}: vectors after {written:.1f} s, index after {seconds:.1f} s", file=sys.stderr)
        self.command("detach", table, "--yes")
        self._connection.execute(f"DROP TABLE {table}")
        return seconds

    def _outbox(self, generation: object) -> bool:
        return bool(self._one(f"SELECT EXISTS (SELECT FROM _qwen_embed.outbox_{generation})"))

    def _one(self, query: str, values: list[object] | None = None) -> object:
        row = self._connection.execute(query, values).fetchone()
        return row[0] if row else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    wanted = parser.parse_args()
    documents = [f"{number} {text}" for number, text in enumerate(texts.documents(wanted.rows))]
    settings = {"max_wal_size": "8GB", "shared_buffers": "1GB"}
    seconds: dict[str, list[float]] = {"backfill": [], "load": []}
    with (
        embedded.postgres(settings=settings) as url,
        saved(clustered(wanted.rows, wanted.dimensions)) as file,
        harness.gpu(64, 0, 0, wanted.dimensions, file) as server_url,
    ):
        bench = Bench(url, server_url, documents, wanted.dimensions)
        bench.command("init")
        with harness.started(["worker"], harness.environment(url, server_url), "connected"):
            for n in range(wanted.rounds):
                seconds["backfill"].append(bench.backfill(f"before_{n}"))
                seconds["load"].append(bench.load(f"after_{n}"))
    ratio = statistics.median(load / backfill for backfill, load in zip(*seconds.values(), strict=True))
    found = {f"{name}_s": round(statistics.median(values), 1) for name, values in seconds.items()}
    harness.report("bulk load", rows=wanted.rows, dimensions=wanted.dimensions, rounds=wanted.rounds, **found,
                   ratio=round(ratio, 2), goal=GOAL, met=ratio <= GOAL)  # fmt: skip


if __name__ == "__main__":
    main()
