"""A backfill against its floor: the worker, a script of the fewest steps without any safety, and COPY of finished vectors.

    python benchmarks/backfill.py [--rows 50000] [--dimensions 1024] [--rounds 3]

The server costs next to nothing (modelled_gpu.py without a time of its own), so that worker and database are what is
measured. In turns, in one run; medians, and the spread. The worker's time is from the first row read to the last vector
written, without the index; its CPU and memory are those of its process from start to end. One line of JSON."""

import argparse
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import rig
import texts

from pg_qwen_embed import embedded

STATE = "SELECT state FROM _qwen_embed.backfill ORDER BY generation_id DESC LIMIT 1"


@dataclass
class Bench:
    """A database with the documents, and a server."""

    url: str
    server_url: str
    rows: int
    dimensions: int
    cpu: list[float] = field(default_factory=list)  # of the worker, milliseconds a row
    memory: list[float] = field(default_factory=list)  # of the worker at its peak, MB

    def worker(self) -> float:
        """Rows a second."""
        environment = {"PG_QWEN_EMBED_DATABASE_URL": self.url, "PG_QWEN_EMBED_SERVER_URL": self.server_url}
        self._run(["attach", "documents", "--text", "body", "--dimensions", str(self.dimensions)], environment)
        with psycopg.connect(self.url, autocommit=True) as connection, ThreadPoolExecutor() as threads:
            running = threads.submit(rig.run, ["worker", "--once", "--log-level", "warning"], environment)
            began = _when(connection, "running")
            seconds = _when(connection, "indexing", "done") - began
            ended = running.result()
            (vectors,) = connection.execute("SELECT count(*) FROM qwen_embed.documents").fetchone() or (0,)
        assert (ended.status, vectors) == (0, self.rows), f"{vectors} vectors of {self.rows} rows"
        self._run(["detach", "documents", "--yes"], environment)
        self.cpu.append(1000 * ended.cpu / self.rows)
        self.memory.append(ended.peak_mb)
        return self.rows / seconds

    def floor(self) -> float:
        return self._of_script("fewest_steps")

    def copy(self) -> float:
        return self._of_script("copied")

    def _of_script(self, what: str) -> float:
        script = str(Path(__file__).parent / "floor.py")
        command = [sys.executable, script, what, self.url, self.server_url, str(self.rows), str(self.dimensions)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return self.rows / float(done.stdout)

    @staticmethod
    def _run(command: list[str], environment: dict[str, str]) -> None:
        assert rig.run(command, environment).status == 0


def _when(connection: psycopg.Connection, *states: str) -> float:
    """The time at which the newest backfill has come to one of these states."""
    while (connection.execute(STATE).fetchone() or ("",))[0] not in states:
        time.sleep(0.005)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    rates: dict[str, list[float]] = {"worker": [], "floor": [], "copy": []}
    with (
        embedded.postgres(settings={"max_wal_size": "8GB", "shared_buffers": "1GB"}) as url,
        rig.gpu(64, 0, 0, wanted.dimensions) as server_url,
    ):
        rig.load(url, list(texts.documents(wanted.rows)))
        bench = Bench(url, server_url, wanted.rows, wanted.dimensions)
        assert rig.run(["init"], {"PG_QWEN_EMBED_DATABASE_URL": url}).status == 0
        for _ in range(wanted.rounds):
            for name, found in rates.items():
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute("CHECKPOINT")
                found.append(getattr(bench, name)())
                time.sleep(0.5)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    rig.report(
        "backfill", rows=wanted.rows, dimensions=wanted.dimensions, rounds=wanted.rounds,
        **{f"{name}_rows_per_second": round(found) for name, found in medians.items()},
        spread={name: [round(min(found)), round(max(found))] for name, found in rates.items()},
        share_of_floor=round(medians["worker"] / medians["floor"], 2),
        worker_cpu_ms_per_row=round(statistics.median(bench.cpu), 3), worker_peak_mb=round(max(bench.memory)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
