"""How many texts per second the local embedding server answers: a real process, real HTTP, base64, English prose.

    python benchmarks/serve_throughput.py [--seconds 5] [--connections 4] [--inputs 64]

Prints one line of JSON. "short" texts have 5-15 words, "long" ones 60-200. The server and this client share the
machine, so the throughput is that of both together. `server_cpu_s_per_1000` is the server's own processor time (user and
system); `per_core_per_s` follows from it."""

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import aiohttp
import orjson

SERVE = [sys.executable, "-c", "from pg_qwen_embed.cli.serve import serve; serve()", "--port", "0"]
TICK = os.sysconf("SC_CLK_TCK")
TEXTS = 6400
NEW_WORDS = 0.01  # the share of words that the server cannot have seen before
NEW = "QQQQQQ"  # in such a word: replaced by a number that no request repeats


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=5)
    options.add_argument("--connections", type=int, default=4)
    options.add_argument("--inputs", type=int, default=64)
    asked = options.parse_args()
    with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
            if url is None:
                raise SystemExit("the server did not start")
            result = asyncio.run(measure(url.group(), server.pid, asked))
        finally:
            server.terminate()
    print(orjson.dumps(result).decode())


async def measure(url: str, pid: int, asked: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "inputs": asked.inputs}
    connector = aiohttp.TCPConnector(limit=asked.connections)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:
        for name, words in (("short", (5, 15)), ("long", (60, 200))):
            bodies = fresh(requests(words, asked.inputs))
            await drive(session, url, bodies, 1, asked.connections)  # so that the server caches the common words
            before = cpu_seconds(pid)
            answered, seconds = await drive(session, url, bodies, asked.seconds, asked.connections)
            used = cpu_seconds(pid) - before
            texts = answered * asked.inputs
            result[name] = {
                "texts_per_s": round(texts / seconds),
                "server_cpu_s_per_1000": round(used / texts * 1000, 4),
                "per_core_per_s": round(texts / used),
            }
    result["server_peak_mb"] = peak_mb(pid)
    return result


async def drive(
    session: aiohttp.ClientSession, url: str, bodies: Iterator[bytes], seconds: float, connections: int
) -> tuple[int, float]:
    """The number of requests answered, and the seconds."""
    start = time.perf_counter()

    async def post() -> int:
        answered = 0
        while time.perf_counter() - start < seconds:
            async with session.post(f"{url}/embeddings", data=next(bodies)) as response:
                response.raise_for_status()
                await response.read()
            answered += 1
        return answered

    answered = await asyncio.gather(*(post() for _ in range(connections)))
    return sum(answered), time.perf_counter() - start


def requests(words: tuple[int, int], inputs: int) -> list[bytes]:
    """Pieces of the Python manual, which is part of every CPython, with new words among them."""
    chance = random.Random(1)
    manual = " ".join(topics.values()).split()

    def text() -> str:
        length = chance.randint(*words)
        start = chance.randrange(len(manual) - length)
        piece = manual[start : start + length]
        return " ".join(
            f"{word}{chance.randint(0, 9999)}{NEW}" if chance.random() < NEW_WORDS else word for word in piece
        )

    texts = [text() for _ in range(TEXTS)]
    return [
        orjson.dumps({"input": texts[i : i + inputs], "model": "any", "encoding_format": "base64"})
        for i in range(0, len(texts), inputs)
    ]


def fresh(bodies: list[bytes]) -> Iterator[bytes]:
    """The same requests, repeated for ever, each time with other new words."""
    for number, body in enumerate(cycle(bodies)):
        yield body.replace(NEW.encode(), b"%06d" % number)


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICK


def peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
