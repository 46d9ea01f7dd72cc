"""Chaos: random writes on three embeddings, real workers, real faults; then every vector is checked against its row.

    python tests/faults/chaos.py [--minutes 10] [--version 18] [--seed N]

Ends with a line of figures, and with status 1 if a row is wrong, missing, orphaned or doubled, or if something is left."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from fake_sglang import FakeSGLang
from harness import restart, setting
from proxy import Proxy
from psycopg.conninfo import make_conninfo

from pg_qwen_embed.postgres import embedded

CALM_DOWN = 120.0  # seconds until everything must have settled
KEYS = 120  # few, so that writers meet
SCHEMA = """
CREATE TABLE plain (id bigint PRIMARY KEY, body text, views int NOT NULL DEFAULT 0);
CREATE SCHEMA "Wéird";
CREATE TABLE "Wéird"."Täble" (lang text, id int, title text, body text, views int DEFAULT 0, PRIMARY KEY (lang, id));
CREATE TABLE own (id bigint PRIMARY KEY, body text, views int NOT NULL DEFAULT 0);
"""
ATTACH = (
    ("plain", "--text", "body"),
    ('"Wéird"."Täble"', "--template", "{title}: {body}", "--name", "weird"),
    ("own", "--text", "body", "--store", "column"),
)
# Each embedding with its document, as SQL over its source, written separately from the code under test.
DOCUMENTS = {
    "plain": ("public.plain", "body"),
    "weird": ('"Wéird"."Täble"', "CASE WHEN num_nonnulls(title, body) > 0 THEN concat(title, ': ', body) END"),
    "own": ("public.own", "body"),
}


@dataclass
class Arena:
    """All processes that take part, and what happened to them."""

    url: str
    server: FakeSGLang
    proxy: Proxy
    rng: random.Random
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    writing: threading.Event = field(default_factory=threading.Event)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        # The second worker reaches PostgreSQL through the proxy.
        proxied = make_conninfo(self.url, host="127.0.0.1", port=self.proxy.port)
        url = proxied if arguments == ("worker", "1") else self.url
        environment = {"PG_QWEN_EMBED_DATABASE_URL": url, "PG_QWEN_EMBED_SERVER_URL": self.server.url}
        given = ["worker", "--poll", "2", "--request-timeout", "2"] if arguments[0] == "worker" else list(arguments)
        with self.log(*arguments).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pg_qwen_embed", *given], env=os.environ | environment, stdout=log, stderr=log
            )

    def log(self, *arguments: str) -> Path:
        """The output of a command; each worker has its own."""
        return self.folder / f"{'-'.join(arguments[: 2 if arguments[0] == 'worker' else 1])}.log"

    def run(self, *arguments: str) -> None:
        if self.command(*arguments).wait(60):
            raise SystemExit(f"{arguments} failed:\n{self.log(*arguments).read_text()[-2000:]}")

    def start_worker(self, number: int) -> None:
        """Start a worker, and wait until it has connected: one that never could ends with a message, as it must."""
        log = self.log("worker", str(number))
        before = log.read_text().count("connected ") if log.exists() else 0
        self.workers[number : number + 1] = [self.command("worker", str(number))]
        deadline = time.monotonic() + 30
        while log.read_text().count("connected ") == before and time.monotonic() < deadline:
            time.sleep(0.02)

    def connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.url, autocommit=True)


# Writers


def document(rng: random.Random) -> str | None:
    kind = rng.random()
    if kind < 0.05:
        return rng.choice([None, "", " \u3000\t"])
    return f"POISON {rng.random()}" if kind < 0.06 else f"text {rng.random()}"


def writes(rng: random.Random) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Random statements, without end."""
    while True:
        table = rng.choice(["plain", "own", "plain", "weird"])
        id_, other, text = rng.randint(1, KEYS), rng.randint(1, KEYS), document(rng)
        kind = rng.random()
        if table == "weird":
            yield from _weird(rng.choice(["de", "zh"]), id_, other, text, kind)
        elif kind < 0.35:
            yield (f"INSERT INTO {table} (id, body) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                   (id_, text))  # fmt: skip
        elif kind < 0.6:
            yield f"UPDATE {table} SET body = %s WHERE id = %s", (text, id_)
        elif kind < 0.7:
            yield f"UPDATE {table} SET views = views + 1 WHERE id BETWEEN %s AND %s", (id_, id_ + 5)
        elif kind < 0.8:
            yield f"DELETE FROM {table} WHERE id = %s", (id_,)
        elif kind < 0.9:
            yield f"UPDATE {table} SET id = %s WHERE id = %s", (other, id_)
        elif kind < 0.995:
            yield (f"MERGE INTO {table} t USING (VALUES (%s::bigint, %s)) v(id, body) ON t.id = v.id "
                   "WHEN MATCHED THEN UPDATE SET body = v.body WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.body)",
                   (id_, text))  # fmt: skip
        elif rng.random() < 0.1:
            yield f"TRUNCATE {table}", ()


def _weird(lang: str, id_: int, other: int, text: str | None, kind: float) -> Iterator[tuple[str, tuple[Any, ...]]]:
    table = '"Wéird"."Täble"'
    if kind < 0.5:
        yield (f"INSERT INTO {table} VALUES (%s, %s, %s, %s) ON CONFLICT (lang, id) DO UPDATE SET body = excluded.body",
               (lang, id_, "title", text))  # fmt: skip
    elif kind < 0.7:
        yield f"UPDATE {table} SET title = %s WHERE lang = %s AND id = %s", (text, lang, id_)
    elif kind < 0.8:
        yield f"DELETE FROM {table} WHERE lang = %s AND id < %s", (lang, min(id_, 20))
    elif kind < 0.9:
        yield f"UPDATE {table} SET id = %s WHERE lang = %s AND id = %s", (other, lang, id_)
    else:
        yield f"UPDATE {table} SET views = views + 1", ()


def write(arena: Arena, seed: int) -> None:
    """Transactions of a few statements. Some are rolled back, wholly or to a savepoint; some commit late."""
    rng = random.Random(seed)
    source = writes(rng)
    connection: psycopg.Connection[Any] | None = None
    while arena.writing.is_set():
        try:
            if connection is None or connection.closed:
                connection = psycopg.connect(arena.url)
            _transaction(connection, rng, source)
            arena.done["transactions"] += 1
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            connection.rollback() if connection else None
            arena.done["rolled back by PostgreSQL"] += 1
        except (psycopg.OperationalError, psycopg.Rollback):  # Rollback: of a savepoint, on a lost connection
            arena.done["writer disconnected"] += 1
            connection = None
            time.sleep(0.1)
        except psycopg.Error as error:
            # The application must never fail because of us.
            arena.done["application errors"] += 1
            print(f"application error: {error}", flush=True)
            connection = None
        time.sleep(rng.random() * 0.02)
    if connection is not None and not connection.closed:
        connection.close()


def _transaction(connection: "psycopg.Connection[Any]", rng: random.Random, source: Iterator[Any]) -> None:
    for _ in range(rng.randint(1, 4)):
        query, values = next(source)
        if rng.random() < 0.1:
            with connection.transaction() as savepoint:
                connection.execute(query, values)
                if rng.random() < 0.5:
                    raise psycopg.Rollback(savepoint)
        else:
            connection.execute(query, values)
    if rng.random() < 0.03:
        time.sleep(rng.random())  # a late commit
    connection.rollback() if rng.random() < 0.1 else connection.commit()


# Faults: each breaks something, waits, and repairs it


def kill_worker(arena: Arena) -> None:
    number = arena.rng.randrange(len(arena.workers))
    arena.workers[number].kill()
    arena.workers[number].wait()
    time.sleep(arena.rng.random())
    arena.start_worker(number)


def stop_and_continue_worker(arena: Arena) -> None:
    worker = arena.rng.choice(arena.workers)
    worker.send_signal(signal.SIGSTOP)
    time.sleep(arena.rng.uniform(0.5, 4))
    worker.send_signal(signal.SIGCONT)


def terminate_backend(arena: Arena) -> None:
    with arena.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE application_name LIKE 'pg_qwen_embed worker%' ORDER BY random() LIMIT 2) p"
        )


def set_sequences_back(arena: Arena) -> None:
    with arena.connect() as connection:
        connection.execute(
            "SELECT setval(pg_get_serial_sequence(format('_qwen_embed.outbox_%s', id), 'seq'), 1 + (random() * 100)::int) "
            "FROM _qwen_embed.generation"
        )


def sever_connections(arena: Arena) -> None:
    arena.proxy.cut()


def proxied(mode: str) -> Callable[[Arena], None]:
    def fault(arena: Arena) -> None:
        arena.proxy.mode = mode
        time.sleep(arena.rng.uniform(1, 5))
        arena.proxy.mode = "pass"
        if mode == "swallow":  # what it has swallowed is lost: these connections are of no use
            arena.proxy.cut()

    return fault


def restart_postgres(arena: Arena) -> None:
    restart(arena.url)


def server_fault(fault: str) -> Callable[[Arena], None]:
    def act(arena: Arena) -> None:
        arena.server.fault = fault
        time.sleep(arena.rng.uniform(0.5, 3))
        arena.server.fault = None

    return act


def slow_server(arena: Arena) -> None:
    arena.server.delay = 0.5
    time.sleep(2)
    arena.server.delay = 0.0


FAULTS: dict[str, Callable[[Arena], None]] = {
    "worker killed -9": kill_worker,
    "worker stopped and continued": stop_and_continue_worker,
    "backends terminated": terminate_backend,
    "connections cut": sever_connections,
    "sequences set back": set_sequences_back,
    "connections delayed": proxied("delay"),
    "connections swallowed": proxied("swallow"),
    "connections refused": proxied("refuse"),
    "postgres restarted": restart_postgres,
    "server slow": slow_server,
    **{
        f"server {name}": server_fault(name) for name in ("503", "500", "hang", "html", "nan", "too_few", "index_twice")
    },
}


# What must be true at the end


def settle(arena: Arena) -> None:
    """End all faults: the server takes everything, failures are tried again, and all pending work is done."""
    arena.server.fault = arena.server.poison = None
    arena.server.delay, arena.proxy.mode = 0.0, "pass"
    for number, worker in enumerate(arena.workers):
        worker.send_signal(signal.SIGCONT)
        if worker.poll() is not None:
            raise SystemExit(
                f"worker {number} ended by itself:\n{arena.log('worker', str(number)).read_text()[-4000:]}"
            )
    deadline = time.monotonic() + CALM_DOWN
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), arena.connect() as connection:
            for name in DOCUMENTS:
                arena.run("failures", "retry", name)
            left = sum(_left(connection, name) for name in DOCUMENTS)
            if not left:
                return
        time.sleep(0.5)
    raise SystemExit(
        f"{left} changes or failures left after {CALM_DOWN} s:\n{arena.log('worker', '0').read_text()[-4000:]}"
    )


def _left(connection: "psycopg.Connection[Any]", name: str) -> int:
    query = """SELECT g.id FROM _qwen_embed.embedding e JOIN _qwen_embed.generation g ON g.embedding_id = e.id
               WHERE e.name = %s"""
    (id_,) = connection.execute(query, (name,)).fetchone() or (0,)
    tables = (
        f"SELECT (SELECT count(*) FROM _qwen_embed.outbox_{id_}) + (SELECT count(*) FROM _qwen_embed.failure_{id_})"
    )
    (left,) = connection.execute(tables).fetchone() or (0,)
    return int(left)


def count_wrong(arena: Arena) -> Counter[str]:
    """By kind, from the documents themselves: each row's vector must be the server's embedding of its current document."""
    wrong: Counter[str] = Counter(wrong=0, missing=0, orphaned=0, doubled=0)
    with arena.connect() as connection:
        for name, (table, expression) in DOCUMENTS.items():
            keys = "lang || '/' || id" if name == "weird" else "id::text"
            documents = dict(connection.execute(f"SELECT {keys}, {expression} FROM {table}").fetchall())
            found = connection.execute(f"SELECT {keys}, embedding::text FROM qwen_embed.{name}").fetchall()
            wrong.update(_compare(arena.server, documents, found))
            wrong["orphaned"] += _orphans(connection, name, table)
            arena.done["rows"] += len(documents)
    return wrong


def _compare(server: FakeSGLang, documents: dict[str, str | None], found: list[tuple[str, str]]) -> Counter[str]:
    wrong: Counter[str] = Counter()
    vectors = dict(found)
    wrong["doubled"] += len(found) - len(vectors)
    for key, text in documents.items():
        if text is None or not text.strip():
            wrong["orphaned"] += key in vectors
        elif key not in vectors:
            wrong["missing"] += 1
        elif not np.allclose(np.array(json.loads(vectors[key])), server.vector(text), atol=2e-3):
            wrong["wrong"] += 1
    return wrong


def _orphans(connection: "psycopg.Connection[Any]", name: str, table: str) -> int:
    query = """SELECT g.id, e.key FROM _qwen_embed.embedding e JOIN _qwen_embed.generation g ON g.embedding_id = e.id
               WHERE e.name = %s"""
    id_, key = connection.execute(query, (name,)).fetchone() or (0, [])
    match = " AND ".join(f"t.{column} = s.k{n}" for n, column in enumerate(key, 1))
    query = f"SELECT count(*) FROM _qwen_embed.store_{id_} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {match})"
    (orphans,) = connection.execute(query).fetchone() or (0,)
    return int(orphans)


@contextmanager
def arena_of(version: int, seed: int) -> Iterator[Arena]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg_qwen_embed_chaos_")))
        url = stack.enter_context(embedded.postgres(version=version))
        server = stack.enter_context(FakeSGLang().running())
        server.poison = "POISON"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SCHEMA)
        socket = setting(url, "unix_socket_directories")
        proxy = stack.enter_context(Proxy(f"{socket}/.s.PGSQL.5432").running())
        arena = Arena(url, server, proxy, random.Random(seed), folder)
        arena.run("init")
        for arguments in ATTACH:
            arena.run("attach", *arguments)
        for number in range(3):
            arena.start_worker(number)
        try:
            yield arena
        finally:
            for worker in arena.workers:
                worker.kill()
                worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--version", type=int, default=embedded.NEWEST)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is stopped
    print(f"chaos: PostgreSQL {wanted.version}, seed {wanted.seed}, {wanted.minutes} minutes", flush=True)
    with arena_of(wanted.version, wanted.seed) as arena:
        wrong = play(arena, wanted.minutes * 60, wanted.seed)
    figures = {"version": wanted.version, "seed": wanted.seed, **arena.done, "faults": sum(arena.faults.values()),
               "by kind": dict(arena.faults), "embeddings": len(arena.server.texts), **wrong}  # fmt: skip
    print(json.dumps(figures))
    if sum(wrong.values()) or arena.done["application errors"]:
        raise SystemExit(1)


def play(arena: Arena, seconds: float, seed: int) -> Counter[str]:
    arena.writing.set()
    writers = [threading.Thread(target=write, args=(arena, seed + n)) for n in range(4)]
    for writer in writers:
        writer.start()
    try:
        end = time.monotonic() + seconds
        order: list[str] = []
        while time.monotonic() < end:
            order = order or arena.rng.sample(list(FAULTS), len(FAULTS))  # every kind is used
            name = order.pop()
            with suppress(psycopg.OperationalError):
                FAULTS[name](arena)
                arena.faults[name] += 1
            time.sleep(arena.rng.uniform(0.1, 1.5))
    finally:
        arena.writing.clear()
        for writer in writers:
            writer.join()
    settle(arena)
    return count_wrong(arena)


if __name__ == "__main__":
    main()
