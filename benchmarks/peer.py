"""The peer that the benchmarks compare with: pgai's vectorizer and its worker, in a virtual environment of its own.

    python benchmarks/peer.py [--folder .venv-pgai]

installs it once (several GB). It is optional: a benchmark calls `installed()` and leaves the peer out if it is not.
A vectorizer here does what ours does: it embeds the whole text of a row into a separate table, without an index. It has
the batch size and concurrency that were best for it. The key of the source is `id`."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import psycopg
from psycopg import sql
from psycopg.abc import Params

VERSION = "0.12.1"
FOLDER = Path(__file__).parents[1] / ".venv-pgai"
BATCH, CONCURRENCY = 200, 4

_ENVIRONMENT = {"OPENAI_API_KEY": "x", "DD_TRACE_ENABLED": "false", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
_CREATE = """
SELECT ai.create_vectorizer(
    %(table)s::regclass, enqueue_existing => %(enqueue_existing)s,
    loading => ai.loading_column('body'), chunking => ai.chunking_none(), destination => ai.destination_table(),
    embedding => ai.embedding_openai('modelled-gpu', %(dimensions)s, base_url => %(server_url)s),
    processing => ai.processing_default(batch_size => %(batch)s, concurrency => %(concurrency)s),
    indexing => ai.indexing_none(), scheduling => ai.scheduling_none())
"""
_PRETEND = """
INSERT INTO {store} (id, chunk_seq, chunk, embedding)
SELECT id, 0, body, array_fill(0.1::real, ARRAY[%(dimensions)s])::vector FROM {table}
"""
_QUEUE = "SELECT queue_schema, queue_table FROM ai.vectorizer WHERE id = %s"


@dataclass(frozen=True)
class Vectorizer:
    """A vectorizer of a table; its vectors are in the table <table>_embedding_store."""

    number: int
    table: str

    def count(self, connection: psycopg.Connection) -> int:
        """How many rows have an embedding."""
        return int(_value(connection, sql.SQL("SELECT count(*) FROM {}").format(self._store)))

    def forget(self, connection: psycopg.Connection) -> None:
        """Empty its queue."""
        schema, table = connection.execute(_QUEUE, (self.number,)).fetchone() or ("", "")
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(schema, table)))

    def pretend(self, connection: psycopg.Connection, dimensions: int) -> None:
        """Give every row a vector, without the worker."""
        query = sql.SQL(_PRETEND).format(store=self._store, table=sql.Identifier(self.table))
        connection.execute(query, {"dimensions": dimensions})

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the vectorizer with its vectors."""
        connection.execute("SELECT ai.drop_vectorizer(%s, drop_all => true)", (self.number,))

    @property
    def _store(self) -> sql.Identifier:
        return sql.Identifier(f"{self.table}_embedding_store")


def installed(folder: Path = FOLDER) -> bool:
    return _program(folder).exists()


def versions() -> dict[str, str]:
    """The versions of what is installed, for a record."""
    return {"pgai": VERSION} if installed() else {}


def install(folder: Path = FOLDER) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"pgai[vectorizer-worker]=={VERSION}"], check=True)


def init(url: str, folder: Path = FOLDER) -> None:
    """Create its schema `ai`, and the extension vector."""
    command = ["install", "-d", url]
    assert harness.run(command, _ENVIRONMENT, [str(_program(folder))]).status == 0


def vectorizer(
    connection: psycopg.Connection, server_url: str, table: str, dimensions: int, *, enqueue_existing: bool = True
) -> Vectorizer:
    """Create a vectorizer; with enqueue_existing=False it gets later changes only."""
    values = {"table": table, "server_url": server_url, "dimensions": dimensions, "enqueue_existing": enqueue_existing,
              "batch": BATCH, "concurrency": CONCURRENCY}  # fmt: skip
    return Vectorizer(int(_value(connection, _CREATE, values)), table)


def once(url: str, folder: Path = FOLDER) -> harness.Ended:
    """Run its worker until every queue of the database is empty."""
    return harness.run([*_worker(url), "--once", "--log-level", "ERROR"], _ENVIRONMENT, [str(_program(folder))])


@contextmanager
def worker(url: str, poll: str = "1s", folder: Path = FOLDER) -> Iterator[subprocess.Popen[str]]:
    """Its worker, which polls every `poll`. It is ready after the first poll that finds an empty queue."""
    arguments = [*_worker(url), "--poll-interval", poll]
    with harness.started(arguments, _ENVIRONMENT, "sleeping for", [str(_program(folder))]) as (process, _):
        yield process


def _worker(url: str) -> list[str]:
    return ["vectorizer", "worker", "-d", url]


def _program(folder: Path) -> Path:
    return folder / "bin" / "pgai"


def _value(connection: psycopg.Connection, query: str | sql.Composed, values: Params = ()) -> Any:
    """The first value that the query returns."""
    (found,) = connection.execute(query, values).fetchone() or (None,)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    wanted = parser.parse_args()
    if not installed(wanted.folder):
        install(wanted.folder)


if __name__ == "__main__":
    main()
