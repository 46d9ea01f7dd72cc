"""End to end: `worker --once` over a table that was there before, the index included, with `serve` as the server.

    python benchmarks/backfill.py [--rows 20000] [--dimensions 256]

One line of JSON: rows a second from the worker's start to its exit, its peak memory and CPU."""

import argparse

import psycopg
import rig
import texts

from pg_qwen_embed import embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=256)
    wanted = parser.parse_args()
    with embedded.postgres() as url, rig.server() as server_url:
        environment = {"PG_QWEN_EMBED_DATABASE_URL": url, "PG_QWEN_EMBED_SERVER_URL": server_url}
        rig.load(url, list(texts.documents(wanted.rows)))
        for command in (["init"], ["attach", "documents", "--text", "body", "--dimensions", str(wanted.dimensions)]):
            assert rig.run(command, environment).status == 0
        ended = rig.run(["worker", "--once", "--log-level", "warning"], environment)
        assert ended.status == 0
        with psycopg.connect(url) as connection:
            query = (
                "SELECT count(*), (SELECT finished_at - started_at FROM _qwen_embed.backfill) FROM qwen_embed.documents"
            )
            vectors, walked = connection.execute(query).fetchone() or (0, None)
        assert vectors == wanted.rows, f"{vectors} vectors of {wanted.rows} rows"
        rig.report(
            "backfill", rows=wanted.rows, dimensions=wanted.dimensions, seconds=round(ended.wall, 2),
            rows_per_second=round(wanted.rows / ended.wall), seconds_without_start=round(walked.total_seconds(), 2),
            worker_cpu_ms_per_row=round(1000 * ended.cpu / wanted.rows, 3), worker_peak_mb=round(ended.peak_mb),
        )  # fmt: skip


if __name__ == "__main__":
    main()
