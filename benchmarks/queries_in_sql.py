"""The text of a query in SQL: what qwen_embed.embed_query adds to the embedding request, and what a cached query costs.

    python benchmarks/queries_in_sql.py [--seconds 10] [--dimensions 1024] [--rounds 2]

pgbench asks with prepared statements, and a worker answers. The server takes 5 ms for a request. For 1, 4 and 16 clients,
in turn: requests of one text each, straight to the server, by threads that keep their connections; then queries that
nobody has asked before; then 1,000 queries that the cache has. The overhead is a percentile of the queries less the median
of the requests. A cached query is one statement, with the way to pgbench and back.

A client asks again as soon as it has its answer, so 16 of them keep two processors busy with PostgreSQL, the worker, the
server and pgbench. `at 200/s` are 16 clients that together ask 200 times a second, at random moments."""

import http.client
import json
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import harness
import psycopg
import record
import texts
from psycopg.conninfo import conninfo_to_dict
from record import SEED, Findings, Goal

from pg_qwen_embed.postgres import embedded

CLIENTS = (1, 4, 16)
KNOWN = 1000  # queries in the cache
FIXED_MS = 5.0
PACE = 200  # queries a second of 16 clients that ask at random moments
OVERHEAD = {"overhead p50 ms": Goal("<=", 4), "overhead p99 ms": Goal("<=", 25)}
CACHED = {"cached p50 ms": Goal("<=", 0.3), "cached queries/s": Goal(">=", 2000)}
NEW = "\\set n random(1, 1000000000000)\nSELECT qwen_embed.embed_query('documents', 'a query that is new: ' || :n);\n"
KNOWN_QUERY = (
    f"\\set n random(1, {KNOWN})\nSELECT qwen_embed.embed_query('documents', 'a query that is known: ' || :n);\n"
)


def pgbench(
    url: str, script: str, clients: int, seconds: float, folder: Path, pace: int | None = None
) -> tuple[list[float], float]:
    """Milliseconds of each statement, and statements per second. pace: how many of all clients a second, at random moments."""
    for old in folder.glob("*.log.*"):
        old.unlink()
    (folder / "script.sql").write_text(script, encoding="utf-8")
    parts = conninfo_to_dict(url)
    with psycopg.connect(url) as connection:
        (binaries,) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone() or ("",)
    command = [f"{binaries}/pgbench", "-h", str(parts["host"]), "-U", str(parts["user"]), "-n", "-M", "prepared",
               "-c", str(clients), "-T", f"{seconds:.0f}", "-f", str(folder / "script.sql"), "-l",
               "--log-prefix", str(folder / "pgbench.log"), *([f"--rate={pace}"] if pace else []),
               str(parts["dbname"])]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"pgbench failed: {done.stderr}")
    lines = [line.split() for log in folder.glob("pgbench.log.*") for line in log.read_text().splitlines()]
    waited = [int(line[6]) if pace else 0 for line in lines]  # until a client was free
    took = [(int(line[2]) - before) / 1000 for line, before in zip(lines, waited, strict=True)]
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    return took, float(rate[1]) if rate else 0.0


def requests(server_url: str, clients: int, seconds: float) -> list[float]:
    """Milliseconds of each request for the vector of one text."""
    where, took = urlsplit(server_url), list[float]()
    until = time.perf_counter() + seconds

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        connection = http.client.HTTPConnection(where.hostname or "", where.port or 80)
        while time.perf_counter() < until:
            body = {
                "model": "modelled-gpu",
                "input": [f"a query that is new: {rng.random()}"],
                "encoding_format": "base64",
            }
            began = time.perf_counter()
            connection.request(
                "POST", f"{where.path}/embeddings", json.dumps(body), {"Content-Type": "application/json"}
            )
            connection.getresponse().read()
            took.append(1000 * (time.perf_counter() - began))
        connection.close()

    threads = [threading.Thread(target=ask, args=(SEED + n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def percentile(took: list[float], percent: int) -> float:
    return statistics.quantiles(took, n=100, method="inclusive")[percent - 1]


def rounds(
    url: str, server_url: str, seconds: float, count: int, folder: Path
) -> Iterator[tuple[str, float, int | str]]:
    """Each figure of each round: what it is, its value, and for which clients."""
    for _ in range(count):
        for clients in CLIENTS:
            request = statistics.median(requests(server_url, clients, seconds / 2))
            yield "request p50 ms", request, clients
            new, rate = pgbench(url, NEW, clients, seconds, folder)
            yield "overhead p50 ms", percentile(new, 50) - request, clients
            yield "overhead p99 ms", percentile(new, 99) - request, clients
            yield "new queries/s", rate, clients
            known, rate = pgbench(url, KNOWN_QUERY, clients, seconds, folder)
            yield "cached p50 ms", percentile(known, 50), clients
            yield "cached p99 ms", percentile(known, 99), clients
            yield "cached queries/s", rate, clients
        paced, _ = pgbench(url, NEW, clients, seconds, folder, PACE)
        yield "overhead p50 ms", percentile(paced, 50) - request, f"{clients} at {PACE}/s"
        yield "overhead p99 ms", percentile(paced, 99) - request, f"{clients} at {PACE}/s"


def goal(what: str, clients: int | str) -> Goal | None:
    """Of clients without a pause only the longest times are promised: they saturate the processors. Latencies of the cache are
    promised for one client, its throughput for several."""
    if what in CACHED:
        return CACHED[what] if (clients == 1) == (what == "cached p50 ms") else None
    return OVERHEAD.get(what) if what == "overhead p99 ms" or clients in (1, f"{CLIENTS[-1]} at {PACE}/s") else None


def main() -> None:
    parser = record.parser(__doc__, rounds=2)
    parser.add_argument("--seconds", type=float, default=10, help="of each variant")
    parser.add_argument("--dimensions", type=int, default=1024)
    wanted = parser.parse_args()
    with (
        embedded.postgres() as url,
        harness.gpu(64, FIXED_MS, 0, wanted.dimensions) as server_url,
        tempfile.TemporaryDirectory() as folder,
    ):
        harness.load(url, texts.documents(1000))
        environment = harness.environment(url, server_url)
        for command in (["init"], ["attach", "documents", "--text", "body", "--dimensions", str(wanted.dimensions)]):
            assert harness.run(command, environment).status == 0
        with harness.started(["worker", "--index-from", "0"], environment, "index_ready"):
            with psycopg.connect(url, autocommit=True) as connection:
                for n in range(1, KNOWN + 1):
                    connection.execute(
                        "SELECT qwen_embed.embed_query('documents', %s)", [f"a query that is known: {n}"]
                    )
            findings = Findings()
            for what, value, clients in rounds(url, server_url, wanted.seconds, wanted.rounds, Path(folder)):
                findings.add(what, value, {"clients": clients}, goal(what, clients))
            record.report("queries_in_sql", wanted, url, findings.figures())


if __name__ == "__main__":
    main()
