"""A backlog that grew while no worker ran: every row changed N times, then a worker is started.

    python benchmarks/backlog.py [--rows 100000] [--changes 10] [--dimensions 256]

The server takes almost no time. In turn in one run: every row changed once, and every row changed N times. Prints one line
of JSON: documents sent for each distinct key, seconds until the outbox is empty (the build of the index is not measured),
and the worker's peak memory, for both."""

import argparse
import time

import harness
import psycopg
import texts

from pg_qwen_embed.postgres import embedded


def caught_up(url: str, server_url: str, rows: int, changes: int) -> dict[str, float]:
    """The figures of one backlog."""
    environment = harness.environment(url, server_url)
    with psycopg.connect(url, autocommit=True) as connection:
        for n in range(changes):
            connection.execute("UPDATE documents SET body = body || ' ' || %s", [n])
        (outbox,) = connection.execute("SELECT 'outbox_' || max(id) FROM _qwen_embed.generation").fetchone() or ("",)
        connection.execute("CHECKPOINT")
        harness.ask(server_url, "counters", {})
        began = time.perf_counter()
        with harness.Running(["worker", "--log-level", "warning"], environment) as worker:
            while connection.execute(f"SELECT EXISTS (SELECT FROM _qwen_embed.{outbox})").fetchone() == (True,):
                time.sleep(0.02)
            seconds = time.perf_counter() - began
            ended = worker.stop()
        (vectors,) = connection.execute("SELECT count(*) FROM qwen_embed.documents WHERE NOT stale").fetchone() or (0,)
    assert vectors == rows, f"{vectors} vectors of {rows} rows"
    documents = harness.ask(server_url, "counters")["texts"]
    return {
        "documents_per_key": round(documents / rows, 4),
        "seconds": round(seconds, 1),
        "peak_mb": round(ended.peak_mb),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--dimensions", type=int, default=256)
    wanted = parser.parse_args()
    settings = {"max_wal_size": "8GB", "shared_buffers": "1GB"}
    with embedded.postgres(settings=settings) as url, harness.gpu(64, 0, 0, wanted.dimensions) as server_url:
        environment = harness.environment(url, server_url)
        harness.load(url, texts.documents(wanted.rows))
        figures = {}
        for changes in (1, wanted.changes):
            for command in (["init"], ["attach", "documents", "--text", "body", "--no-backfill",
                                       "--dimensions", str(wanted.dimensions)]):  # fmt: skip
                assert harness.run(command, environment).status == 0
            figures[f"changed_{changes}_times"] = caught_up(url, server_url, wanted.rows, changes)
            assert harness.run(["detach", "documents", "--yes"], environment).status == 0
    harness.report("backlog", rows=wanted.rows, dimensions=wanted.dimensions, **figures)


if __name__ == "__main__":
    main()
