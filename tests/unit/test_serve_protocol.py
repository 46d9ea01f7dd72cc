"""SGLang's protocol as bytes: accepted requests, the errors of rejected ones, and the shape of the answers."""

import struct
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.serve import bounds, protocol
from pg_qwen_embed.serve.protocol import EmbeddingRequest, Load, ModelFacts, RequestError, Scheduling, ServedModel

FACTS = ModelFacts(architectures=("StaticModel",), dimensions=256, context_length=8192, supports_dimensions=True)
MODEL = ServedModel("m", FACTS)
JSON = "application/json"
OUT_OF_RANGE = "priority must be a signed 64-bit integer between -9223372036854775808 and 9223372036854775807"


class Long:
    """A text of which only the length matters."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


def parse(body: dict[str, Any] | bytes, facts: ModelFacts = FACTS) -> EmbeddingRequest:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return protocol.parse_embeddings(content, JSON, ServedModel("m", facts))


def rejection(body: dict[str, Any] | bytes, facts: ModelFacts = FACTS) -> RequestError:
    with pytest.raises(RequestError) as rejected:
        parse(body, facts)
    return rejected.value


def test_a_string_is_a_list_of_one() -> None:
    assert parse({"input": "a text"}) == parse({"input": ["a text"]})
    assert parse({"input": "a text"}).texts == ["a text"]


def test_unknown_fields_and_any_model_name_are_ignored() -> None:
    assert parse({"input": "a", "model": "x:y", "dim": 3, "instruction": "i", "truncate": True}) == parse(
        {"input": "a"}
    )


def test_floats_are_the_default_and_base64_is_asked_for() -> None:
    assert not parse({"input": "a"}).base64
    assert parse({"input": "a", "encoding_format": "base64"}).base64


@pytest.mark.parametrize("given", [64, 64.0, "64"])
def test_dimensions_are_taken_as_number_or_digits(given: object) -> None:
    assert parse({"input": "a", "dimensions": given}).dimensions == 64


@pytest.mark.parametrize(
    ("given", "priority"), [(None, None), (0, 0), (-1, -1), ("5", 5), (5.0, 5), ((1 << 63) - 1, (1 << 63) - 1)]
)
def test_priority_is_a_signed_64_bit_integer(given: object, priority: int | None) -> None:
    assert parse({"input": "a", "priority": given}).priority == priority


@pytest.mark.parametrize("given", [1, 255, 256])
def test_every_prefix_up_to_the_whole_vector_is_allowed(given: int) -> None:
    assert parse({"input": "a", "dimensions": given}).dimensions == given


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"input": []}, "Input cannot be empty"),
        ({"input": ""}, "Input cannot be empty"),
        ({"input": " \n"}, "Input cannot be empty or whitespace only"),
        ({"input": ["a", "\t "]}, "Input at index 1 cannot be empty or whitespace only"),
        ({"input": ["", ""]}, "Input at index 0 cannot be empty or whitespace only"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format must be either 'float' or 'base64', got 'hex'"),
        ({"input": "a", "dimensions": 0}, "Requested dimensions must be greater than 0"),
        ({"input": "a", "dimensions": -1}, "Requested dimensions must be greater than 0"),
        ({"input": "a", "dimensions": 257}, "Provided dimensions are greater than max embedding dimension: 256"),
        ({"input": "a", "priority": 1 << 63, "dimensions": 0}, OUT_OF_RANGE),
        ({"input": " ", "priority": 1 << 63}, "Input cannot be empty or whitespace only"),
    ],
)
def test_rejections_have_the_sentences_of_sglang(body: dict[str, Any], sentence: str) -> None:
    rejected = rejection(body)
    assert (rejected.status, rejected.kind, str(rejected)) == (400, "BadRequestError", sentence)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"input":', "json_invalid"),
        (b'{"input":"\\ud83d"}', "json_invalid"),
        (b"", "missing"),
        (b"[1]", "model_attributes_type"),
        ({}, "missing"),
        ({"input": None}, "string_type"),
        ({"input": 5}, "string_type"),
        ({"input": {"text": "a"}}, "string_type"),
        ({"input": ["a", None]}, "string_type"),
        ({"input": [{"text": "a"}]}, "string_type"),
        ({"input": "a", "model": 5}, "string_type"),
        ({"input": "a", "encoding_format": None}, "string_type"),
        ({"input": "a", "dimensions": 3.5}, "int_type"),
        ({"input": "a", "dimensions": "x"}, "int_parsing"),
        ({"input": "a", "dimensions": [3]}, "int_type"),
        ({"input": "a", "priority": "high"}, "int_parsing"),
    ],
)
def test_a_body_of_the_wrong_shape_is_a_validation_error(body: dict[str, Any] | bytes, detail: str) -> None:
    rejected = rejection(body)
    assert (rejected.status, rejected.kind) == (400, "Bad Request")
    assert str(rejected).startswith(f"1 validation error:\n  {{'type': '{detail}', 'loc': (")


@pytest.mark.parametrize("given", [[1, 2], [[1, 2], [3]], [[]], ["a", 1]])
def test_token_ids_are_rejected(given: list[object]) -> None:
    rejected = rejection({"input": given})
    assert rejected.status == 400
    assert "takes no token ids" in str(rejected)


def test_more_inputs_than_a_server_takes_are_rejected_with_the_number() -> None:
    assert len(parse({"input": ["a"] * bounds.MAX_INPUTS}).texts) == bounds.MAX_INPUTS
    sentence = "The request has 2049 inputs; this server takes at most 2048 inputs in a request."
    rejected = rejection({"input": ["a"] * (bounds.MAX_INPUTS + 1)})
    assert (rejected.status, rejected.kind, str(rejected)) == (400, "BadRequestError", sentence)
    with pytest.raises(RequestError, match="takes at most 2048 inputs"):
        protocol.parse_tokenize(orjson.dumps({"prompt": ["a"] * 2049}), JSON)


def test_a_text_that_no_context_holds_is_rejected_before_it_is_tokenized() -> None:
    longest = "a" * bounds.MAX_CHARACTERS
    assert parse({"input": ["b", longest]}).texts[1] == longest
    assert str(rejection({"input": ["b", longest + "a"]})) == (
        "The input (524289 characters) is longer than the model's context length (8192 tokens)."
    )
    assert protocol.parse_tokenize(orjson.dumps({"prompt": longest}), JSON).texts == [longest]
    with pytest.raises(RequestError, match=r"\(524289 characters\) is longer than 524288 characters, the most"):
        protocol.parse_tokenize(orjson.dumps({"prompt": longest + "a"}), JSON)


def test_more_token_ids_than_a_context_holds_are_rejected() -> None:
    most = [7] * bounds.MAX_TOKENS
    assert protocol.parse_detokenize(orjson.dumps({"tokens": most}), JSON).rows == [most]
    for tokens in ([*most, 7], [most, [7]], [[7]] * (bounds.MAX_INPUTS + 1)):
        with pytest.raises(RequestError, match="takes at most 1048576 in 2048 lists"):
            protocol.parse_detokenize(orjson.dumps({"tokens": tokens}), JSON)


def test_a_rejection_does_not_repeat_a_long_value() -> None:
    assert len(str(rejection({"input": "a", "encoding_format": "x" * 100_000}))) < 200


@given(st.lists(st.integers(0, 3 * bounds.PART_CHARACTERS // 2), min_size=1, max_size=12))
def test_parts_are_the_texts_in_order_and_short_enough_to_wait_for(lengths: list[int]) -> None:
    texts = [Long(length) for length in lengths]
    parts = list(bounds.parts(texts))
    assert [text for part in parts for text in part] == texts
    assert all(part for part in parts)
    assert all(len(part) == 1 or sum(map(len, part)) <= bounds.PART_CHARACTERS for part in parts)
    for part, after in pairwise(parts):
        assert sum(map(len, part)) + len(after[0]) > bounds.PART_CHARACTERS, "a part that could have been longer"


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/jsonp"])
def test_only_json_is_read(content_type: str) -> None:
    with pytest.raises(RequestError, match="Only 'application/json' is allowed"):
        protocol.parse_embeddings(b'{"input":"a"}', content_type, MODEL)


def test_the_content_type_may_name_a_charset() -> None:
    assert protocol.parse_embeddings(b'{"input":"a"}', "Application/JSON; charset=utf-8", MODEL).texts == ["a"]


def test_a_model_without_prefixes_rejects_even_its_full_size() -> None:
    plain = ModelFacts(architectures=(), dimensions=256, context_length=8192, supports_dimensions=False)
    assert str(rejection({"input": "a", "dimensions": 256}, plain)) == (
        "Model 'm' does not support matryoshka representation, changing output dimensions will lead to poor results."
    )


def test_a_model_with_listed_prefixes_rejects_others() -> None:
    listed = ModelFacts((), dimensions=256, context_length=9, supports_dimensions=True, matryoshka_dimensions=(64, 128))
    assert parse({"input": "a", "dimensions": 128}, listed).dimensions == 128
    assert str(rejection({"input": "a", "dimensions": 100}, listed)) == (
        "Model 'm' only supports [64, 128] matryoshka dimensions, "
        "using other output dimensions will lead to poor results."
    )


def test_an_error_body_is_flat() -> None:
    assert orjson.loads(protocol.input_too_long(10002, 512).body()) == {
        "object": "error",
        "message": "The input (10002 tokens) is longer than the model's context length (512 tokens).",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


def test_an_internal_error_is_500() -> None:
    body = orjson.loads(protocol.internal_error(RuntimeError("out of luck")).body())
    assert (body["code"], body["type"]) == (500, "InternalServerError")
    assert body["message"] == "Internal server error: out of luck"


def test_a_full_queue_is_503() -> None:
    body = orjson.loads(protocol.queue_full().body())
    assert (body["code"], body["type"], body["message"]) == (503, "503", "The request queue is full.")


def answer_of(vectors: protocol.Vectors, *, base64: bool) -> Any:
    data = protocol.items(protocol.written(vectors, base64=base64))
    return orjson.loads(protocol.embeddings_answer(data, tokens=7, model_name="m"))


def test_base64_is_little_endian_float32_and_equal_to_the_floats_bit_by_bit() -> None:
    vectors = np.random.default_rng(1).standard_normal((3, 5), np.float32)
    as_floats, as_base64 = answer_of(vectors, base64=False), answer_of(vectors, base64=True)
    for floats, packed, row in zip(as_floats["data"], as_base64["data"], vectors, strict=True):
        unpacked = list(struct.unpack("<5f", pybase64.b64decode(packed["embedding"], validate=True)))
        assert unpacked == floats["embedding"] == [float(x) for x in row]


def test_an_answer_has_sglangs_fields() -> None:
    assert answer_of(np.ones((2, 1), np.float32), base64=False) == {
        "data": [
            {"embedding": [1.0], "index": 0, "object": "embedding"},
            {"embedding": [1.0], "index": 1, "object": "embedding"},
        ],
        "model": "m",
        "object": "list",
        "usage": {
            "prompt_tokens": 7,
            "total_tokens": 7,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "reasoning_tokens": 0,
            "completion_tokens_details": None,
        },
    }


def test_tokenize_answers_in_the_shape_it_was_asked() -> None:
    one = protocol.parse_tokenize(b'{"prompt":"a b","add_special_tokens":false}', JSON)
    many = protocol.parse_tokenize(b'{"prompt":["a b","c"]}', JSON)
    assert (one.texts, one.single, one.add_special_tokens) == (["a b"], True, False)
    assert (many.texts, many.single, many.add_special_tokens) == (["a b", "c"], False, True)
    answer = orjson.loads(protocol.tokenize_answer([[1, 2]], single=True, max_length=8192))
    assert answer == {"tokens": [1, 2], "count": 2, "max_model_len": 8192}
    answer = orjson.loads(protocol.tokenize_answer([[1, 2], [3]], single=False, max_length=8192))
    assert answer == {"tokens": [[1, 2], [3]], "count": [2, 1], "max_model_len": 8192}


def test_detokenize_answers_in_the_shape_it_was_asked() -> None:
    one = protocol.parse_detokenize(b'{"tokens":[1,2],"skip_special_tokens":false}', JSON)
    many = protocol.parse_detokenize(b'{"tokens":[[1,2],[]]}', JSON)
    assert (one.rows, one.single, one.skip_special_tokens) == ([[1, 2]], True, False)
    assert (many.rows, many.single, many.skip_special_tokens) == ([[1, 2], []], False, True)
    assert orjson.loads(protocol.detokenize_answer(["a"], single=True)) == {"text": "a"}
    assert orjson.loads(protocol.detokenize_answer(["a", "b"], single=False)) == {"text": ["a", "b"]}


@pytest.mark.parametrize(
    "body", [b"{}", b'{"prompt":5}', b'{"prompt":["a",1]}', b'{"prompt":"a","add_special_tokens":1}']
)
def test_tokenize_rejects_other_shapes(body: bytes) -> None:
    with pytest.raises(RequestError, match="1 validation error"):
        protocol.parse_tokenize(body, JSON)


@pytest.mark.parametrize("tokens", ["[-1]", "[4294967296]", "[[0],[-1]]", "[true]", '["a"]', '"a"', "[1,[2]]", "null"])
def test_detokenize_rejects_what_no_tokenizer_can_decode(tokens: str) -> None:
    with pytest.raises(RequestError):
        protocol.parse_detokenize(f'{{"tokens":{tokens}}}'.encode(), JSON)


def test_the_model_tells_what_clients_decide_by() -> None:
    facts = ModelFacts(("A",), 256, 8192, supports_dimensions=True, matryoshka_dimensions=(64,), weight_version="w1")
    listed = ServedModel("m", facts)
    info = orjson.loads(protocol.model_info_answer(listed))
    assert (info["model_path"], info["architectures"], info["weight_version"]) == ("m", ["A"], "w1")
    assert (
        info["embedding"].items()
        >= {
            "supports_dimensions": True,
            "matryoshka_dimensions": [64],
            "normalize": True,
        }.items()
    )
    (card,) = orjson.loads(protocol.models_answer(listed, created=5))["data"]
    assert (card["id"], card["max_model_len"], card["created"]) == ("m", 8192, 5)


def test_a_weight_version_that_is_not_told_has_no_field() -> None:
    assert "weight_version" not in orjson.loads(
        protocol.model_info_answer(ServedModel("m", replace(FACTS, weight_version=None)))
    )


@pytest.mark.parametrize(
    ("scheduling", "enabled", "low_first"),
    [
        (Scheduling.FIRST_COME, False, False),
        (Scheduling.HIGH_FIRST, True, False),
        (Scheduling.LOW_FIRST, True, True),
    ],
)
def test_the_server_tells_which_priorities_go_first(scheduling: Scheduling, enabled: bool, low_first: bool) -> None:
    info = orjson.loads(protocol.server_info_answer(replace(MODEL, scheduling=scheduling)))
    assert (info["enable_priority_scheduling"], info["schedule_low_priority_values_first"]) == (enabled, low_first)


def test_the_server_tells_its_limits_as_sglang_derives_them() -> None:
    info = orjson.loads(protocol.server_info_answer(MODEL))
    assert info["max_req_input_len"] == 8192 - 6
    assert info["max_total_num_tokens"] > 8192
    assert info["version"] == "0.5.23"


def test_loads_count_inputs_and_busy_is_full_use() -> None:
    (busy,) = orjson.loads(protocol.loads_answer(Load(running=64, waiting=128)))["loads"]
    assert (busy["num_running_reqs"], busy["num_waiting_reqs"], busy["utilization"]) == (64, 128, 1.0)
    (idle,) = orjson.loads(protocol.loads_answer(Load()))["loads"]
    assert idle["utilization"] == 0.0
