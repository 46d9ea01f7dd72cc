"""The worker against what SGLang itself can do, on this machine: embeddings a second, and how fresh changes stay.

    python benchmarks/gpu/run.py --sglang-python PYTHON --shape 0.6B [--rounds 3] [-- FURTHER FLAGS OF SGLANG]

First a backfill, before and during which a row is changed and a query is sent again and again. Then, in turns: (a) a
plain load generator over all documents, with several fixed numbers in flight, of which the best counts; (b) `attach`
and the worker's backfill of the same documents with default settings, from its start until every vector is written,
without the index. Prints one line of JSON and a row for each figure; see README.md in this folder."""

import argparse
import json
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import FrameType

import load
import numpy as np
import psycopg
import server

sys.path.insert(1, str(Path(__file__).parents[1]))
import harness
import record
import saturation
import texts

from pg_qwen_embed import Client
from pg_qwen_embed.postgres import embedded

ROWS = {"tiny": 768, "0.6B": 20_000, "4B": 6_000}
RECORDS = {"tiny": "gpu_none", "0.6B": "gpu_06B", "4B": "gpu_4B"}  # in benchmarks/results
PASSES = count(100)
SOFTWARE = ("sglang", "sglang-kernel", "torch", "transformers")
RATE = "embeddings/s"
PROBE = 1000  # documents of the passes that find how many --seconds are
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

    def __post_init__(self) -> None:
        self.environment = harness.environment(self.database, self.url)
        self.tokens = load.tokens(self.url, self.documents)  # of all together, as the server counts

    def unseen(self) -> list[str]:
        """The documents with a new number in front of each: SGLang caches the beginnings of texts."""
        number = next(PASSES)
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

    def freshness(self, found: record.Findings) -> None:
        """Milliseconds of a change and of a query, idle and during a backfill: medians."""
        with (
            self.attached("live", ["the live row"]),
            harness.started(["worker"], self.environment, "index_not_needed"),  # its one row is embedded
            self.connected() as connection,
            Client(self.database, server_url=self.url) as client,
        ):
            saturation.medians(connection, client, 0.1)  # to warm up
            idle = saturation.medians(connection, client, 0.1)
            with self.attached("documents", self.unseen()):
                while not walking(connection):
                    time.sleep(0.01)
                busy = saturation.medians(connection, client, 0.1, lambda: walking(connection))
        for during, medians in (("nothing else", idle), ("a backfill", busy)):
            for what, milliseconds in zip(("change to vector, ms", "query, ms"), medians, strict=True):
                found.add(what, milliseconds, {"during": during})

    def lowest_cosine(self, texts: list[str], vectors: list[list[float]]) -> float:
        """Between the server's vectors of the texts, and these."""
        body = json.dumps({"model": self.model, "input": texts}).encode()
        request = urllib.request.Request(f"{self.url}/embeddings", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            found = [one["embedding"] for one in json.load(answer)["data"]]
        return float(min(np.sum(np.array(found) * np.array(vectors), axis=1)))

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


def in_turns(bench: Bench, levels: list[int], rounds: int, found: record.Findings) -> None:
    """Embeddings per second of (a) for each number in flight, and of (b); one value per round."""
    for turn in range(rounds):
        for level in levels:
            found.add(RATE, bench.generated(level), {"of": "SGLang alone", "in_flight": level})
        found.add(RATE, bench.backfilled(), {"of": "the worker"})
        for figure in found.figures():
            print(f"round {turn + 1}: {figure.labels}: {figure.rounds[-1]:.1f}", file=sys.stderr, flush=True)


def compared(found: record.Findings, tokens: float) -> None:
    """The worker's share of the best of SGLang, round by round, and both in tokens. tokens: of a document."""
    *alone, worker = found.figures()
    best = max(alone, key=lambda figure: figure.median)
    for share in record.ratios(worker.rounds, best.rounds):
        found.add("share of the best of SGLang alone", share, {"of": "the worker"})
    for figure in (best, worker):
        for rate in figure.rounds:
            found.add("tokens/s", rate * tokens, figure.labels)


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
    code = f"""if True:
        import importlib.metadata, json
        known = {{one.name.lower(): one.version for one in importlib.metadata.distributions()}}
        print(json.dumps({{name: known[name] for name in {SOFTWARE} if name in known}}))"""
    found = subprocess.run([python, "-c", code], capture_output=True, check=True, text=True).stdout
    with bench.connected() as connection:
        (postgres,) = connection.execute("SHOW server_version").fetchone() or ("",)
    ours = {"pg_qwen_embed": version("pg-qwen-embed"), "PostgreSQL": str(postgres), "Python": platform.python_version()}
    return ours | dict(json.loads(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sglang-python", required=True, help="a Python with SGLang installed")
    parser.add_argument("--shape", choices=ROWS, default="0.6B", help="of the model that is made with random weights")
    parser.add_argument("--model-path", help="a model to serve instead of that")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", type=int, help=f"documents of a pass (default {ROWS})")
    parser.add_argument(
        "--seconds", type=float, help="of a pass at SGLang's best; it gets fewer rows where they take longer"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--start-timeout", type=float, default=600, help="seconds until SGLang must be ready")
    parser.add_argument("--log", type=Path, help="keep SGLang's log there")
    parser.add_argument("--minutes", type=float, default=45, help="after which it gives up")
    parser.add_argument("--record", action="store_true", help="keep the result for docs/benchmarks.md")
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
    longest = None if wanted.model_path else LONGEST.get(wanted.shape)
    documents = [text[:longest] for text in texts.documents(wanted.rows or ROWS[wanted.shape])]
    path = server.model(wanted, folder / "model")
    with (
        server.sglang(wanted, path, memory, (wanted.log or folder / "sglang.log").absolute()) as (url, flags),
        embedded.postgres() as database,
    ):
        probe = Bench(database, url, path, documents[:PROBE])
        probe.run("init")
        found = record.Findings()
        compare_with_reference(probe, Path(path) / "reference.json", found)
        probe.generated(max(wanted.in_flight))  # to warm up
        if wanted.seconds:
            documents = documents[: max(PROBE, round(wanted.seconds * probe.generated(max(wanted.in_flight))))]
        bench = Bench(database, url, path, documents)
        bench.generated(max(wanted.in_flight))
        bench.freshness(found)
        rates = record.Findings()
        in_turns(bench, wanted.in_flight, wanted.rounds, rates)
        compared(rates, bench.tokens / len(documents))
        shown = ["MODEL" if word == path else word for word in flags]
        record.show(recorded(wanted, bench, name, shown, [*rates.figures(), *found.figures()]), wanted.record)


def compare_with_reference(bench: Bench, file: Path, found: record.Findings) -> None:
    """The lowest cosine; nothing where the model has no reference."""
    if file.exists():
        reference = json.loads(file.read_text(encoding="utf-8"))
        lowest = bench.lowest_cosine(reference["texts"], reference["vectors"])
        assert lowest > 0.99, f"the server computes something else: a cosine of {lowest}"
        found.add("cosine with transformers' vector, lowest", lowest, {})


def recorded(
    wanted: argparse.Namespace, bench: Bench, card: str, flags: list[str], figures: list[record.Figure]
) -> record.Record:
    rows = len(bench.documents)
    settings = {"rounds": wanted.rounds, "rows": rows, "tokens_a_document": round(bench.tokens / rows, 1),
                "seed": wanted.seed, "flags": shlex.join(flags)}  # fmt: skip
    machine = record.machine() | ({"card": card} if wanted.device == "cuda" else {})
    name = "gpu_real" if wanted.model_path else RECORDS[wanted.shape]
    given = [word for word in sys.argv[1:] if word not in ("--record", "--log", str(wanted.log))]
    command = shlex.join(["python", "benchmarks/gpu/run.py", *given])
    return record.Record(name, command, settings, machine, versions(bench, wanted.sglang_python), figures)


def main() -> None:
    wanted = arguments()
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(round(60 * wanted.minutes))
    with tempfile.TemporaryDirectory(prefix="pg_qwen_embed_gpu_") as folder:
        measure(wanted, Path(folder))


if __name__ == "__main__":
    main()
