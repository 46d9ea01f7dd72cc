"""What the demo runs: a database, an embedding server and a worker, all real, all removed afterwards.

In its own database, owner, worker and reader have roles of their own, with the rights that `sql grants` prints.

Nothing is printed here; that is left to cli/demo.py."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pg_qwen_embed.admin import attach
from pg_qwen_embed.admin import sql as printing
from pg_qwen_embed.demo.corpus import Document
from pg_qwen_embed.domain.errors import Error, ServerUnavailable
from pg_qwen_embed.postgres import catalog, embedded, migrate
from pg_qwen_embed.postgres.connection import Connection, connect
from pg_qwen_embed.postgres.grants import Roles
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.settings import Settings

NAME = "demo"
PURPOSE = "pg_qwen_embed demo"
TABLE = "qwen_embed_demo.documentation"
OWNER, WORKER, READER = printing.DEFAULT_NAMES
DATABASE_VARIABLE = "PG_QWEN_EMBED_DATABASE_URL"
SERVER_VARIABLE = "PG_QWEN_EMBED_SERVER_URL"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Database:
    """The URL of one database for each role. In a database that is given they are the same."""

    owner: str
    worker: str
    reader: str


@contextmanager
def database() -> Iterator[Database]:
    """The database in PG_QWEN_EMBED_DATABASE_URL (never DATABASE_URL), or an embedded one."""
    given = os.environ.get(DATABASE_VARIABLE)
    if given:
        yield Database(given, given, given)
        return
    with embedded.postgres() as url:
        yield _with_roles(url)


def _with_roles(url: str) -> Database:
    """Creates the extension and the roles: all that the demo needs a superuser for."""
    with connect(url, PURPOSE) as connection:
        migrate.ensure_extension(connection)
        roles = Roles(OWNER, WORKER, None)
        connection.execute(printing.grants(roles, None, connection.info.dbname, url, create=True).encode())
        connection.execute(statement("create_role", role=sql.Identifier(READER)))
    return Database(*(make_conninfo(url, user=role) for role in (OWNER, WORKER, READER)))


def let_read(connection: Connection, database: Database) -> None:
    """Gives the reader its rights, after attach."""
    if database.reader != database.owner:
        roles = Roles(None, None, READER)
        connection.execute(printing.grants(roles, printing.subject(connection, NAME), None, database.owner).encode())


@contextmanager
def server() -> Iterator[str]:
    """The URL of the server in PG_QWEN_EMBED_SERVER_URL, or of the local one on a free port."""
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        yield given
        return
    with _process(["serve", "--port", "0"], {}, "serving ") as line:
        yield line.split()[-1]


@contextmanager
def worker(database: Database, settings: Settings) -> Iterator[None]:
    """A worker that follows the demo's embedding until the end of the block."""
    environment = {DATABASE_VARIABLE: database.worker, SERVER_VARIABLE: settings.server_list}
    with _process(["worker"], environment, "following "):
        yield


@contextmanager
def schema(url: str, documents: Iterable[Document]) -> Iterator[Connection]:
    """The demo's table with its documents. At the end, everything that the demo created in the database is removed."""
    with connect(url, PURPOSE) as connection:
        row = connection.execute(statement("is_initialised")).fetchone()
        was_there = bool(row and row[0])
        migrate.init(url)
        connection.execute(statement("demo_create"))
        try:
            with connection.cursor() as cursor, cursor.copy(statement("demo_copy")) as copy:
                for document in documents:
                    copy.write_row((document.name, document.kind, document.doc))
            yield connection
        finally:
            _remove(connection, was_there)


def _remove(connection: Connection, was_there: bool) -> None:
    ours = [one.embedding for one in catalog.registered(connection, NAME) if str(one.embedding.source.table) == TABLE]
    for embedding in ours:  # another embedding of the user may have the name
        attach.detach(connection, embedding.name)
    connection.execute(statement("demo_drop"))
    if not was_there and not catalog.registered(connection):
        connection.execute(statement("demo_uninstall"))


def followed_after(connection: Connection, change: str, values: dict[str, str], timeout: float = 30.0) -> float:
    """Make a change. Returns how many milliseconds after its commit the view shows the new vector. Raises Error."""
    connection.execute(statement(change), values)
    committed = time.perf_counter()
    while time.perf_counter() - committed < timeout:
        row = connection.execute(statement("demo_followed"), {"name": values["name"]}).fetchone()
        if row and row[0]:
            return 1000 * (time.perf_counter() - committed)
        time.sleep(0.0005)
    raise Error(f"the vector of {values['name']} did not follow within {timeout:.0f} s")


@contextmanager
def _process(arguments: list[str], environment: dict[str, str], ready: str) -> Iterator[str]:
    """`pg-qwen-embed ...` in the background until the end of the block. Yields its first line that contains `ready`."""
    with tempfile.TemporaryDirectory(prefix="pg_qwen_embed_") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pg_qwen_embed", *arguments],
                env=os.environ | environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            yield _wait_for(process, log, ready)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: subprocess.Popen[bytes], log: Path, ready: str) -> str:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        found = next((line for line in lines if ready in line), None)
        if found:
            return found
        if process.poll() is not None:
            raise ServerUnavailable(f"a process of the demo ended{f': {lines[-1]}' if lines else ' without output'}")
        time.sleep(0.02)
    raise ServerUnavailable(f"a process of the demo was not ready within {_START_TIMEOUT:.0f} s")
