"""A life: a database with one embedding, an application, an administrator and a worker, and every way to move it.

What happens is drawn from a seed. After each move the vectors must come right by themselves, or after the command that
docs/operations.md names. The application's statements are such that none may fail: keys that are taken are left alone.
Each move is written down, so that a life that goes wrong can be told."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, Process, eventually, quoted
from psycopg.conninfo import conninfo_to_dict, make_conninfo

LAYOUTS = {"table": (), "column": ("--store", "column"), "chunked": ("--chunk-tokens", "64")}
IDS = 12  # few, so that changes meet
PATIENCE = 60.0  # seconds until everything must have come right
NAME = "articles"


class WentWrong(AssertionError):
    """What was not as it should be, with the moves that led to it."""


@dataclass
class Table:
    """What the application calls its table and columns."""

    schema: str = "public"
    name: str = "articles"
    key: str = "id"
    text: str = "body"
    type: str = "int"
    tenant: bool = False
    extra: list[str] = field(default_factory=list)  # columns that are not embedded

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def keys(self) -> str:
        return f"tenant, {quoted(self.key)}" if self.tenant else quoted(self.key)


@dataclass
class Life:
    clusters: tuple[Cluster, ...]  # the first one is that of the beginning; a switch-over goes to the next
    server: FakeSGLang
    folder: Path
    layout: str
    rng: random.Random
    steps: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    table: Table = field(default_factory=Table)
    stack: ExitStack = field(default_factory=ExitStack)
    _texts: int = 0
    _databases: int = 0

    def __enter__(self) -> "Life":
        self.cluster = self.clusters[0]
        self._enter(self._new_database("initialised"))
        self.do(f"CREATE TABLE {self.table.sql} (id int PRIMARY KEY, body text, views int NOT NULL DEFAULT 0)")
        self.application()
        self.run("attach", self.table.sql, "--name", NAME, "--text", "body", *LAYOUTS[self.layout])
        self.start_worker()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(drop=True)

    def say(self, step: str) -> None:
        self.steps.append(step)

    # The database and its processes

    def _new_database(self, template: str = "template1", cluster: Cluster | None = None) -> str:
        self._databases += 1
        name = f"life_{time.monotonic_ns()}"
        with psycopg.connect((cluster or self.cluster).url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return make_conninfo((cluster or self.cluster).url, dbname=name)

    def _enter(self, url: str) -> None:
        self.stack, self.database = ExitStack(), str(conninfo_to_dict(url)["dbname"])
        self.harness = Harness(url, self.server, self.folder, self.stack)
        self.session = self.harness.connect()  # the application's; its plans outlive what is altered

    def _leave(self, *, drop: bool) -> None:
        self.stack.close()
        if drop:
            with psycopg.connect(self.cluster.url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {self.database} WITH (FORCE)")

    def go_on_in(self, url: str, cluster: Cluster | None = None) -> None:
        """Everyone leaves the database for another one; a worker is started there."""
        self._leave(drop=True)
        self.cluster = cluster or self.cluster
        self._enter(url)
        self.start_worker()

    def start_worker(self) -> None:
        self.worker: Process = self.harness.worker("--poll", "0.5")
        eventually(lambda: "connected " in self.worker.said or self.worker.popen.poll() is not None, PATIENCE)

    def end_worker(self, number: int = signal.SIGTERM) -> None:
        self.worker.end(number)

    def tool(self, name: str, *arguments: str | Path, source: Harness | None = None) -> None:
        """Run pg_dump, pg_restore or psql of the server's version. It must succeed."""
        program = Path((source or self.harness).value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / name
        self.say(f"$ {name} {' '.join(map(str, arguments))}")
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise WentWrong(f"{name} failed: {done.stderr[-2000:]}")

    # People

    def do(self, statement: str) -> None:
        """A statement of the application, or of those who migrate its table: it must not fail."""
        self.say(statement)
        try:
            self.session.execute(statement)
        except psycopg.Error as error:
            raise WentWrong(f"the statement failed: {error}") from error

    def administer(self, statement: str) -> None:
        """A statement that harms what is ours; where it meets the worker, it is tried again."""
        self.say(f"{statement}  -- by hand")
        for attempt in range(5):
            try:
                self.harness.execute(statement)
                return
            except psycopg.errors.DeadlockDetected:
                if attempt == 4:
                    raise

    def run(self, *arguments: str) -> None:
        self.say(f"$ pg-qwen-embed {' '.join(arguments)}")
        result = self.harness.cli(*arguments)
        if result.exit_code:
            raise WentWrong(f"the command failed: {result.output} {result.exception!r}")

    def verify_repair(self) -> None:
        """`verify --repair`. Its exit status is of no account."""
        self.say(f"$ pg-qwen-embed verify {NAME} --repair")
        result = self.harness.cli("verify", NAME, "--repair")
        if not isinstance(result.exception, SystemExit | None) or "Error" in result.output:
            raise WentWrong(f"the repair failed: {result.output} {result.exception!r}")

    def text(self) -> str:
        self._texts += 1
        drawn = self.rng.random()
        if drawn < 0.1:
            return self.rng.choice(["NULL", "''", "E' \\t'"])
        return f"'text {self._texts}'" if drawn < 0.9 else f"'again {self.rng.randint(1, 3)}'"

    def application(self, most: int = 6) -> None:
        for _ in range(self.rng.randint(1, most)):
            self.rng.choice(self._statements)(self)

    def _key(self) -> str:
        id_ = str(self.rng.randint(1, IDS))
        return f"{self.rng.randint(0, 1)}, {id_}" if self.table.tenant else id_

    def _upsert(self) -> None:
        t, rows = self.table, {self._key(): self.text() for _ in range(self.rng.randint(1, 4))}
        values = ", ".join(f"({key}, {text})" for key, text in rows.items())
        text = quoted(t.text)
        otherwise = f"ON CONFLICT ({t.keys}) DO UPDATE SET {text} = excluded.{text}"
        self.do(f"INSERT INTO {t.sql} ({t.keys}, {text}) VALUES {values} {otherwise}")

    def _update(self) -> None:
        t = self.table
        self.do(f"UPDATE {t.sql} SET {quoted(t.text)} = {self.text()} WHERE ({t.keys}) = ({self._key()})")

    def _update_many(self) -> None:
        t = self.table
        changed = self.rng.choice([f"{quoted(t.text)} = {quoted(t.text)} || '.'", "views = views + 1"])
        self.do(f"UPDATE {t.sql} SET {changed} WHERE {quoted(t.key)} <= {self.rng.randint(1, IDS)}")

    def _delete(self) -> None:
        self.do(f"DELETE FROM {self.table.sql} WHERE ({self.table.keys}) = ({self._key()})")

    def _change_key(self) -> None:
        t, to = self.table, self._key()
        free = f"NOT EXISTS (SELECT FROM {t.sql} WHERE ({t.keys}) = ({to}))"
        self.do(f"UPDATE {t.sql} SET ({t.keys}) = ROW({to}) WHERE ({t.keys}) = ({self._key()}) AND {free}")

    def _roll_back(self) -> None:
        t = self.table
        self.do("BEGIN")
        self.do(f"UPDATE {t.sql} SET {quoted(t.text)} = {self.text()}")
        self.do("ROLLBACK")

    def _truncate(self) -> None:
        if self.rng.random() < 0.2:
            self.do(f"TRUNCATE {self.table.sql}")

    _statements: tuple[Callable[["Life"], None], ...] = (
        _upsert, _upsert, _upsert, _update, _update, _update_many, _delete, _change_key, _roll_back, _truncate,
    )  # fmt: skip

    # What must be true at rest

    def come_to_rest(self) -> None:
        self.say("-- at rest?")
        if self.worker.popen.poll() is not None:
            raise WentWrong("the worker ended by itself")
        end = time.monotonic() + PATIENCE
        while not (self.harness.settled(NAME) and self.harness.cli("verify", NAME).exit_code == 0):
            if time.monotonic() > end:
                status, found = (self.harness.cli(command, NAME).output for command in ("status", "verify"))
                raise WentWrong(f"it does not come right: {found}; {status}")
            time.sleep(0.05)
        text = quoted(self.table.text)
        self.harness.assert_in_step(text, NAME)
        blank = f"btrim(coalesce({text}, ''), E' \\t') = ''"
        documents = self.harness.value(f"SELECT count(*) FROM {self.table.sql} WHERE NOT {blank}")
        shown = self.harness.value(f"SELECT count(*) FROM qwen_embed.{NAME} WHERE NOT stale")
        stored = self.harness.value(f"SELECT count(*) FROM {self.harness.internal('store', NAME)}")
        rows = self.harness.value(f"SELECT count(*) FROM {self.table.sql}")
        failures = self.harness.count("failure", NAME)
        if shown != documents or stored > rows or failures:
            raise WentWrong(f"{documents=} {shown=} {rows=} {stored=} {failures=}")

    # Life goes on

    def move(self, moves: dict[str, Callable[["Life"], None]]) -> None:
        """One move, with changes before and after it."""
        self.application()
        if self.rng.random() < 0.5:
            self.come_to_rest()
        name = self.rng.choice(list(moves))
        self.say(f"-- {name}")
        moves[name](self)
        self.done[name] += 1
        self.application()
        if self.rng.random() < 0.7:
            self.come_to_rest()

    def told(self) -> str:
        """What has happened, and the worker's last words."""
        return "\n".join([*self.steps, "--- worker", *self.worker.said.splitlines()[-25:]])


def value(connection: "psycopg.Connection[Any]", query: str, *values: Any) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return row[0] if row else None
