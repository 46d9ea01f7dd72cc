"""The local server against clients that want it to stop or to take all memory. They have no key and need none."""

import asyncio
import gzip
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

JSON = {"Content-Type": "application/json"}
TEXT = "".join(f"{number}x " for number in range(1 << 19))[: 1 << 19]  # as long as it may be; no word is cached


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pg_qwen_embed", "serve", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "PG_QWEN_EMBED_API_KEY"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.terminate()


@pytest.fixture(scope="module")
def url(server: subprocess.Popen[str]) -> str:
    assert server.stdout
    found = re.search(r"http://[^/]+", server.stdout.readline())
    assert found
    return found[0]


@pytest.fixture
async def session(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, headers=JSON) as session:
        yield session


async def post(
    session: aiohttp.ClientSession, body: object, path: str = "/v1/embeddings", **headers: str
) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    async with session.post(path, data=io.BytesIO(data), headers=headers) as response:
        return response.status, orjson.loads(await response.read())


def most_memory(server: subprocess.Popen[str]) -> int:
    """The most that the process has had so far, in MB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
async def test_requests_without_measure_are_rejected_at_once_and_take_little_memory(
    server: subprocess.Popen[str], session: aiohttp.ClientSession
) -> None:
    assert (await post(session, {"input": ["a"]}))[0] == 200
    before = most_memory(server)
    for body, path, status, words in (
        ({"input": "word " * 6_000_000}, "/v1/embeddings", 413, "more than 16777216 bytes"),
        ({"input": "word " * 3_000_000}, "/v1/embeddings", 400, "(15000000 characters) is longer than the model's"),
        ({"input": "x" * 15_000_000}, "/v1/embeddings", 400, "(15000000 characters) is longer than the model's"),
        ({"prompt": "word " * 3_000_000}, "/tokenize", 400, "(15000000 characters) is longer than 524288"),
        ({"input": ["a"] * 3_000_000}, "/v1/embeddings", 400, "has 3000000 inputs"),
        ({"tokens": [1] * 7_000_000}, "/detokenize", 400, "has 7000000 token ids"),
    ):
        async with asyncio.timeout(10):
            answered, answer = await post(session, body, path)
        assert (answered, answer["code"]) == (status, status)
        assert words in answer["message"]
        assert len(answer["message"]) < 300
    assert most_memory(server) - before < 300, "one of them became 2.6 GB before"


async def test_a_compressed_body_is_not_decompressed(session: aiohttp.ClientSession) -> None:
    bomb = gzip.compress(orjson.dumps({"input": "a" * 200_000_000}))
    status, answer = await post(session, bomb, **{"Content-Encoding": "gzip"})
    assert status == 400
    assert "json_invalid" in answer["message"]


async def test_a_body_without_a_length_is_read_up_to_the_bound(session: aiohttp.ClientSession) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"input": "'
        for _ in range(1000):
            yield b"a" * (1 << 20)

    try:
        async with session.post("/v1/embeddings", data=endless()) as response:
            assert response.status == 413
    except aiohttp.ClientError:
        pass  # the server closes the connection while the body is being sent
    assert (await post(session, {"input": ["after"]}))[0] == 200


async def test_the_server_answers_others_while_it_works_on_a_long_request(session: aiohttp.ClientSession) -> None:
    long = asyncio.create_task(post(session, {"prompt": [TEXT] * 28}, "/tokenize"))
    while (await (await session.get("/v1/loads")).json())["loads"][0]["num_waiting_reqs"] < 26:
        assert not long.done()
    for path in ("/ready", "/health"):
        async with session.get(path) as response:
            assert response.status == 200
    assert (await post(session, {"input": ["a short text"]}))[0] == 200
    assert not long.done(), "the others waited for the long request"
    long.cancel()


async def test_the_server_answers_others_while_it_tokenizes_one_long_text(session: aiohttp.ClientSession) -> None:
    """A tokenizer that kept Python's lock would stop the event loop: one answer or two, after seconds."""
    chinese = "".join(chr(0x4E00 + number % 20_000) for number in range(1 << 18))
    long = asyncio.create_task(post(session, {"prompt": chinese}, "/tokenize"))
    answers = 0
    while not long.done():
        async with session.get("/ready") as response:
            assert response.status == 200
        answers += 1
    assert (await long)[0] == 200
    assert answers > 20
