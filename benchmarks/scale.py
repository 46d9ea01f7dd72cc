"""How the worker scales: with rows, with workers, with embeddings; and what it costs when idle.

    python benchmarks/scale.py [--parts rows workers embeddings] [--rows 10000 100000 1000000] [--rounds 2]

The server takes almost no time (tests/support/modelled_gpu.py with both times 0). No HNSW index is built: an index of
that name over no rows takes its place. There are `--rounds` rounds; with more than 100,000 rows, one.

rows: a backfill, from the first row read to the last vector written, with its CPU and WAL. Then, up to 100,000 rows, every
row is updated, 1,000 in a transaction, one transaction after the other. Figures: the size of the outbox while the worker
follows, the time from the last commit until it is empty, and its size after a vacuum.

workers: 1, 2 or 4 workers are running when 4 embeddings are attached, one after the other. The first worker to take the
lock leads an embedding.

embeddings: 1, 10 or 100 embeddings share 20,000 rows and one worker. They are backfilled together. Then the worker is idle
for `--seconds`, after `--settle` seconds: it closes a connection every 10 s, and PostgreSQL counts a transaction up to 10 s
late. The counts are PostgreSQL's; no other session is in the database, and autovacuum is off. Then a row of one embedding
is changed 30 times, each time until its vector is seen."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import harness
import psycopg
import record
import texts
from psycopg.conninfo import make_conninfo
from record import Findings, Goal

from pg_qwen_embed.admin.attach import Declaration, attach, detach
from pg_qwen_embed.domain.template import from_columns
from pg_qwen_embed.inference import resolve_model
from pg_qwen_embed.postgres import embedded, migrate
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.settings import resolve

TIMEOUT = 600.0  # seconds until anything must have happened
MOST_IN_TURNS = 100_000  # rows
BATCH = 1000  # rows of one UPDATE
TIDY = 6.0  # seconds; the worker vacuums an outbox within 5 s
EMBEDDINGS = (1, 10, 100)
WORKERS = (1, 2, 4)
SHARED_ROWS, ROWS_OF_WORKERS = 20_000, 40_000  # of all embeddings together
CHANGES = 30
LITTLE_MEMORY = Goal("<=", 200)  # MB
FEW_CONNECTIONS = Goal("<=", 3)
FEW_TRANSACTIONS = Goal("<=", 5)  # per second

Labels = dict[str, int]

STARTED = "SELECT extract(epoch FROM min(started_at)) FROM _qwen_embed.backfill"
STATES = "SELECT count(*) FROM _qwen_embed.backfill WHERE state = ANY (%s)"
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'pg_qwen_embed')"
LEADERS = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s::bigint::oid"


@dataclass(frozen=True)
class Bench:
    """A database after `init`, and a server."""

    url: str
    server_url: str
    dimensions: int
    found: Findings

    @property
    def environment(self) -> dict[str, str]:
        return harness.environment(self.url, self.server_url)

    @contextmanager
    def worker(self) -> Iterator[harness.Process]:
        with harness.started(["worker"], self.environment, "connected") as (process, _):
            yield harness.Process(process.pid)

    @contextmanager
    def looking(self, url: str | None = None) -> Iterator["Look"]:
        with psycopg.connect(url or self.url, autocommit=True) as connection:
            yield Look(connection)

    @contextmanager
    def attached(self, tables: Sequence[str]) -> Iterator[list[int]]:
        """Attach tables. Yields their generations; detaches them at the end."""
        chosen = asyncio.run(resolve_model.resolve_model(resolve(self.environment), None, self.dimensions))
        declarations = [Declaration(table, chosen.spec(from_columns(("body",)))) for table in tables]
        with connect(self.url, "benchmark") as connection:
            yield [_attach_without_index(connection, declaration) for declaration in declarations]
            for table in tables:
                detach(connection, table)


def _attach_without_index(connection: psycopg.Connection[Any], declaration: Declaration) -> int:
    """Create an empty index of the right name, so that the worker builds none."""
    with connection.transaction():
        id_ = attach(connection, declaration).live.id
        connection.execute(
            f"CREATE INDEX store_{id_}_hnsw ON _qwen_embed.store_{id_} USING hnsw (embedding halfvec_cosine_ops) "
            "WHERE false"
        )
    return id_


@dataclass(frozen=True)
class Look:
    connection: psycopg.Connection[Any]

    def __call__(self, query: str, *values: object) -> float:
        (value,) = self.connection.execute(query, values).fetchone() or (0,)
        return float(value)

    def set(self, name: str, value: str) -> None:
        """Change a setting of the whole server."""
        self.connection.execute(f"ALTER SYSTEM SET {name} = {value}")
        self.connection.execute("SELECT pg_reload_conf()")

    def until_written(self) -> float:
        """Seconds from the first row read by a backfill to the last vector written."""
        return until(lambda: not self(STATES, ["pending", "running"])) - self(STARTED)


def until(done: Callable[[], object], every: float = 0.005) -> float:
    """The time at which the condition holds, in seconds since 1970, like PostgreSQL's times."""
    deadline = time.time() + TIMEOUT
    while not done():
        if time.time() > deadline:
            raise SystemExit(f"something has not happened in {TIMEOUT:.0f} s")
        time.sleep(every)
    return time.time()


# More rows.


def rows(bench: Bench, sizes: Sequence[int], rounds: int) -> None:
    for size in sizes:
        load_many(bench.url, size)
    for number in range(rounds):
        for size in sizes:
            if number == 0 or size <= MOST_IN_TURNS:
                _rows(bench, size)


def load_many(url: str, size: int) -> None:
    """Like harness.load, but inside PostgreSQL: the same 10,000 documents repeated, each with its own number."""
    pool = list(texts.documents(min(size, 10_000)))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE rows_{size} (id bigint PRIMARY KEY, body text NOT NULL)")
        connection.execute(
            f"INSERT INTO rows_{size} SELECT n, n || ' ' || (%s::text[])[1 + n %% %s] FROM generate_series(1, %s) n",
            (pool, len(pool), size),
        )
        connection.execute(f"VACUUM ANALYZE rows_{size}")


def _rows(bench: Bench, size: int) -> None:
    labels = {"rows": size, "dimensions": bench.dimensions}
    add = bench.found.add
    with bench.looking() as look, bench.worker() as worker:
        look.connection.execute("CHECKPOINT")
        with bench.attached([f"rows_{size}"]) as (id_,):
            until(lambda: not look(STATES, ["pending"]))
            cpu, wal = worker.cpu, look(WAL)
            seconds = look.until_written()
            add("backfill, s", seconds, labels)
            add("rows/s", size / seconds, labels)
            add("worker CPU ms/row", 1000 * (worker.cpu - cpu) / size, labels)
            add("WAL bytes/row", (look(WAL) - wal) / size, labels)
            add(
                "store bytes/row",
                look("SELECT pg_total_relation_size(%s::regclass)", f"_qwen_embed.store_{id_}") / size,
                labels,
            )
            assert look(f"SELECT count(*) FROM _qwen_embed.store_{id_}") == size
            if size <= MOST_IN_TURNS:
                _burst(bench, look, size, f"_qwen_embed.outbox_{id_}", labels)
            add("worker peak MB", worker.peak_mb, labels, LITTLE_MEMORY)


def _burst(bench: Bench, look: Look, size: int, outbox: str, labels: Labels) -> None:
    """Samples of the outbox. The true peak may be a little higher, the end 0.1 s earlier."""
    entries, length = f"SELECT count(*) FROM {outbox}", "SELECT pg_total_relation_size(%s::regclass) / 1e6"
    waiting, megabytes = [0.0], [0.0]
    with ThreadPoolExecutor() as threads:
        began = time.time()
        updating = threads.submit(_update_all, bench.url, size)

        def drained() -> bool:
            over = updating.done()
            waiting.append(look(entries))
            megabytes.append(look(length, outbox))
            return over and not waiting[-1]

        empty = until(drained, every=0.1)  # each count costs time
    time.sleep(TIDY)
    add = bench.found.add
    add("burst: changes/s", size / (updating.result() - began), labels)
    add("burst: outbox rows, most", max(waiting), labels)
    add("burst: outbox MB, most", max(megabytes), labels)
    add("burst: outbox MB, afterwards", look(length, outbox), labels)
    add("burst: s to drain", max(0.0, empty - updating.result()), labels)


def _update_all(url: str, size: int) -> float:
    """The time of the last commit."""
    with psycopg.connect(url, autocommit=True) as connection:
        for first in range(1, size + 1, BATCH):
            connection.execute(
                f"UPDATE rows_{size} SET body = body || ' again' WHERE id BETWEEN %s AND %s", (first, first + BATCH - 1)
            )
    return time.time()


# More workers.


def workers(bench: Bench, rounds: int) -> None:
    tables = load_shared(bench.url, "of_workers", 4, ROWS_OF_WORKERS)
    for _ in range(rounds):
        for count in WORKERS:
            _workers(bench, tables, count)


def _workers(bench: Bench, tables: Sequence[str], count: int) -> None:
    with bench.looking() as look, ExitStack() as stack:
        look.connection.execute("CHECKPOINT")
        processes = [stack.enter_context(bench.worker()) for _ in range(count)]
        with bench.attached(tables):
            seconds = look.until_written()
            leaders = look(LEADERS, int(Lock.LEADER))
            peak = max(process.peak_mb for process in processes)
    labels = {"workers": count, "embeddings": len(tables), "dimensions": bench.dimensions}
    bench.found.add("rows/s together", ROWS_OF_WORKERS / seconds, labels)
    bench.found.add("workers that lead", leaders, labels)
    bench.found.add("worker peak MB", peak, labels, LITTLE_MEMORY)


# More embeddings, and idle.


def load_shared(url: str, name: str, count: int, size: int) -> list[str]:
    """Create tables that share this number of rows."""
    tables = [f"{name}_{number}" for number in range(count)]
    documents = list(texts.documents(size))
    for number, table in enumerate(tables):
        harness.load(url, documents[number::count], table)
    return tables


def embeddings(bench: Bench, rounds: int, seconds: float, settle: float) -> None:
    tables = {count: load_shared(bench.url, f"of_{count}", count, SHARED_ROWS) for count in EMBEDDINGS}
    with bench.looking() as look:
        look.set("autovacuum", "off")
    for _ in range(rounds):
        for count in EMBEDDINGS:
            _embeddings(bench, tables[count], seconds, settle)
    with bench.looking() as look:
        look.set("autovacuum", "on")


def _embeddings(bench: Bench, tables: Sequence[str], seconds: float, settle: float) -> None:
    labels = {"embeddings": len(tables), "dimensions": bench.dimensions}
    with (
        bench.looking(make_conninfo(bench.url, dbname="template1")) as outside,
        bench.attached(tables),
        bench.worker() as worker,
    ):
        _backfill_together(bench, outside, labels)
        time.sleep(settle)
        for what, (value, goal) in _idle(outside, worker, seconds).items():
            bench.found.add(f"idle: {what}", value, labels, goal if len(tables) == max(EMBEDDINGS) else None)
        bench.found.add("change to vector, ms", statistics.median(_changes(bench.url, tables)), labels)
        bench.found.add("worker peak MB", worker.peak_mb, labels, LITTLE_MEMORY)


def _backfill_together(bench: Bench, outside: Look, labels: Labels) -> None:
    sessions = [0.0]

    def none_is(*states: str) -> bool:
        sessions.append(outside(SESSIONS))
        return not look(STATES, list(states))

    with bench.looking() as look:
        seconds = until(lambda: none_is("pending", "running")) - look(STARTED)
        until(lambda: none_is("indexing"))
    bench.found.add("rows/s together", SHARED_ROWS / seconds, labels)
    bench.found.add("connections, most", max(sessions), labels)


def _idle(outside: Look, worker: harness.Process, seconds: float) -> dict[str, tuple[float, Goal | None]]:
    """PostgreSQL's counts, read from another database, so that the query itself is not counted."""
    backends = [
        harness.Process(pid)
        for (pid,) in outside.connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_qwen_embed worker%'"
        )
    ]

    def counters() -> list[float]:
        transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'"
        return [outside(transactions), outside(WAL), 100 * worker.cpu, time.perf_counter()]

    before, used = counters(), _cpu(backends)
    time.sleep(seconds)
    *passed, lasted = (now - then for now, then in zip(counters(), before, strict=True))
    transactions, wal, worker_cpu = (amount / lasted for amount in passed)
    backend_cpu = sum(100 * (now - used[backend]) for backend, now in _cpu(backends).items()) / lasted
    return {
        "connections": (len(backends), FEW_CONNECTIONS),
        "transactions/s": (transactions, FEW_TRANSACTIONS),
        "WAL bytes/s": (wal, None),
        "worker CPU %": (worker_cpu, None),
        "backend CPU %": (backend_cpu, None),
    }


def _cpu(backends: Sequence[harness.Process]) -> dict[harness.Process, float]:
    """Memory of the connections that are still open: the worker closes those that it does not need."""
    found = {}
    for backend in backends:
        with suppress(FileNotFoundError):
            found[backend] = backend.cpu
    return found


def _changes(url: str, tables: Sequence[str]) -> list[float]:
    """Milliseconds of each change."""
    rng = random.Random(record.SEED)
    found = []
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(CHANGES):
            time.sleep(rng.uniform(0.05, 0.15))  # so that the worker sleeps again
            table, id_ = rng.choice(tables), rng.randint(1, SHARED_ROWS // len(tables))
            connection.execute(f"UPDATE {table} SET body = body || '.' WHERE id = %s", (id_,))
            committed = time.perf_counter()
            while connection.execute(f"SELECT 1 FROM qwen_embed.{table} WHERE id = %s AND stale", (id_,)).fetchone():
                time.sleep(0.0005)
            found.append(1000 * (time.perf_counter() - committed))
    return found


def main() -> None:
    parser = record.parser(__doc__, rounds=2)
    parts = ("embeddings", "workers", "rows")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=20, help="seconds of being idle")
    parser.add_argument("--settle", type=float, default=45, help="seconds before that")
    wanted = parser.parse_args()
    found = Findings()
    with (
        embedded.postgres(settings={"max_wal_size": "8GB", "shared_buffers": "1GB"}) as url,
        harness.gpu(64, 0, 0, wanted.dimensions) as server_url,
    ):
        migrate.init(url)
        bench = Bench(url, server_url, wanted.dimensions, found)
        if "embeddings" in wanted.parts:
            embeddings(bench, wanted.rounds, wanted.seconds, wanted.settle)
        if "workers" in wanted.parts:
            workers(bench, wanted.rounds)
        if "rows" in wanted.parts:
            rows(bench, wanted.rows, wanted.rounds)
        record.report("scale", wanted, url, found.figures())


if __name__ == "__main__":
    main()
