"""What the benchmarks share: an embedded PostgreSQL, our own server and worker as real processes, one line of JSON."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is stopped

BACKFILL_STATE = "SELECT state FROM _qwen_embed.backfill ORDER BY generation_id DESC LIMIT 1"  # the newest one
PG_QWEN_EMBED = (sys.executable, "-m", "pg_qwen_embed")
MODELLED_GPU = Path(__file__).parents[1] / "tests" / "support" / "modelled_gpu.py"


@dataclass(frozen=True)
class Ended:
    status: int
    wall: float  # seconds
    cpu: float  # seconds
    peak_mb: float


def environment(url: str, server_url: str) -> dict[str, str]:
    """The variables by which `pg-qwen-embed` finds this database and server."""
    return {"PG_QWEN_EMBED_DATABASE_URL": url, "PG_QWEN_EMBED_SERVER_URL": server_url}


def run(arguments: list[str], environment: dict[str, str], program: Sequence[str] = PG_QWEN_EMBED) -> Ended:
    """Run `pg-qwen-embed ...` to its end."""
    with Running(arguments, environment, program) as process:
        return process.wait()


class Running:
    """A running process. Its times and peak memory come from wait4(); the peak is at least ours at its start."""

    def __init__(
        self, arguments: list[str], environment: dict[str, str], program: Sequence[str] = PG_QWEN_EMBED
    ) -> None:
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [*program, *arguments], env=os.environ | environment, stdout=subprocess.DEVNULL
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.stop()

    def stop(self) -> Ended:
        self._process.terminate()
        return self.wait()

    def wait(self) -> Ended:
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - self._began
        return Ended(self._process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextmanager
def started(
    arguments: list[str], environment: dict[str, str], ready: str, program: Sequence[str] = PG_QWEN_EMBED
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `pg-qwen-embed ...`, wait for a line with `ready`, stop it at the end."""
    process = subprocess.Popen(
        [*program, *arguments],
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        line = next((line for line in process.stdout if ready in line), None)
        if line is None:
            raise SystemExit(f"{' '.join([*program, *arguments])} ended before it was ready")
        threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()  # a full pipe would stop it
        yield process, line
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


@dataclass(frozen=True)
class Process:
    """A running process, by Linux's accounting."""

    pid: int

    @property
    def cpu(self) -> float:
        """CPU seconds of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_mb(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@contextmanager
def server() -> Iterator[str]:
    """The local embedding server's URL."""
    with started(["serve", "--port", "0"], {}, "serving") as (_, line):
        yield line.split()[-1]


@contextmanager
def gpu(
    parallel: int, fixed_ms: float, token_us: float, dimensions: int = 256, vectors: Path | None = None
) -> Iterator[str]:
    """A modelled GPU. With 64, 0 and 0 the server takes almost no time. Yields its URL with /v1."""
    command = [sys.executable, str(MODELLED_GPU), "--parallel", str(parallel),
               "--fixed-ms", str(fixed_ms), "--token-us", str(token_us), "--dimensions", str(dimensions)]  # fmt: skip
    command += ["--vectors", str(vectors)] if vectors else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(15)


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The modelled GPU's answer to a GET, or with a body to a POST."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/{path}", data=data) as answer:
        return json.load(answer)


def load(url: str, documents: Iterable[str], table: str = "documents") -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, body text NOT NULL, views int NOT NULL DEFAULT 0)"
        )
        add(connection, documents, table)
        connection.execute(f"ANALYZE {table}")


def add(connection: psycopg.Connection, documents: Iterable[str], table: str, first: int = 1) -> None:
    """Insert rows, numbered from `first` on."""
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} (id, body) FROM STDIN") as copy:
        for row in enumerate(documents, first):
            copy.write_row(row)


def report(name: str, **figures: object) -> None:
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load": round(os.getloadavg()[0], 2)}
    print(json.dumps({"benchmark": name, **figures, **machine}))
