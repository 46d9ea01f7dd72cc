"""Commit to visible for one row, idle: the milliseconds from an INSERT's commit until the view shows its vector.

    python benchmarks/freshness.py [--changes 100]

Measured by a session that looks every 0.2 ms, so each figure is up to that much too high. One line of JSON."""

import argparse
import random
import statistics
import time

import psycopg
import rig
import texts

from pg_qwen_embed import embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    wanted = parser.parse_args()
    documents = list(texts.documents(wanted.rows + wanted.changes))
    with embedded.postgres() as url, rig.server() as server_url:
        environment = {"PG_QWEN_EMBED_DATABASE_URL": url, "PG_QWEN_EMBED_SERVER_URL": server_url}
        rig.load(url, documents[: wanted.rows])
        for command in (["init"], ["attach", "documents", "--text", "body"]):
            assert rig.run(command, environment).status == 0
        with rig.started(["worker"], environment, "index_ready"), psycopg.connect(url, autocommit=True) as connection:
            found = sorted(_changes(connection, documents[wanted.rows :]))
    cut = statistics.quantiles(found, n=100)
    rig.report(
        "freshness, idle", changes=len(found), median_ms=round(statistics.median(found), 1),
        p95_ms=round(cut[94], 1), p99_ms=round(cut[98], 1), max_ms=round(found[-1], 1),
    )  # fmt: skip


def _changes(connection: psycopg.Connection, documents: list[str]) -> list[float]:
    rng = random.Random(1)
    found = []
    for number, text in enumerate(documents):
        time.sleep(rng.uniform(0.05, 0.15))  # so that the worker sleeps again
        key = 1_000_000 + number
        connection.execute("INSERT INTO documents (id, body) VALUES (%s, %s)", (key, text))
        committed = time.perf_counter()
        while not connection.execute("SELECT 1 FROM qwen_embed.documents WHERE id = %s", (key,)).fetchone():
            time.sleep(0.0002)
        found.append(1000 * (time.perf_counter() - committed))
    return found


if __name__ == "__main__":
    main()
