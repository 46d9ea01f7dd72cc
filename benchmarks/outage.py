"""The embedding server is killed during writes and restarted later: what is lost, and how long catching up takes.

    python benchmarks/outage.py [--seconds 60] [--writes 100]

Prints one line of JSON. caught_up_s: from the server's return until no change is pending, while writes go on."""

import argparse
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import harness
import psycopg
import texts

from pg_qwen_embed.postgres import embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writes", type=int, default=100, help="writes per second")
    wanted = parser.parse_args()
    port = _free_port()
    with embedded.postgres() as url:
        environment = harness.environment(url, f"http://127.0.0.1:{port}/v1")
        harness.load(url, ["the first document"])
        with _server(port):
            for command in (["init"], ["attach", "documents", "--text", "body"]):
                assert harness.run(command, environment).status == 0
        # From here on the server is down.
        with harness.started(["worker"], environment, "following"), _writing(url, wanted.writes) as written:
            time.sleep(wanted.seconds)
            behind = _value(url, "SELECT count(*) FROM _qwen_embed.outbox_1")
            with _server(port):
                back = time.perf_counter()
                while _value(
                    url, "SELECT count(*) FROM _qwen_embed.outbox_1 WHERE changed_at < now() - interval '1 s'"
                ):
                    time.sleep(0.02)
                caught_up = time.perf_counter() - back
                written.stop()
                while _value(url, "SELECT count(*) FROM _qwen_embed.outbox_1"):
                    time.sleep(0.02)
                rows, vectors = (
                    _value(url, f"SELECT count(*) FROM {table}") for table in ("documents", "qwen_embed.documents")
                )
                failures = _value(url, "SELECT count(*) FROM _qwen_embed.failure_1")
    harness.report(
        "server away", seconds=wanted.seconds, writes_per_second=wanted.writes, behind_at_return=behind,
        caught_up_s=round(caught_up, 2), rows=rows, vectors=vectors, failures=failures,
    )  # fmt: skip


@contextmanager
def _server(port: int) -> Iterator[None]:
    with harness.started(["serve", "--port", str(port)], {}, "serving"):
        yield


class Writing(threading.Thread):
    """Inserts at a steady rate until stopped."""

    def __init__(self, url: str, pace: int) -> None:
        super().__init__()
        self._url, self._pace, self._going = url, pace, threading.Event()
        self._going.set()

    def run(self) -> None:
        documents = list(texts.documents(1000))
        with psycopg.connect(self._url, autocommit=True) as connection:
            began, number = time.perf_counter(), 1
            while self._going.is_set():
                number += 1
                connection.execute(
                    "INSERT INTO documents (id, body) VALUES (%s, %s)", (number, documents[number % 1000])
                )
                time.sleep(max(0.0, began + number / self._pace - time.perf_counter()))

    def stop(self) -> None:
        self._going.clear()
        self.join()


@contextmanager
def _writing(url: str, pace: int) -> Iterator[Writing]:
    writing = Writing(url, pace)
    writing.start()
    try:
        yield writing
    finally:
        writing.stop()


def _value(url: str, query: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        (value,) = connection.execute(query).fetchone() or (0,)
    return int(value)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
