"""The throughput of one Client that many threads use, and of one AsyncClient in many tasks, against one caller.

    python benchmarks/client.py [--rows 10000] [--seconds 3] [--rounds 5]

The embedding server takes 10 ms for a request, and as many requests at once as come. Every query is another text, so each
one waits for the server and for the database. The callers are measured in turns; "times one caller" is the ratio of two
neighbours."""

import argparse
import asyncio
import itertools
import threading
import time
from collections.abc import Iterator

import harness
import record
import texts
from record import Findings, Goal

from pg_qwen_embed import AsyncClient, Client
from pg_qwen_embed.postgres import embedded

SERVER_MS = 10.0
CALLERS = 16
FOUR_TIMES = Goal(">=", 4.0)


def threads(client: Client, callers: int, seconds: float, numbers: Iterator[int]) -> float:
    """Searches in a second."""
    end = time.perf_counter() + seconds
    done: list[int] = []

    def search() -> None:
        count = 0
        while time.perf_counter() < end:
            assert len(client.search("documents", f"query {next(numbers)}")) == 10
            count += 1
        done.append(count)

    own = [threading.Thread(target=search) for _ in range(callers)]
    began = time.perf_counter()
    for thread in own:
        thread.start()
    for thread in own:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


async def tasks(url: str, server_url: str, callers: int, seconds: float, numbers: Iterator[int]) -> float:
    """The same in one event loop."""
    async with AsyncClient(url, server_url=server_url) as client:
        await asyncio.gather(*(client.search("documents", f"query {next(numbers)}") for _ in range(callers)))
        began = time.perf_counter()

        async def search() -> int:
            count = 0
            while time.perf_counter() < began + seconds:
                assert len(await client.search("documents", f"query {next(numbers)}")) == 10
                count += 1
            return count

        done = await asyncio.gather(*(search() for _ in range(callers)))
        return sum(done) / (time.perf_counter() - began)


def measure(url: str, server_url: str, wanted: argparse.Namespace, found: Findings) -> None:
    numbers = itertools.count()
    with Client(url, server_url=server_url) as client:
        threads(client, CALLERS, 0.5, numbers)  # to warm up
        for _ in range(wanted.rounds):
            one = threads(client, 1, wanted.seconds, numbers)
            many = threads(client, CALLERS, wanted.seconds, numbers)
            together = asyncio.run(tasks(url, server_url, CALLERS, wanted.seconds, numbers))
            found.add("searches/s", one, {"callers": "1 thread"})
            for callers, speed in ((f"{CALLERS} threads", many), (f"{CALLERS} tasks", together)):
                found.add("searches/s", speed, {"callers": callers})
                found.add("times one caller", speed / one, {"callers": callers}, FOUR_TIMES)


def main() -> None:
    parser = record.parser(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    wanted = parser.parse_args()
    found = Findings()
    with (
        embedded.postgres() as url,
        harness.gpu(64, 0, 0, wanted.dimensions) as filling,
        harness.gpu(64, SERVER_MS, 0, wanted.dimensions) as server_url,
    ):
        environment = harness.environment(url, filling)
        harness.load(url, texts.documents(wanted.rows))
        for command in (
            ["init"],
            ["attach", "documents", "--text", "body"],
            ["worker", "--once", "--log-level", "warning"],
        ):
            assert harness.run(command, environment).status == 0, command
        measure(url, server_url, wanted, found)
        record.report("client", wanted, url, found.figures())


if __name__ == "__main__":
    main()
