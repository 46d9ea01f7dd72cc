"""How soon a backfill is as fast as before after hiccups of the server, and that no vector is lost by them.

    python benchmarks/hiccups.py [--parallel 1 --fixed-ms 5 --token-us 5]

The server is a modelled GPU (tests/support/modelled_gpu.py). The hiccups are `slow_start`: only 503 during the worker's
first seconds; `cut`: every connection is closed once; `away`: closed for five seconds; `overload`: 503 for two seconds.
A figure is the seconds from the end of the hiccup to the first two seconds with the throughput of before, less 5 %.
Prints one line of JSON."""

import argparse
import time
from bisect import bisect_left

import harness
import psycopg
import texts

from pg_qwen_embed.postgres import embedded

STEADY, WINDOW, SHARE = 8.0, 2.0, 0.95
HICCUPS = {"cut": (0.0, 0), "away": (5.0, 0), "overload": (2.0, 503)}  # seconds, status
Log = list[tuple[float, int]]


def throughput(log: Log, begin: float, end: float) -> float:
    """Tokens per second between `begin` and `end`."""
    times = [when for when, _ in log]
    return sum(tokens for _, tokens in log[bisect_left(times, begin) : bisect_left(times, end)]) / (end - begin)


def recovered(log: Log, end: float, before: float) -> float | None:
    """Seconds from `end` to the first stretch that is nearly as fast as `before`; None: there was none."""
    steps = (step / 20 for step in range(int(20 * STEADY)))
    fast = (step for step in steps if throughput(log, end + step, end + step + WINDOW) >= SHARE * before)
    return next(fast, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--fixed-ms", type=float, default=5)
    parser.add_argument("--token-us", type=float, default=5)
    wanted = parser.parse_args()
    sample = list(texts.documents(6400))
    per_text = (wanted.fixed_ms / 64 + wanted.token_us * sum(map(len, sample)) / len(sample) / 4000) / wanted.parallel
    seconds = 2 * STEADY + len(HICCUPS) * (STEADY + WINDOW)
    documents = [f"{text} {n}" for n, text in enumerate(sample * 100)][: int(1000 * seconds / per_text)]
    with embedded.postgres() as url, harness.gpu(wanted.parallel, wanted.fixed_ms, wanted.token_us) as server_url:
        environment = harness.environment(url, server_url)
        harness.load(url, documents)
        for command in (["init"], ["attach", "documents", "--text", "body"]):
            assert harness.run(command, environment).status == 0
        harness.ask(server_url, "away", {"seconds": 3, "status": 503})
        ends = {"slow_start": time.perf_counter() + 3}
        begins = {}
        with harness.started(["worker"], environment, "following"), psycopg.connect(url, autocommit=True) as connection:
            time.sleep(3 + STEADY)
            for name, (away, status) in HICCUPS.items():
                begins[name] = time.perf_counter()
                harness.ask(server_url, "away", {"seconds": away, "status": status})
                ends[name] = time.perf_counter() + away
                time.sleep(away + STEADY + WINDOW)
            state = "SELECT state FROM _qwen_embed.backfill"
            assert connection.execute(state).fetchone() == ("running",), "the backfill was over too soon"
            while connection.execute(state).fetchone() == ("running",):
                time.sleep(0.02)
            (vectors,) = connection.execute("SELECT count(*) FROM qwen_embed.documents").fetchone() or (0,)
            (failures,) = connection.execute("SELECT count(*) FROM _qwen_embed.failure_1").fetchone() or (0,)
        log: Log = sorted((when, tokens) for when, tokens in harness.ask(server_url, "log"))
    steady = throughput(log, begins["cut"] - STEADY / 2, begins["cut"])
    begins["slow_start"] = begins["cut"]
    found = {name: recovered(log, end, throughput(log, begins[name] - STEADY / 2, begins[name]))
             for name, end in ends.items()}  # fmt: skip
    harness.report(
        "hiccups", parallel=wanted.parallel, fixed_ms=wanted.fixed_ms, token_us=wanted.token_us, rows=len(documents),
        vectors=vectors, failures=failures, tokens_per_second=round(steady), recovered_s=found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
