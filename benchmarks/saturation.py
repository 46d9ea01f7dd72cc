"""How busy the worker keeps a modelled GPU during a backfill, with default settings, and how fresh changes stay meanwhile.

    python benchmarks/saturation.py [--seconds 30] [--parallel 1 --fixed-ms 5 --token-us 5]

share_of_ceiling: the server's busy time divided by the wall time from its first to its last request, in one run.
Freshness: the median milliseconds from an UPDATE's commit until the view shows its vector, idle and during the backfill.
The goal is twice the idle time plus the time of one request. Prints one line of JSON."""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import harness
import psycopg
import texts

from pg_qwen_embed import Client
from pg_qwen_embed.postgres import embedded

CHANGES = 25


def change(connection: psycopg.Connection, number: int) -> float:
    """Milliseconds until a changed row has its vector."""
    connection.execute("UPDATE live SET body = %s WHERE id = 1", (f"a changed text, number {number}",))
    committed = time.perf_counter()
    while connection.execute("SELECT stale FROM qwen_embed.live WHERE id = 1").fetchone() != (False,):
        time.sleep(0.0005)
    return 1000 * (time.perf_counter() - committed)


def query(client: Client, number: int) -> float:
    began = time.perf_counter()
    client.embed_query("live", f"a question, number {number}")
    return 1000 * (time.perf_counter() - began)


def medians(
    connection: psycopg.Connection, client: Client, pause: float, going: Callable[[], bool] = lambda: True
) -> tuple[float, float]:
    """Median milliseconds of a change and of a query, of CHANGES each, or of those made while `going`; at least one.

    Random pauses, about `pause` seconds in all, let each meet the server at another point of its work."""
    changes: list[float] = []
    queries: list[float] = []
    rng = random.Random(0)
    for number in range(CHANGES):
        if changes and not going():
            break
        changes.append(change(connection, number))
        time.sleep(rng.uniform(0, pause))
        queries.append(query(client, number))
        time.sleep(rng.uniform(0, pause))
    return statistics.median(changes), statistics.median(queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="seconds of work for the server")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--fixed-ms", type=float, default=5)
    parser.add_argument("--token-us", type=float, default=5)
    wanted = parser.parse_args()
    sample = list(texts.documents(6400))
    per_text = (
        wanted.fixed_ms / 64 + wanted.token_us * sum(map(len, sample)) / len(sample) / 4 / 1000
    ) / wanted.parallel
    rows = int(1000 * wanted.seconds / per_text)
    with embedded.postgres() as url, harness.gpu(wanted.parallel, wanted.fixed_ms, wanted.token_us) as server_url:
        environment = harness.environment(url, server_url)
        harness.load(url, ["the live row"], "live")
        documents = [f"{text} {n}" for n, text in enumerate(sample * (rows // len(sample) + 1))]
        harness.load(url, documents[:rows])
        for command in (["init"], ["attach", "live", "--text", "body"]):
            assert harness.run(command, environment).status == 0
        with (
            harness.started(["worker"], environment, "index_not_needed"),  # its one row is embedded
            psycopg.connect(url, autocommit=True) as connection,
            Client(url, server_url=server_url) as client,
        ):
            medians(connection, client, 0.05)  # to warm up
            idle = medians(connection, client, 0.1)
            harness.ask(server_url, "counters", {})
            assert harness.run(["attach", "documents", "--text", "body"], environment).status == 0
            time.sleep(0.1 * wanted.seconds)
            busy = medians(connection, client, 0.02 * wanted.seconds)
            during = connection.execute(harness.BACKFILL_STATE).fetchone()
            while connection.execute(harness.BACKFILL_STATE).fetchone() in (("pending",), ("running",)):
                time.sleep(0.02)
            done = harness.ask(server_url, "counters")
    request = done["busy"] / done["requests"] * 1000
    harness.report(
        "saturation", parallel=wanted.parallel, fixed_ms=wanted.fixed_ms, token_us=wanted.token_us, rows=rows,
        share_of_ceiling=round(done["busy"] / wanted.parallel / done["wall"], 3),
        rows_per_second=round(done["texts"] / done["wall"]), request_ms=round(request, 1),
        change_idle_ms=round(idle[0], 1), change_busy_ms=round(busy[0], 1), change_goal_ms=round(2 * idle[0] + request, 1),
        query_idle_ms=round(idle[1], 1), query_busy_ms=round(busy[1], 1), query_goal_ms=round(2 * idle[1] + request, 1),
        all_changes_during_backfill=during == ("running",),
    )  # fmt: skip


if __name__ == "__main__":
    main()
