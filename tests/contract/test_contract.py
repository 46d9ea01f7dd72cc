"""What SGLang answers, field by field; `serve` and the fake SGLang of the tests answer the same."""

import asyncio
import base64
import json
import socket
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from harness import eventually
from real import Starting
from subject import KEY, Subject

from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable
from pg_qwen_embed.inference import truncation
from pg_qwen_embed.inference.encoder import embed
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.settings import Settings

TEXTS = ["one", "two words", "日本語のテキスト", "emoji 🙂 and accents é", "a longer text " * 20]
ERROR_FIELDS = ["object", "message", "type", "param", "code"]


def rejection(answer: Any) -> str:
    """The message of a 400 with the fields of SGLang."""
    assert answer.status == 400, answer.body
    body = answer.json
    assert list(body) == ERROR_FIELDS
    assert (body["object"], body["param"], body["code"]) == ("error", None, 400)
    return str(body["message"])


def vectors(answer: Any) -> np.ndarray:  # type: ignore[type-arg]
    assert answer.status == 200, answer.body
    return np.array([item["embedding"] for item in answer.json["data"]], np.float32)


# What it says of itself


def test_models_names_the_model_and_its_context(subject: Subject) -> None:
    answer = subject.get("/v1/models").json
    assert answer["object"] == "list"
    (card,) = answer["data"]
    assert card["id"] == card["root"] == subject.model
    assert (card["object"], card["max_model_len"]) == ("model", subject.context)


def test_model_info_says_whether_vectors_can_be_shortened(subject: Subject) -> None:
    info = subject.get("/model_info").json
    assert info["model_path"] == subject.model
    assert isinstance(info["weight_version"], str)
    assert isinstance(info["architectures"], list)
    assert info["embedding"]["supports_dimensions"] is True
    assert not info["embedding"]["matryoshka_dimensions"]
    assert info["embedding"]["normalize"] is True


def test_server_info_says_how_long_an_input_may_be(subject: Subject) -> None:
    info = subject.get("/server_info").json
    assert info["version"].startswith("0.5")
    assert info["max_req_input_len"] == subject.context - 6


def test_server_info_says_which_priorities_go_first(any_subject: Subject) -> None:
    info = any_subject.get("/server_info").json
    assert info["enable_priority_scheduling"] in (True, False)
    assert info["schedule_low_priority_values_first"] is False
    assert info["default_priority_value"] is None
    assert info["abort_on_priority_when_disabled"] is False


def test_ready_and_health_answer_nothing_but_their_status(subject: Subject) -> None:
    for path in ("/ready", "/health"):
        answer = subject.get(path)
        assert (answer.status, answer.body) == (200, b"")


def test_unknown_paths_and_methods_are_rejected_in_the_frameworks_words(subject: Subject) -> None:
    assert (subject.get("/v1/nothing").status, subject.get("/v1/nothing").json) == (404, {"detail": "Not Found"})
    answer = subject.get("/v1/embeddings")
    assert (answer.status, answer.json) == (405, {"detail": "Method Not Allowed"})


# Embeddings


def test_embeddings_come_in_the_order_of_their_inputs_with_usage(subject: Subject) -> None:
    answer = subject.embed(TEXTS).json
    assert (answer["object"], answer["model"]) == ("list", subject.model)
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", n) for n in range(5)]
    counted = sum(subject.post("/tokenize", {"prompt": TEXTS}).json["count"])
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == counted
    assert answer["usage"]["completion_tokens"] == 0


def test_single_string_is_one_input(subject: Subject) -> None:
    np.testing.assert_allclose(vectors(subject.embed("one")), vectors(subject.embed(["one"])), atol=1e-6)


def test_same_text_has_the_same_vector_alone_and_among_others(subject: Subject) -> None:
    together = vectors(subject.embed(TEXTS))
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vectors(subject.embed([text]))[0], vector, atol=1e-5)


def test_vectors_are_of_unit_length(subject: Subject) -> None:
    for dimensions in (None, 8):
        more = {"dimensions": dimensions} if dimensions else {}
        np.testing.assert_allclose(np.linalg.norm(vectors(subject.embed(TEXTS, **more)), axis=1), 1, atol=1e-4)


def test_base64_is_the_same_floats_in_little_endian(subject: Subject) -> None:
    floats = vectors(subject.embed(TEXTS[:2], encoding_format="float"))
    encoded = [item["embedding"] for item in subject.embed(TEXTS[:2], encoding_format="base64").json["data"]]
    for text, vector in zip(encoded, floats, strict=True):
        np.testing.assert_allclose(np.frombuffer(base64.b64decode(text), "<f4"), vector, atol=1e-6)


def test_dimensions_are_the_beginning_normalised_again(subject: Subject) -> None:
    whole = vectors(subject.embed(TEXTS))
    for dimensions in (1, 8, subject.dimensions):
        beginning = whole[:, :dimensions] / np.linalg.norm(whole[:, :dimensions], axis=1, keepdims=True)
        np.testing.assert_allclose(vectors(subject.embed(TEXTS, dimensions=dimensions)), beginning, atol=1e-4)


def test_dimensions_that_cannot_be_are_rejected(subject: Subject) -> None:
    for dimensions in (0, -1):
        assert rejection(subject.embed(["x"], dimensions=dimensions)) == "Requested dimensions must be greater than 0"
    too_many = f"Provided dimensions are greater than max embedding dimension: {subject.dimensions}"
    assert rejection(subject.embed(["x"], dimensions=subject.dimensions + 1)) == too_many


def test_inputs_that_are_empty_are_rejected_all_together(subject: Subject) -> None:
    assert rejection(subject.embed([])) == "Input cannot be empty"
    assert rejection(subject.embed("")) == "Input cannot be empty"
    assert rejection(subject.embed(["a", " \n"])) == "Input at index 1 cannot be empty or whitespace only"


def test_input_that_is_too_long_has_the_whole_request_rejected_without_its_index(subject: Subject) -> None:
    long = "word and word " * subject.context
    count = subject.post("/tokenize", {"prompt": long}).json["count"]
    expected = f"The input ({count} tokens) is longer than the model's context length ({subject.context} tokens)."
    assert rejection(subject.embed(["fine", long])) == expected


def test_longest_input_is_one_shorter_than_the_context(subject: Subject) -> None:
    text = ""
    while subject.post("/tokenize", {"prompt": text + " the"}).json["count"] < subject.context:
        room = subject.context - subject.post("/tokenize", {"prompt": text}).json["count"]
        text += " the" * max(1, room // 8)
    while subject.post("/tokenize", {"prompt": text + "."}).json["count"] < subject.context:
        text += "."
    assert subject.post("/tokenize", {"prompt": text}).json["count"] == subject.context - 1
    assert subject.embed([text]).status == 200


def test_requests_that_are_no_requests_are_rejected_in_the_same_shape(subject: Subject) -> None:
    for body in (b"{", b"[]", json.dumps({"model": "x"}).encode(), json.dumps({"model": "x", "input": 5}).encode(),
                 json.dumps({"model": "x", "input": ["a", None]}).encode()):  # fmt: skip
        rejection(subject.post("/v1/embeddings", body))
    assert "encoding_format" in rejection(subject.embed(["x"], encoding_format="hex"))


def test_unknown_fields_are_ignored_and_the_model_is_not_checked(subject: Subject) -> None:
    answer = subject.post("/v1/embeddings", {"model": "another", "input": ["x"], "dim": 4, "instruction": "no"})
    np.testing.assert_allclose(vectors(answer), vectors(subject.embed(["x"])), atol=1e-6)
    assert subject.post("/v1/embeddings", {"input": ["x"]}).status == 200


def test_priority_is_accepted_with_scheduling_and_without_and_must_be_a_64_bit_integer(any_subject: Subject) -> None:
    for priority in (0, 1, -1, "5", 5.0, None):
        assert any_subject.embed(["x"], priority=priority).status == 200
    for priority in ("high", 5.5):
        assert "validation error" in rejection(any_subject.embed(["x"], priority=priority))
    sentence = f"priority must be a signed 64-bit integer between {-1 << 63} and {(1 << 63) - 1}"
    assert rejection(any_subject.embed(["x"], priority=1 << 63)) == sentence


def test_loads_are_counted_in_inputs(subject: Subject) -> None:
    (one,) = subject.get("/v1/loads").json["loads"]
    assert (one["num_running_reqs"], one["num_waiting_reqs"], one["utilization"]) == (0, 0, 0)
    assert one["max_total_num_tokens"] > 0


# Tokens


def test_tokenize_counts_with_the_end_token_and_without(subject: Subject) -> None:
    for special in (True, False):
        several = subject.post("/tokenize", {"prompt": TEXTS, "add_special_tokens": special}).json
        assert several["count"] == [len(tokens) for tokens in several["tokens"]]
        one = subject.post("/tokenize", {"prompt": TEXTS[0], "add_special_tokens": special}).json
        assert (one["tokens"], one["count"]) == (several["tokens"][0], several["count"][0])
    assert (
        subject.post("/tokenize", {"prompt": TEXTS[0]}).json["tokens"]
        == subject.post("/tokenize", {"prompt": TEXTS[0], "add_special_tokens": True}).json["tokens"]
    )


def test_detokenize_gives_the_text_back(subject: Subject) -> None:
    plain = ["one", "two words", "three words more"]
    rows = subject.post("/tokenize", {"prompt": plain, "add_special_tokens": False}).json["tokens"]
    assert subject.post("/detokenize", {"tokens": rows, "skip_special_tokens": False}).json == {"text": plain}
    assert subject.post("/detokenize", {"tokens": rows[1]}).json == {"text": plain[1]}


# The key


def test_key_is_wanted_everywhere_but_for_readiness(locked: Subject) -> None:
    for key in (None, "wrong"):
        for path in ("/v1/models", "/model_info", "/server_info"):
            answer = locked.get(path, key)
            assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})
        assert locked.post("/v1/embeddings", {"input": ["x"]}, key).status == 401
        assert locked.post("/tokenize", {"prompt": ["x"]}, key).status == 401
        assert locked.get("/ready", key).status == locked.get("/health", key).status == 200
    assert locked.embed(["x"]).status == 200


# What only SGLang itself shows


def test_ready_says_503_while_it_starts(servers: dict[str, Starting]) -> None:
    for starting in servers.values():
        assert starting.answers in ([None, 503, 200], [None, 200])
    assert any(503 in starting.answers for starting in servers.values())


def test_server_that_does_not_shorten_says_so(servers: dict[str, Starting]) -> None:
    strict = servers["strict"].subject
    assert strict.get("/model_info").json["embedding"]["supports_dimensions"] is False
    assert "does not support matryoshka representation" in rejection(strict.embed(["x"], dimensions=64))


def test_request_that_is_more_than_the_queue_holds_gets_503(servers: dict[str, Starting]) -> None:
    answer = servers["strict"].subject.embed([f"text {n}" for n in range(64)])
    assert answer.status == 503
    assert list(answer.json) == ERROR_FIELDS
    assert (answer.json["message"], answer.json["type"]) == ("The request queue is full.", "503")


def test_server_goes_on_when_a_client_hangs_up(servers: dict[str, Starting]) -> None:
    plain = servers["plain"].subject
    parts = urlsplit(plain.root)
    body = json.dumps({"input": ["many words " * 100] * 200}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.sendall(head.encode() + body)
    eventually(lambda: load(plain) > 0, deadline=60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a goodbye
    connection.close()
    eventually(lambda: load(plain) == 0, deadline=90)
    assert plain.embed(["x"]).status == 200


def load(subject: Subject) -> int:
    return sum(loads(subject))


def loads(subject: Subject) -> tuple[int, int]:
    """How many inputs are computed now, and how many wait."""
    (one,) = subject.get("/v1/loads").json["loads"]
    return one["num_running_reqs"], one["num_waiting_reqs"]


def test_server_with_priorities_says_so(servers: dict[str, Starting]) -> None:
    for name, enabled in (("plain", True), ("strict", False)):
        assert servers[name].subject.get("/server_info").json["enable_priority_scheduling"] is enabled


def test_input_with_a_priority_overtakes_those_that_wait_and_one_without_does_not(servers: dict[str, Starting]) -> None:
    plain = servers["plain"].subject
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(plain.embed, [f"{n} " + "many words " * 80 for n in range(640)])
        eventually(lambda: loads(plain)[1] > 50, deadline=60)
        without = threads.submit(plain.embed, ["without"])
        assert plain.embed(["with"], priority=1).status == 200
        assert not without.done()
        assert not waiting.done()
        assert without.result().status == 200
        assert loads(plain)[1] == 0
        assert waiting.result().status == 200


# Our client


@pytest.fixture
async def client(subject: Subject) -> AsyncIterator[EmbeddingServer]:
    async with EmbeddingServer(Settings(server_url=f"{subject.root}/v1")) as server:
        yield server


async def test_client_learns_what_is_served(client: EmbeddingServer, subject: Subject) -> None:
    info = await client.model_info()
    assert (info.model, info.dimensions, info.longest) == (subject.model, subject.dimensions, subject.context - 7)
    assert (info.shortens, info.allowed) == (True, ())
    assert info.urgent == (1 if subject.get("/server_info").json.get("enable_priority_scheduling") else None)


async def test_client_gets_the_servers_vectors(client: EmbeddingServer, subject: Subject) -> None:
    info = await client.model_info()
    for dimensions in (8, subject.dimensions):
        expected = vectors(subject.embed(TEXTS, dimensions=dimensions))
        found, tokens = await embed(client, info, TEXTS, dimensions, urgent=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert tokens == sum(len(own) for own in await client.tokenize(TEXTS, special=True))


async def test_client_truncates_so_that_it_fits_and_ends_with_the_token_that_is_pooled(
    client: EmbeddingServer, subject: Subject
) -> None:
    info = await client.model_info()
    longest = info.longest or 0
    texts = [text * 4 * subject.context for text in ("word ", "文字", "नमस्ते दुनिया ", "<|im_end|>")] + ["short"]
    found = await truncation.too_long(client, texts, longest)
    assert 4 not in found
    assert {0, 1, 2} <= {*found}
    (end,) = await client.tokenize(["short"], special=True)
    (bare,) = await client.tokenize(["short"], special=False)
    for n, beginning in (await truncation.truncate(client, texts, found, longest)).items():
        assert texts[n].startswith(beginning)
        (tokens,) = await client.tokenize([beginning], special=True)
        assert 0.9 * longest < len(tokens) <= longest
        assert tokens[len(tokens) - (len(end) - len(bare)) :] == end[len(bare) :]
        await embed(client, info, [beginning], 8)


async def test_client_tells_a_rejected_document_from_a_server_that_is_full_or_closed(
    servers: dict[str, Starting],
) -> None:
    url = f"{servers['strict'].subject.root}/v1"
    async with EmbeddingServer(Settings(server_url=url, api_key=KEY)) as server:
        info = await server.model_info()
        assert not info.shortens
        with pytest.raises(DocumentRejected, match="longer than the model's context length"):
            await embed(server, info, ["word " * 2000], 8)
        with pytest.raises(ServerUnavailable, match="queue is full"):
            await embed(server, info, ["x"] * 64, 8)
        assert (await embed(server, info, ["x"], 8))[0].shape == (1, 8)  # shortened here
    async with EmbeddingServer(Settings(server_url=url, api_key="wrong")) as server:
        with pytest.raises(ServerUnavailable, match="PG_QWEN_EMBED_API_KEY"):
            await server.model_info()


async def test_client_keeps_several_requests_apart(client: EmbeddingServer) -> None:
    info = await client.model_info()
    texts = [[f"text {n} of {m}" for n in range(16)] for m in range(8)]
    together = await asyncio.gather(*(embed(client, info, some, 8) for some in texts))
    for some, (found, _) in zip(texts, together, strict=True):
        again, _ = await embed(client, info, some, 8)
        np.testing.assert_allclose(found, again, atol=1e-5)
