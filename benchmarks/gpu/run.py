"""The worker against what SGLang itself can do, on this machine: embeddings a second, and how fresh changes stay.

    python benchmarks/gpu/run.py --sglang-python PYTHON --shape 0.6B [--rounds 3] [-- FURTHER FLAGS OF SGLANG]

In one run, in turns: (a) a plain load generator over all documents, with several fixed numbers in flight, of which the
best counts; (b) `attach` and the worker's backfill of the same documents with default settings, from its start until
every vector is written, without the index. Then one more backfill, during which a row is changed and a query is sent
again and again. Prints one line of JSON; see README.md in this folder."""

import argparse
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import load
import psycopg
import server

sys.path.insert(1, str(Path(__file__).parents[1]))
import harness
import saturation
import texts

from pg_qwen_embed import Client
from pg_qwen_embed.postgres import embedded

ROWS = {"tiny": 768, "0.6B": 20_000, "4B": 6_000}
LONGEST = {"tiny": 400}  # characters of a document, where the context is short
SCAN = """SELECT b.state, extract(epoch FROM clock_timestamp() - b.started_at)::float
FROM _qwen_embed.backfill b ORDER BY b.generation_id DESC LIMIT 1"""


@dataclass
class Bench:
    """A database and an SGLang, and the documents that both sides get."""

    database: str
    url: str
    model: str
    documents: list[str]
    tokens: int  # of all documents, as the server counts

    def __post_init__(self) -> None:
        self.environment = harness.environment(self.database, self.url)
        self._passes = count(100)

    def unseen(self) -> list[str]:
        """The documents with a new number in front of each: SGLang caches the beginnings of texts."""
        number = next(self._passes)
        return [f"{number} {text}" for text in self.documents]

    def generated(self, in_flight: int) -> float:
        """(a): embeddings per second."""
        return len(self.documents) / load.seconds(
            self.url, load.packed(self.unseen(), self.model, self.tokens), in_flight
        )

    def backfilled(self) -> float:
        """(b): embeddings per second."""
        with self.attached("documents", self.unseen()), self.connected() as connection:
            with harness.started(["worker"], self.environment, "connected"):
                taken = scanned(connection)
            found = connection.execute("SELECT count(embedding) FROM qwen_embed.documents").fetchone()
            assert found == (len(self.documents),), f"{found} vectors of {len(self.documents)} documents"
        return len(self.documents) / taken

    def freshness(self) -> dict[str, Any]:
        """Milliseconds of a change and of a query, idle and during a backfill."""
        with (
            self.attached("live", ["the live row"]),
            harness.started(["worker"], self.environment, "index_ready"),
            self.connected() as connection,
            Client(self.database, server_url=self.url) as client,
        ):
            idle = saturation.medians(connection, client, 0.1)
            with self.attached("documents", self.unseen()):
                while not walking(connection):
                    time.sleep(0.01)
                busy = saturation.medians(connection, client, 0.1, lambda: walking(connection))
        names = ("change_idle_ms", "query_idle_ms", "change_busy_ms", "query_busy_ms")
        return {name: round(value, 1) for name, value in zip(names, (*idle, *busy), strict=True)}

    def connected(self) -> psycopg.Connection:
        return psycopg.connect(self.database, autocommit=True)

    @contextmanager
    def attached(self, table: str, documents: list[str]) -> Iterator[None]:
        harness.load(self.database, documents, table)
        self.run("attach", table, "--text", "body")
        try:
            yield
        finally:
            self.run("detach", table, "--yes")
            with self.connected() as connection:
                connection.execute(f"DROP TABLE {table}")

    def run(self, *arguments: str) -> None:
        assert harness.run(list(arguments), self.environment).status == 0, arguments


def scanned(connection: psycopg.Connection) -> float:
    """Seconds of the newest backfill until its last vector is written; the index comes after that."""
    while True:
        state, taken = connection.execute(SCAN).fetchone() or ("none", None)
        if state not in ("pending", "running"):
            return float(taken or 0)
        time.sleep(0.01)


def walking(connection: psycopg.Connection) -> bool:
    row = connection.execute(SCAN).fetchone()
    return row is not None and bool(row[0] == "running")


def in_turns(bench: Bench, levels: list[int], rounds: int) -> tuple[dict[int, list[float]], list[float]]:
    """Embeddings per second of (a) for each number in flight, and of (b); one value per round."""
    generated: dict[int, list[float]] = {level: [] for level in levels}
    backfilled = []
    for turn in range(rounds):
        for level, found in generated.items():
            found.append(bench.generated(level))
        backfilled.append(bench.backfilled())
        print(f"round {turn + 1}: {generated}, worker {backfilled}", file=sys.stderr)
    return generated, backfilled


def compared(generated: dict[int, list[float]], backfilled: list[float], tokens: float) -> dict[str, Any]:
    """share: the worker's share of the best of SGLang, round by round."""
    best = max(generated, key=lambda level: statistics.median(generated[level]))
    shares = [ours / ceiling for ours, ceiling in zip(backfilled, generated[best], strict=True)]
    return {
        "share": round(statistics.median(shares), 3),
        "share_spread": [round(min(shares), 3), round(max(shares), 3)],
        "sglang": {level: [round(value, 1) for value in found] for level, found in generated.items()},
        "best_in_flight": best,
        "worker": [round(value, 1) for value in backfilled],
        "sglang_tokens_per_second": round(tokens * statistics.median(generated[best])),
        "worker_tokens_per_second": round(tokens * statistics.median(backfilled)),
    }


def card() -> tuple[str, float | None]:
    """The first GPU's name with its driver, and its memory in GiB."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none", None
    name, driver, memory = said.splitlines()[0].split(", ")
    return f"{name}, driver {driver}", float(memory) / 1024


def versions(bench: Bench, python: str) -> dict[str, str]:
    code = "from importlib.metadata import version as v; print(v('sglang'), v('torch'), v('transformers'))"
    found = subprocess.run([python, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    with bench.connected() as connection:
        (postgres,) = connection.execute("SHOW server_version").fetchone() or ("",)
    ours = {"postgresql": postgres, "pg_qwen_embed": version("pg-qwen-embed")}
    return dict(zip(("sglang", "torch", "transformers"), found, strict=True)) | ours


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sglang-python", required=True, help="a Python with SGLang installed")
    parser.add_argument("--shape", choices=ROWS, default="0.6B", help="of the model that is made with random weights")
    parser.add_argument("--model-path", help="a model to serve instead of that")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", type=int, help=f"documents of a round (default {ROWS})")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--start-timeout", type=float, default=600, help="seconds until SGLang must be ready")
    parser.add_argument("--minutes", type=float, default=45, help="seconds after which it gives up")
    parser.add_argument("more", nargs="*", metavar="FLAG", help="flags of SGLang, after --")
    wanted = parser.parse_args()
    has_sglang = "import importlib.util, sys; sys.exit(importlib.util.find_spec('sglang') is None)"
    python = shutil.which(wanted.sglang_python)
    if python is None or subprocess.run([python, "-c", has_sglang], check=False).returncode:
        parser.error(
            f"{wanted.sglang_python} is no Python with SGLang; make test-sglang makes one, .venv-sglang/bin/python"
        )
    return wanted


def give_up(_: int, __: FrameType | None) -> None:
    raise SystemExit("given up: --minutes are over")


def measure(wanted: argparse.Namespace, folder: Path) -> None:
    name, memory = card()
    rows = wanted.rows or ROWS[wanted.shape]
    longest = None if wanted.model_path else LONGEST.get(wanted.shape)
    documents = [text[:longest] for text in texts.documents(rows)]
    path = server.model(wanted, folder / "model")
    with (
        server.sglang(wanted, path, memory, folder / "sglang.log") as (url, flags),
        embedded.postgres() as database,
    ):
        bench = Bench(database, url, path, documents, load.tokens(url, documents))
        bench.run("init")
        bench.generated(max(wanted.in_flight))  # to warm up
        figures = compared(*in_turns(bench, wanted.in_flight, wanted.rounds), bench.tokens / rows)
        harness.report(
            "gpu", card=name if wanted.device == "cuda" else "none", shape=wanted.model_path or wanted.shape,
            seed=wanted.seed, rows=rows, tokens_per_document=round(bench.tokens / rows, 1), rounds=wanted.rounds, **figures,
            **bench.freshness(), versions=versions(bench, wanted.sglang_python), flags=shlex.join(flags),
            command=shlex.join(sys.argv),
        )  # fmt: skip


def main() -> None:
    wanted = arguments()
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(round(60 * wanted.minutes))
    with tempfile.TemporaryDirectory(prefix="pg_qwen_embed_gpu_") as folder:
        measure(wanted, Path(folder))


if __name__ == "__main__":
    main()
