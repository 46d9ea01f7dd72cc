"""A load generator without a database: packed requests, a fixed number in flight, the answers read and thrown away.

It is the upper bound that the worker is measured against, so it does as little as possible. It packs like the worker:
pages of as many documents, each packed by `batching`, with the tokens that the server counts."""

import asyncio
import time
import urllib.request
from collections.abc import Iterator

import aiohttp
import orjson

from pg_qwen_embed.inference import batching
from pg_qwen_embed.worker.options import Limits

LIMITS = Limits()


def packed(documents: list[str], model: str, tokens: int) -> list[bytes]:
    """The bodies of the requests. tokens: of all documents together."""
    token_ratio = batching.TokenRatio()
    for _ in range(100):  # as it is after many answers
        token_ratio.counted(sum(len(text.encode()) for text in documents), len(documents), tokens)
    requests = _requests(documents, token_ratio.bytes_per_token)
    return [orjson.dumps({"model": model, "input": texts, "encoding_format": "base64"}) for texts in requests]


def _requests(documents: list[str], token_ratio: float) -> Iterator[list[str]]:
    for begin in range(0, len(documents), LIMITS.backfill_rows):
        page = documents[begin : begin + LIMITS.backfill_rows]
        for positions in batching.pack([len(text.encode()) for text in page], LIMITS.request, token_ratio):
            yield [page[n] for n in positions]


def seconds(url: str, bodies: list[bytes], in_flight: int) -> float:
    """Seconds from the first request to the last answer."""
    return asyncio.run(_all(url, bodies, in_flight))


async def _all(url: str, bodies: list[bytes], in_flight: int) -> float:
    left = iter(bodies)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    async with aiohttp.ClientSession(
        connector=connector, headers={"Content-Type": "application/json"}, timeout=aiohttp.ClientTimeout(total=600)
    ) as session:

        async def one() -> None:
            for body in left:
                async with session.post(f"{url}/embeddings", data=body) as answer:
                    await answer.read()
                    answer.raise_for_status()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(one())
        return time.perf_counter() - began


def tokens(url: str, documents: list[str]) -> int:
    """Tokens of all documents together, as the server counts."""
    found = 0
    for begin in range(0, len(documents), LIMITS.backfill_rows):
        body = orjson.dumps({"prompt": documents[begin : begin + LIMITS.backfill_rows]})
        request = urllib.request.Request(
            f"{url.removesuffix('/v1')}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found += sum(orjson.loads(answer.read())["count"])
    return found
