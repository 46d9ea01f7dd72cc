"""The local server with its packaged model, over real HTTP, and as a process."""

import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pybase64
import pytest
from aiohttp import web
from click.testing import CliRunner
from model2vec import StaticModel
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers

from pg_qwen_embed.cli.serve import serve as serve_command
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.serve import bounds, embedders
from pg_qwen_embed.serve.app import DEFAULT_MODEL, EmbeddingThread, LocalServer, create_app
from pg_qwen_embed.serve.embedders import Embedded, Embedder, load
from pg_qwen_embed.serve.protocol import ModelFacts, Vectors

TOO_LONG = "The input (8192 tokens) is longer than the model's context length (8192 tokens)."
VARIED = [
    "The quick brown fox jumps over the lazy dog.",
    "UPPER Case, MiXeD; punctuation!? (brackets) [and] {more} -- e.g. 3.14, 1,000,000 & 50%",
    "naïve café résumé Ångström façade Москва Ελλάδα İstanbul STRASSE straße ﬁancé",
    "decomposed: nai\u0308ve cafe\u0301 \u0301alone a \u0301 b",
    "東京は日本の首都です。人工知能 and 数据库 mixed with English",
    "데이터베이스 검색 फिर भी ฐานข้อมูล قاعدة بيانات",
    "emoji 😀 in 👩\u200d👩\u200d👧 the ✈️ middle",
    "x" * 101 + " after a word too long to know, " + "pneumonoultramicroscopicsilicovolcanoconiosis" * 2,
    "line\nbreaks\r\nand\ttabs  double   spaces ",
    "not\x0bspaces\x0cto\x1cthis\x1dtoken\x1eizer\x1fat\x85all \x00 nul \ufffd replacement",
    "spaces\xa0of\u2003other\u2028kinds\u3000too\u200bnot this",
    "literal [UNK] and [PAD] and x[PAD]y tokens [CLS]",
    "https://example.org/a/b?c=d&e=f#g user@example.org C:\\dir\\file.txt snake_case camelCase",
    "don't can't it's rock'n'roll “quotes” ‘single’ — dash… ellipsis",
    "Ⅷ ½ ² ℃ ① ａｂｃ",
]


# Talking to it


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=headers) as response:
            body = await response.read()
            return response.status, orjson.loads(body) if body else None

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} | headers
        async with self.session.post(self.url + path, data=io.BytesIO(data), headers=headers) as response:
            return response.status, orjson.loads(await response.read())

    async def embed(self, texts: Sequence[str], **fields: object) -> Vectors:
        status, answer = await self.post("/v1/embeddings", {"input": texts, "encoding_format": "base64", **fields})
        assert status == 200, answer
        rows = [np.frombuffer(pybase64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
        return np.stack(rows)

    async def inputs(self) -> tuple[int, int]:
        """Running and waiting."""
        _, answer = await self.get("/v1/loads")
        return answer["loads"][0]["num_running_reqs"], answer["loads"][0]["num_waiting_reqs"]

    async def until(self, *expected: tuple[int, int]) -> None:
        async with asyncio.timeout(60):
            while await self.inputs() not in expected:
                pass


class Serving:
    """Servers started in this process, on free ports."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []
        self._sessions: list[aiohttp.ClientSession] = []

    async def start(self, embedder: Embedder, api_key: str | None = None) -> Client:
        runner = web.AppRunner(create_app(LocalServer(embedder, "m", api_key)), handler_cancellation=True)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        session = aiohttp.ClientSession()
        self._sessions.append(session)
        return Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def stop(self) -> None:
        for session in self._sessions:
            await session.close()
        for runner in self._runners:
            await runner.cleanup()


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    servers = Serving()
    yield servers
    await servers.stop()


@pytest.fixture(scope="module")
def packaged() -> Embedder:
    return load(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def reference() -> StaticModel:
    """The same model, run by model2vec alone."""
    return StaticModel.from_pretrained(DEFAULT_MODEL)


@pytest.fixture
async def client(serving: Serving, packaged: Embedder) -> Client:
    return await serving.start(packaged)


class Gated:
    """An embedder that waits at a gate, and records the texts that it was given."""

    facts = ModelFacts(architectures=(), dimensions=2, context_length=9, supports_dimensions=False)

    def __init__(self, *, open_at_first: bool = True) -> None:
        self.gate = threading.Event()
        self.seen: list[str] = []
        if open_at_first:
            self.gate.set()

    def embed(self, texts: Sequence[str]) -> Embedded:
        assert self.gate.wait(60)
        if "crash" in texts:
            raise RuntimeError("out of luck")
        self.seen.extend(texts)
        return Embedded(np.ones((len(texts), 2), np.float32), len(texts))

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return []

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return ""


def cosines(left: Vectors, right: Vectors) -> Vectors:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.einsum("ij,ij->i", left, right) / norms, np.float32)


# The vectors


def test_the_packaged_model_is_small_int8_and_has_only_what_inference_needs() -> None:
    sizes = {file.name: file.stat().st_size for file in DEFAULT_MODEL.iterdir()}
    assert sizes.keys() == {"LICENSE", "NOTICE", "config.json", "model.safetensors", "tokenizer.json"}
    assert sum(sizes.values()) < 9_000_000
    with safe_open(DEFAULT_MODEL / "model.safetensors", "numpy") as tensors:
        assert list(tensors.keys()) == ["embeddings"]
        assert (tensors.get_tensor("embeddings").dtype, tensors.get_tensor("embeddings").shape[1]) == (np.int8, 256)


async def test_vectors_equal_model2vecs_own(client: Client, reference: StaticModel) -> None:
    expected = reference.encode(VARIED, max_length=None)
    for _ in range(2):  # the second time from remembered words
        assert cosines(await client.embed(VARIED), expected).min() > 1 - 1e-5


async def test_vectors_of_random_characters_equal_model2vecs_own(client: Client, reference: StaticModel) -> None:
    chance = np.random.default_rng(1)
    alphabet = [chr(c) for c in range(1, 0x3100) if not 0xD800 <= c < 0xE000] + list(" \n\t\r.,abcdefg ") * 900
    alphabet += list("\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0") * 200  # space to some, nothing to others
    texts = ["".join(chance.choice(alphabet, 80)) + " word" for _ in range(300)]
    assert cosines(await client.embed(texts), reference.encode(texts, max_length=None)).min() > 1 - 1e-5


async def test_related_texts_are_nearer_than_unrelated_ones(client: Client) -> None:
    question, answer, other = await client.embed(
        ["How do I reset my password?", "I forgot my login credentials", "It is sunny in the French capital"]
    )
    assert question @ answer > 0.4 > 0.2 > question @ other


async def test_vectors_have_length_1_at_every_prefix(client: Client) -> None:
    whole = await client.embed(VARIED)
    for dimensions in (1, 2, 64, 255, 256):
        prefix = await client.embed(VARIED, dimensions=dimensions)
        assert prefix.shape == (len(VARIED), dimensions)
        np.testing.assert_allclose(np.linalg.norm(prefix, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(cosines(prefix, whole[:, :dimensions]), 1, atol=1e-6)


async def test_a_text_of_unknown_tokens_has_a_direction_of_its_own(client: Client, reference: StaticModel) -> None:
    unknown = ["😀", "😀😀 🎉", "\x00", "[UNK]", "\u200b"]
    assert not reference.encode(unknown).any(), "these should mean nothing to the model"
    for dimensions in (1, 256):
        vectors = await client.embed(unknown, dimensions=dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(vectors, await client.embed(unknown, dimensions=dimensions))
    whole = await client.embed(unknown)
    assert np.abs(whole @ whole.T - np.eye(len(unknown))).max() < 0.5


async def test_a_batch_answers_in_its_order(client: Client) -> None:
    together = await client.embed(VARIED)
    alone = np.concatenate([await client.embed([text]) for text in VARIED])
    np.testing.assert_array_equal(together, alone)
    _, answer = await client.post("/v1/embeddings", {"input": VARIED})
    assert [item["index"] for item in answer["data"]] == list(range(len(VARIED)))
    np.testing.assert_array_equal(np.array([item["embedding"] for item in answer["data"]], np.float32), together)


def test_remembered_words_are_bounded(reference: StaticModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "MAX_WORDS", 5)
    words = embedders._Words(reference.tokenizer)
    text = f"one two three four five six seven one eight nine one {'long' * 20}"
    expected = [reference.tokenizer.encode(word, add_special_tokens=False).ids for word in text.split()]
    assert [np.frombuffer(words[word], np.int64).tolist() for word in text.split()] == expected
    assert 0 < len(words) <= 5
    assert "long" * 20 not in words


def test_a_tokenizer_that_looks_across_spaces_is_given_whole_texts(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"Ġb": 0, "b": 1, "?": 2}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = StaticModel(np.eye(3, dtype=np.float32), tokenizer, normalize=True)
    model.save_pretrained(tmp_path)
    texts = ["b b", "b", "b b b"]
    np.testing.assert_allclose(cosines(load(tmp_path).embed(texts).vectors, model.encode(texts)), 1, atol=1e-6)


def test_weights_and_shared_vectors_of_a_quantised_vocabulary_are_honoured(
    reference: StaticModel, tmp_path: Path
) -> None:
    size = len(reference.tokens)
    chance = np.random.default_rng(1)
    model = StaticModel(
        chance.standard_normal((50, 8), np.float32),
        reference.tokenizer,
        weights=chance.random(size, np.float32),
        token_mapping=chance.integers(0, 50, size),
        max_length=None,
    )
    model.save_pretrained(tmp_path)
    own = load(tmp_path)
    np.testing.assert_allclose(cosines(own.embed(VARIED).vectors, model.encode(VARIED)), 1, atol=1e-5)
    assert not own.facts.supports_dimensions, "its vectors are in no order"


# The protocol over HTTP


async def test_usage_sums_the_tokens_that_tokenize_counts(client: Client) -> None:
    _, counted = await client.post("/tokenize", {"prompt": VARIED, "add_special_tokens": True})
    _, answer = await client.post("/v1/embeddings", {"input": VARIED})
    assert answer["usage"]["prompt_tokens"] == sum(counted["count"]) > 100


async def test_a_text_can_be_truncated_to_n_tokens_with_tokenize_and_detokenize(client: Client) -> None:
    _, whole = await client.post("/tokenize", {"prompt": "one two three four", "add_special_tokens": False})
    assert whole["count"] == len(whole["tokens"]) == 4
    assert (await client.post("/detokenize", {"tokens": whole["tokens"][:2]})) == (200, {"text": "one two"})
    assert (await client.post("/detokenize", {"tokens": [whole["tokens"], []]}))[1] == {
        "text": ["one two three four", ""]
    }


async def test_the_longest_text_is_one_token_short_of_the_context(client: Client) -> None:
    assert (await client.embed(["word " * 8191])).shape == (1, 256)
    status, answer = await client.post("/v1/embeddings", {"input": ["fine", "word " * 8192]})
    assert (status, answer["message"], answer["code"]) == (400, TOO_LONG, 400)


@pytest.mark.parametrize("body", [b'{"input": [', b'{"input": [[]]}', b'{"input": [[1, 2]]}', b'{"input": [99999999]}'])
async def test_what_would_kill_an_sglang_server_is_rejected_and_the_next_request_answered(
    client: Client, body: bytes
) -> None:
    status, answer = await client.post("/v1/embeddings", body)
    assert (status, answer["object"], answer["param"]) == (400, "error", None)
    assert (await client.embed(["next"])).shape == (1, 256)


async def test_a_body_of_several_megabytes_is_read(client: Client) -> None:
    assert (await client.embed([f"{'word ' * 8000}{i}" for i in range(64)])).shape == (64, 256)


async def test_the_model_describes_itself(client: Client) -> None:
    _, listed = await client.get("/v1/models")
    assert [(card["id"], card["max_model_len"]) for card in listed["data"]] == [("m", 8192)]
    _, model = await client.get("/model_info")
    assert model["embedding"]["supports_dimensions"]
    assert re.fullmatch("[0-9a-f]{12}", model["weight_version"])
    _, server = await client.get("/server_info")
    assert server["max_req_input_len"] == 8186


async def test_unknown_paths_and_methods_are_answered_in_json(client: Client) -> None:
    assert await client.get("/generate") == (404, {"detail": "Not Found"})
    assert await client.get("/v1/embeddings") == (405, {"detail": "Method Not Allowed"})
    async with client.session.get(client.url + "/v1/embeddings") as response:
        assert response.headers["Allow"] == "POST"


async def test_without_the_key_only_readiness_and_health_answer(serving: Serving, packaged: Embedder) -> None:
    client = await serving.start(packaged, api_key="sésame")
    right = {"Authorization": "Bearer sésame"}
    for path in ("/v1/models", "/model_info", "/v1/loads", "/nowhere"):
        assert await client.get(path) == (401, {"error": "Unauthorized"})
        assert await client.get(path, Authorization="Bearer wrong") == (401, {"error": "Unauthorized"})
        assert await client.get(path, Authorization="Basic sésame") == (401, {"error": "Unauthorized"})
        assert (await client.get(path, **right))[0] == (404 if path == "/nowhere" else 200)
    assert (await client.post("/v1/embeddings", {"input": "a"}))[0] == 401
    assert (await client.post("/v1/embeddings", {"input": "a"}, **right))[0] == 200
    assert [(await client.get(path))[0] for path in ("/ready", "/health")] == [200, 200]


# One thread, many clients


async def test_it_is_ready_once_the_model_has_embedded_something(serving: Serving) -> None:
    embedder = Gated(open_at_first=False)
    client = await serving.start(embedder)
    assert await client.get("/ready") == (503, None)
    assert await client.get("/health") == (503, None)
    embedder.gate.set()
    await client.post("/v1/embeddings", {"input": "behind the first"})
    assert await client.get("/ready") == (200, None)
    assert await client.get("/health") == (200, None)


async def test_readiness_and_load_are_answered_while_it_embeds(serving: Serving) -> None:
    embedder = Gated()
    client = await serving.start(embedder)
    await client.post("/v1/embeddings", {"input": "warm"})
    embedder.gate.clear()
    async with asyncio.TaskGroup() as requests:
        for count in (3, 5):
            requests.create_task(client.post("/v1/embeddings", {"input": ["a"] * count}))
        await client.until((3, 5), (5, 3))
        assert await client.get("/ready") == (200, None)
        embedder.gate.set()
    assert await client.inputs() == (0, 0)


async def test_what_a_vanished_client_had_queued_is_dropped(serving: Serving) -> None:
    embedder = Gated()
    client = await serving.start(embedder)
    await client.post("/v1/embeddings", {"input": "warm"})
    embedder.gate.clear()
    first = asyncio.create_task(client.post("/v1/embeddings", {"input": ["stays"]}))
    await client.until((1, 0))
    vanishing = asyncio.create_task(client.post("/v1/embeddings", {"input": ["vanishes"] * 4}))
    await client.until((1, 4))
    vanishing.cancel()
    await client.until((1, 0))
    embedder.gate.set()
    assert (await first)[0] == 200
    await client.post("/v1/embeddings", {"input": "after"})
    assert embedder.seen[-2:] == ["stays", "after"]


async def test_a_client_that_vanishes_while_its_texts_are_embedded_is_not_counted_twice(serving: Serving) -> None:
    embedder = Gated()
    client = await serving.start(embedder)
    await client.post("/v1/embeddings", {"input": "warm"})
    embedder.gate.clear()
    vanishing = asyncio.create_task(client.post("/v1/embeddings", {"input": ["vanishes"] * 4}))
    await client.until((4, 0))
    vanishing.cancel()
    await asyncio.wait([vanishing])
    assert await client.inputs() == (4, 0)
    embedder.gate.set()
    await client.post("/v1/embeddings", {"input": "after"})
    assert await client.inputs() == (0, 0)


async def test_bodies_beyond_the_bound_of_all_requests_are_turned_away_until_there_is_room(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_BODIES", 10_000)
    embedder = Gated()
    client = await serving.start(embedder)
    large, small = {"input": "a" * 6000}, {"input": "a"}
    await client.post("/v1/embeddings", small)
    embedder.gate.clear()
    first = asyncio.create_task(client.post("/v1/embeddings", large))
    await client.until((1, 0))
    status, answer = await client.post("/v1/embeddings", large)
    assert (status, answer["message"]) == (503, "The request queue is full.")
    second = asyncio.create_task(client.post("/v1/embeddings", small))
    await client.until((1, 1))
    embedder.gate.set()
    assert [(await one)[0] for one in (first, second)] == [200, 200]
    assert (await client.post("/v1/embeddings", large))[0] == 200


async def test_a_long_request_gives_way_between_its_parts(serving: Serving) -> None:
    embedder = Gated()
    client = await serving.start(embedder)
    await client.post("/v1/embeddings", {"input": "warm"})
    embedder.gate.clear()
    parts = [letter * bounds.PART_CHARACTERS for letter in "abc"]
    long = asyncio.create_task(client.post("/v1/embeddings", {"input": parts}))
    await client.until((1, 2))
    short = asyncio.create_task(client.post("/v1/embeddings", {"input": "short"}))
    await client.until((1, 3))
    embedder.gate.set()
    assert [(await one)[0] for one in (long, short)] == [200, 200]
    assert [text[:5] for text in embedder.seen[-4:]] == ["aaaaa", "short", "bbbbb", "ccccc"]
    assert [item["index"] for item in (await long)[1]["data"]] == [0, 1, 2]
    assert await client.inputs() == (0, 0)


async def test_the_parts_that_are_left_when_the_server_stops_are_given_up() -> None:
    thread, started, gate = EmbeddingThread(), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        started.set()
        assert gate.wait(60)

    work = asyncio.create_task(thread.run_in_order([first, lambda: done.append("second")], [1, 1]))
    await asyncio.to_thread(started.wait, 60)
    thread.close()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (done, thread.running, thread.waiting) == ([], 0, 0)


async def test_a_crash_of_the_model_is_one_500_and_no_more(serving: Serving) -> None:
    client = await serving.start(Gated())
    status, answer = await client.post("/v1/embeddings", {"input": ["crash"]})
    assert (status, answer["code"], answer["message"]) == (500, 500, "Internal server error: out of luck")
    assert (await client.post("/v1/embeddings", {"input": ["fine"]}))[0] == 200
    assert await client.inputs() == (0, 0)


# Loading


def test_a_folder_that_is_no_model_is_rejected_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no model folder .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="neither a model2vec nor a sentence-transformers model"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(tmp_path)


def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer"}]')
    with pytest.raises(
        UsageError, match=r"^this model needs sentence_transformers; run: pip install 'pg-qwen-embed\[local\]'$"
    ):
        load(tmp_path)


# The process


class Process:
    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-c", "from pg_qwen_embed.cli.serve import serve; serve()", *options]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def start_line(self) -> str:
        assert self.popen.stdout
        return self.popen.stdout.readline()

    def end(self) -> tuple[int, str, str]:
        """Its exit status, and what it printed after the start line."""
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err


@pytest.fixture
def process() -> Iterator[type[Process]]:
    started: list[Process] = []

    class Kept(Process):
        def __init__(self, *options: str) -> None:
            super().__init__(*options)
            started.append(self)

    yield Kept
    for kept in started:
        kept.popen.kill()
        kept.popen.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_says_where_it_serves_and_leaves_when_told(
    process: type[Process], number: signal.Signals
) -> None:
    server = process("--port", "0")
    line = server.start_line()
    match = re.fullmatch(r"serving pg-qwen-embed-stand-in \(256 dimensions\) on (http://127\.0\.0\.1:\d+)/v1\n", line)
    assert match, line
    async with aiohttp.ClientSession() as session:
        client = Client(session, match.group(1))
        assert await client.get("/ready") == (200, None)
        assert (await client.embed(["a text"])).shape == (1, 256)
        server.popen.send_signal(number)  # with a connection kept alive
        assert await asyncio.to_thread(server.end) == (0, "", "")


@pytest.mark.long
async def test_the_process_does_not_wait_for_a_text_that_takes_long(process: type[Process]) -> None:
    server = process("--port", "0")
    url = server.start_line().split()[-1].removesuffix("/v1")
    async with aiohttp.ClientSession() as session:
        client = Client(session, url)
        minute = ["".join(f"{n}x{i} " for i in range(1200)) for n in range(1000)]
        long = asyncio.create_task(client.post("/v1/embeddings", {"input": minute}))
        while (await client.inputs())[0] == 0:
            assert not long.done()
        server.popen.terminate()
        assert await asyncio.to_thread(server.popen.wait, 10) == 0
        with pytest.raises(aiohttp.ClientError):
            await long


def test_a_port_that_is_taken_is_one_sentence_and_no_traceback(process: type[Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = process("--port", str(port)).end()
    assert (code, out) == (1, "")
    assert err == f"Error: port {port} of 127.0.0.1 is taken; choose another with --port (0: any free one)\n"


def test_a_model_that_is_missing_is_one_sentence_and_no_traceback(process: type[Process], tmp_path: Path) -> None:
    code, out, err = process("--port", "0", "--model", str(tmp_path / "nowhere")).end()
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: there is no model folder .*nowhere; .*\n", err)


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_key_comes_from_the_environment_or_from_a_file(
    process: type[Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    options: tuple[str, ...] = ()
    if source == "file":
        (tmp_path / "key").write_text("s3cret\n")
        options = ("--api-key-file", str(tmp_path / "key"))
    monkeypatch.setenv("PG_QWEN_EMBED_API_KEY", "another" if options else "s3cret")  # the option counts
    server = process("--port", "0", *options)
    host, port = server.start_line().split("/")[2].split(":")
    for given, status in ((b"wrong", b"401"), (b"s3cret", b"200")):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.0\r\nAuthorization: Bearer " + given + b"\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 " + status)
    assert "s3cret" not in " ".join(map(str, server.popen.args))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "the API key cannot be read from {file}: No such file or directory"),
        (b" \n", "{file} holds no API key; write the key into it"),
        (b"two\nlines", "the API key in {file} has a blank, a line break or a control character; write one word"),
        (b"\xff", "the API key in {file} is not UTF-8; write one word"),
    ],
)
def test_a_key_file_that_holds_no_key_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    result = CliRunner().invoke(serve_command, ["--port", "0", "--api-key-file", str(file)])
    assert (result.exit_code, result.output) == (1, f"Error: {sentence.format(file=file)}\n")


@pytest.mark.long
def test_listening_to_others_without_a_key_is_warned_of(
    process: type[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PG_QWEN_EMBED_API_KEY", raising=False)
    said = {}
    for host, key in (("127.0.0.1", None), ("0.0.0.0", None), ("0.0.0.0", "k")):  # noqa: S104
        if key:
            monkeypatch.setenv("PG_QWEN_EMBED_API_KEY", key)
        server = process("--host", host, "--port", "0")
        server.start_line()
        server.popen.terminate()
        said[host, key] = server.end()[2]
    (warned,) = [sentence for sentence in said.values() if sentence]
    assert said["0.0.0.0", None] == warned  # noqa: S104
    assert re.fullmatch(r"Warning: whoever can connect to 0\.0\.0\.0:\d+ may use .* --api-key-file, .*\n", warned)


def test_help_says_that_the_model_is_for_trying_things() -> None:
    text = " ".join(CliRunner().invoke(serve_command, ["--help"]).output.split())
    assert "small, static and for English only" in text
    assert "place of Qwen3-Embedding on SGLang" in text
