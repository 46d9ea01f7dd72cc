"""SGLang's embedding protocol, as far as this package needs it. Pure: bytes in, bytes out; no socket, model or clock.

Shapes and sentences are those that SGLang 0.5.23 was seen to answer. Where its sentence is a dump of pydantic's
internals, only status, type and opening are kept. Different on purpose: token ids are refused with 400 (they can kill
an SGLang server), and so are the fields of its multimodal input; `dimensions` is checked before any text's length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

Vectors = npt.NDArray[np.float32]  # one row a text

SGLANG_VERSION = "0.5.23"  # the version whose protocol is spoken
MAX_TOKEN_ID = (1 << 32) - 1  # what a tokenizer can be asked for; an id beyond its vocabulary decodes to nothing
MAX_TOTAL_TOKENS = 1 << 20  # SGLang's KV pool; nothing is pooled here, but clients pack their requests by it


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the server tells of its model."""

    architectures: tuple[str, ...]
    dimensions: int
    context_length: int  # in tokens; the longest input accepted is one shorter
    supports_dimensions: bool  # are prefixes of a vector vectors of their own?
    matryoshka_dimensions: tuple[int, ...] = ()  # the prefixes allowed; none listed: all of them
    weight_version: str = "default"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    texts: list[str]
    dimensions: int | None
    base64: bool


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    texts: list[str]
    single: bool  # asked without a list around it, answered without one
    add_special_tokens: bool


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    rows: list[list[int]]
    single: bool
    skip_special_tokens: bool


class Refusal(Exception):
    """A request answered with an error."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def body(self) -> bytes:
        return orjson.dumps(
            {"object": "error", "message": str(self), "type": self.kind, "param": None, "code": self.status}
        )


def input_too_long(tokens: int, context_length: int) -> Refusal:
    return Refusal(f"The input ({tokens} tokens) is longer than the model's context length ({context_length} tokens).")


def internal_error(error: Exception) -> Refusal:
    return Refusal(f"Internal server error: {error}", status=500, kind="InternalServerError")


# Requests


def parse_embeddings(body: bytes, content_type: str, model: ModelFacts, model_name: str) -> EmbeddingRequest:
    """Raises Refusal. Everything but the length of the texts is checked: that needs the tokenizer."""
    fields = _object(body, content_type)
    encoding = _string(fields, "encoding_format", "float")
    dimensions = _integer(fields, "dimensions")
    _string(fields, "model", "")
    if encoding not in ("float", "base64"):
        raise Refusal(f"encoding_format must be either 'float' or 'base64', got {encoding!r}")
    texts = _texts(fields)
    if dimensions is not None:
        _check_dimensions(dimensions, model, model_name)
    return EmbeddingRequest(texts, dimensions, base64=encoding == "base64")


def parse_tokenize(body: bytes, content_type: str) -> TokenizeRequest:
    """Raises Refusal."""
    fields = _object(body, content_type)
    prompt = fields.get("prompt")
    if prompt is None:
        _invalid("value_error", ("body",), "Value error, Exactly one of 'prompt' or 'messages' must be provided.")
    single = isinstance(prompt, str)
    texts = [prompt] if single else prompt
    if not _all(texts, str):
        _invalid("string_type", ("body", "prompt"), "Input should be a valid string or a list of strings")
    return TokenizeRequest(texts, single, _boolean(fields, "add_special_tokens"))


def parse_detokenize(body: bytes, content_type: str) -> DetokenizeRequest:
    """Raises Refusal."""
    fields = _object(body, content_type)
    if "tokens" not in fields:
        _invalid("missing", ("body", "tokens"), "Field required")
    tokens = fields["tokens"]
    single = _all(tokens, int)
    rows = [tokens] if single else tokens
    if not (_all(rows, list) and all(_all(row, int) for row in rows)):
        _invalid("list_type", ("body", "tokens"), "Input should be a valid list of integers, or of such lists")
    if not all(0 <= token <= MAX_TOKEN_ID for row in rows for token in row):
        raise Refusal(f"Token ids must be between 0 and {MAX_TOKEN_ID}")
    return DetokenizeRequest(rows, single, _boolean(fields, "skip_special_tokens"))


def _object(body: bytes, content_type: str) -> Mapping[str, Any]:
    if content_type.split(";", 1)[0].strip().lower() != "application/json":
        _invalid(
            "value_error", ("header", "content-type"), "Unsupported Media Type: Only 'application/json' is allowed"
        )
    if not body:
        _invalid("missing", ("body",), "Field required")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        _invalid("json_invalid", ("body", error.pos), "JSON decode error", error.msg)
    if not isinstance(fields, dict):
        _invalid("model_attributes_type", ("body",), "Input should be a valid dictionary")
    return fields


def _texts(fields: Mapping[str, Any]) -> list[str]:
    if "input" not in fields:
        _invalid("missing", ("body", "input"), "Field required")
    given = fields["input"]
    if not isinstance(given, str | list):
        _invalid("string_type", ("body", "input"), "Input should be a valid string or a list of strings")
    if not given:
        raise Refusal("Input cannot be empty")
    if isinstance(given, str):
        if not given.strip():
            raise Refusal("Input cannot be empty or whitespace only")
        return [given]
    for index, text in enumerate(given):
        if not isinstance(text, str):
            _refuse_item(index, text)
        if not text.strip():
            raise Refusal(f"Input at index {index} cannot be empty or whitespace only")
    return given


def _refuse_item(index: int, item: object) -> NoReturn:
    if isinstance(item, int | list):
        raise Refusal(f"Input at index {index} is not text: this server takes no token ids; send strings")
    _invalid("string_type", ("body", "input", index), "Input should be a valid string")


def _check_dimensions(dimensions: int, model: ModelFacts, name: str) -> None:
    if not model.supports_dimensions:
        raise Refusal(
            f"Model '{name}' does not support matryoshka representation, "
            "changing output dimensions will lead to poor results."
        )
    if dimensions < 1:
        raise Refusal("Requested dimensions must be greater than 0")
    if model.matryoshka_dimensions and dimensions not in model.matryoshka_dimensions:
        raise Refusal(
            f"Model '{name}' only supports {list(model.matryoshka_dimensions)} matryoshka dimensions, "
            "using other output dimensions will lead to poor results."
        )
    if dimensions > model.dimensions:
        raise Refusal(f"Provided dimensions are greater than max embedding dimension: {model.dimensions}")


def _string(fields: Mapping[str, Any], name: str, default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        _invalid("string_type", ("body", name), "Input should be a valid string")
    return value


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, True)
    if not isinstance(value, bool):
        _invalid("bool_type", ("body", name), "Input should be a valid boolean")
    return value


def _integer(fields: Mapping[str, Any], name: str) -> int | None:
    """SGLang takes 64, 64.0 and "64" alike."""
    value = fields.get(name)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            _invalid("int_parsing", ("body", name), "Input should be a valid integer")
    if value is not None and not isinstance(value, int):
        _invalid("int_type", ("body", name), "Input should be a valid integer")
    return value


def _all(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _invalid(kind: str, where: tuple[str | int, ...], message: str, reason: str | None = None) -> NoReturn:
    """The opening of the sentence that SGLang's web framework makes of a body of the wrong shape."""
    detail = {"type": kind, "loc": where, "msg": message} | ({"ctx": {"error": reason}} if reason else {})
    raise Refusal(f"1 validation error:\n  {detail}", kind="Bad Request")


# Answers


def embeddings_answer(vectors: Vectors, *, tokens: int, base64: bool, model_name: str) -> bytes:
    """`vectors` as they shall leave: sliced and of length 1."""
    if base64:
        rows: Sequence[object] = [pybase64.b64encode_as_string(row) for row in vectors.astype("<f4", copy=False)]
    else:
        # As doubles: their shortest digits round-trip to the very float32 that base64 carries.
        rows = list(vectors.astype(np.float64))
    return orjson.dumps(
        {
            "data": [{"embedding": row, "index": i, "object": "embedding"} for i, row in enumerate(rows)],
            "model": model_name,
            "object": "list",
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
                "reasoning_tokens": 0,
                "completion_tokens_details": None,
            },
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def tokenize_answer(rows: list[list[int]], model: ModelFacts, *, single: bool) -> bytes:
    counts = [len(row) for row in rows]
    return orjson.dumps(
        {
            "tokens": rows[0] if single else rows,
            "count": counts[0] if single else counts,
            "max_model_len": model.context_length,
        }
    )


def detokenize_answer(texts: list[str], *, single: bool) -> bytes:
    return orjson.dumps({"text": texts[0] if single else texts})


def models_answer(model: ModelFacts, model_name: str, *, created: int) -> bytes:
    card = {
        "id": model_name,
        "object": "model",
        "created": created,
        "owned_by": "pg-qwen-embed",
        "root": model_name,
        "parent": None,
        "max_model_len": model.context_length,
    }
    return orjson.dumps({"object": "list", "data": [card]})


def model_info_answer(model: ModelFacts, model_name: str) -> bytes:
    return orjson.dumps(
        {
            "model_path": model_name,
            "served_model_name": model_name,
            "is_generation": False,
            "weight_version": model.weight_version,
            "architectures": model.architectures,
            "embedding": {
                "task": "embed",
                "enabled": True,
                "normalize": True,
                "supports_dimensions": model.supports_dimensions,
                "matryoshka_dimensions": model.matryoshka_dimensions,
            },
        }
    )


def server_info_answer(model: ModelFacts, model_name: str) -> bytes:
    return orjson.dumps(
        {
            "model_path": model_name,
            "served_model_name": model_name,
            "max_total_num_tokens": MAX_TOTAL_TOKENS,
            "max_req_input_len": model.context_length - 6,  # what SGLang keeps free of the context
            "version": SGLANG_VERSION,
            "frontend": "pg-qwen-embed",
        }
    )


def detail_answer(reason: str) -> bytes:
    """What the framework under SGLang answers to an unknown path or method."""
    return orjson.dumps({"detail": reason})


def loads_answer(*, running: int, waiting: int) -> bytes:
    """Counts inputs, not requests, as SGLang does."""
    load = {
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "max_total_num_tokens": MAX_TOTAL_TOKENS,
        "utilization": 1.0 if running else 0.0,
    }
    return orjson.dumps({"version": SGLANG_VERSION, "loads": [load]})
