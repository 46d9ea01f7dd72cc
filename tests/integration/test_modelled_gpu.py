"""The modelled GPU of the benchmarks: SGLang's answers, in the time that the model says."""

import base64
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import modelled_gpu
import numpy as np
import pytest
from harness import eventually
from numpy.typing import NDArray

TEXTS = ["some text", "another text"]
TOKENS = sum(map(len, TEXTS)) // 4 + len(TEXTS)


class Client:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.request(
                "GET" if body is None else "POST",
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def vectors(self, texts: list[str], **fields: Any) -> NDArray[np.float32]:
        status, answer = self.ask("/v1/embeddings", {"input": texts, **fields})
        assert status == 200, answer
        assert [item["index"] for item in answer["data"]] == list(range(len(texts)))
        rows = [item["embedding"] for item in answer["data"]]
        if fields.get("encoding_format") == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        return np.array(rows, np.float32)


@contextmanager
def process(*options: str) -> Iterator[Client]:
    command = [sys.executable, modelled_gpu.__file__, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as popen:
        try:
            assert popen.stdout
            yield Client(popen.stdout.readline().split()[-1])
        finally:
            popen.terminate()


@pytest.fixture
def gpu() -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(process(*options))


def test_request_takes_its_fixed_time_and_that_of_its_tokens(gpu: Callable[..., Client]) -> None:
    client = gpu("--fixed-ms", "50", "--token-us", "10000")
    began = time.perf_counter()
    client.vectors(TEXTS)
    seconds = 0.05 + 0.01 * TOKENS
    assert time.perf_counter() - began >= seconds
    _, counters = client.ask("/counters", {})
    assert (counters["texts"], counters["tokens"], counters["requests"]) == (len(TEXTS), TOKENS, 1)
    assert (counters["busy"], counters["wall"]) == (pytest.approx(seconds), pytest.approx(seconds))
    assert client.ask("/counters")[1]["requests"] == 0
    ((done, tokens),) = client.ask("/log")[1]
    assert began + seconds <= done <= time.perf_counter()
    assert tokens == TOKENS


def test_requests_beyond_the_parallel_ones_wait_in_order() -> None:
    timing = modelled_gpu.Timing(parallel=2, fixed=1.0, per_token=0.0)
    assert [timing.end(10.0, seconds) for seconds in (1.0, 3.0, 1.0, 1.0)] == [11.0, 13.0, 12.0, 13.0]
    assert timing.end(20.0, 1.0) == 21.0  # idle since: the work begins when it arrives


def test_text_has_the_same_unit_vector_as_floats_and_in_base64(gpu: Callable[..., Client]) -> None:
    client = gpu("--fixed-ms", "0", "--token-us", "0", "--dimensions", "8")
    floats, encoded = client.vectors(TEXTS), client.vectors(TEXTS[::-1], encoding_format="base64")
    np.testing.assert_array_equal(floats, encoded[::-1])
    np.testing.assert_allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-6)
    assert floats.shape == (2, 8)


def test_text_that_begins_with_a_number_gets_the_row_of_that_number(gpu: Callable[..., Client], tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "rows.npy", rows)
    client = gpu("--fixed-ms", "0", "--dimensions", "4", "--vectors", str(tmp_path / "rows.npy"))
    for encoding in ("float", "base64"):
        found = client.vectors(["2 two", "no number", "0"], encoding_format=encoding)
        np.testing.assert_array_equal(found[[0, 2]], rows[[2, 0]])
        assert np.linalg.norm(found[1]) == pytest.approx(1)


def test_only_the_whole_vector_can_be_asked_for(gpu: Callable[..., Client]) -> None:
    client = gpu("--fixed-ms", "0", "--dimensions", "8")
    assert client.vectors(TEXTS, dimensions=8).shape == (2, 8)
    status, answer = client.ask("/v1/embeddings", {"input": TEXTS, "dimensions": 4})
    assert (status, answer["object"]) == (400, "error")
    assert client.ask("/tokenize", {"prompt": "no tokenizer"}) == (404, {"detail": "Not Found"})


def test_server_that_is_away_answers_its_status_or_closes_connections(gpu: Callable[..., Client]) -> None:
    client = gpu("--fixed-ms", "0")
    client.ask("/away", {"seconds": 60, "status": 503})
    status, answer = client.ask("/v1/embeddings", {"input": TEXTS})
    assert (status, answer["message"]) == (503, "The request queue is full.")
    assert client.ask("/v1/models")[0] == 503
    client.ask("/away", {"seconds": 60})
    with pytest.raises(ConnectionError):
        client.ask("/v1/models")
    client.ask("/away", {"seconds": 0, "status": 503})
    assert client.vectors(TEXTS).shape == (2, 256)


def test_running_requests_lose_their_connections_when_the_server_goes_away(gpu: Callable[..., Client]) -> None:
    client = gpu("--fixed-ms", "60000")
    with ThreadPoolExecutor() as threads:
        running = threads.submit(client.vectors, TEXTS)
        eventually(lambda: client.ask("/v1/loads")[1]["loads"][0]["num_running_reqs"] == len(TEXTS))
        client.ask("/away", {"seconds": 0})
        with pytest.raises(ConnectionError):
            running.result(20)
