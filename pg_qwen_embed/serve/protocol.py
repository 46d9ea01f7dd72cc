"""SGLang's embedding protocol: requests parsed and validated, answers and errors written.

Pure: bytes in, bytes out; no socket, model or clock. Every server of this project speaks it: the local server and the
fake one of tests and benchmarks. Shapes and sentences are those of SGLang 0.5.23, as observed. Where SGLang dumps
pydantic's internals, only status, type and opening are kept. Four differences are deliberate. Token ids are rejected
with 400, because they can kill an SGLang server. Multimodal inputs are rejected too. `dimensions` is checked before
the length of any text. What one request may cost is bounded (bounds.py)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from pg_qwen_embed.serve import bounds

Vectors = npt.NDArray[np.float32]  # one row a text
Item = dict[str, object]  # of an answer's `data`: a vector and its index

SGLANG_VERSION = "0.5.23"  # the version whose protocol is spoken
MAX_TOKEN_ID = (1 << 32) - 1  # the largest that a tokenizer accepts; an id outside its vocabulary decodes to nothing
PRIORITIES = range(-(1 << 63), 1 << 63)
MAX_TOTAL_TOKENS = 1 << 20  # SGLang's KV pool; there is none here, but clients pack their requests by its size
RESERVED_TOKENS = 6  # of the context: SGLang accepts no longer input than the rest, by its /server_info


class Scheduling(Enum):
    """The order of waiting inputs: SGLang's --enable-priority-scheduling and --schedule-low-priority-values-first."""

    FIRST_COME = auto()
    HIGH_FIRST = auto()
    LOW_FIRST = auto()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a server tells about its model."""

    architectures: tuple[str, ...]
    dimensions: int
    context_length: int  # in tokens; the longest accepted input is one token shorter
    supports_dimensions: bool  # whether a prefix of a vector is a vector too
    matryoshka_dimensions: tuple[int, ...] = ()  # the only prefixes allowed; empty: all are
    weight_version: str | None = "default"  # None: not told, as by older servers


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name it is served by."""

    name: str
    facts: ModelFacts
    scheduling: Scheduling = Scheduling.FIRST_COME


@dataclass(frozen=True, slots=True)
class Load:
    """Inputs, not requests: SGLang counts the same."""

    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    texts: list[str]
    dimensions: int | None
    base64: bool
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    texts: list[str]
    single: bool  # one text, not in a list; the answer has no list either
    add_special_tokens: bool


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    rows: list[list[int]]
    single: bool
    skip_special_tokens: bool


class RequestError(Exception):
    """The request is answered with SGLang's flat error. `kind` is the error's `type`."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def body(self) -> bytes:
        return orjson.dumps(
            {"object": "error", "message": str(self), "type": self.kind, "param": None, "code": self.status}
        )


def input_too_long(tokens: int, context_length: int) -> RequestError:
    return RequestError(
        f"The input ({tokens} tokens) is longer than the model's context length ({context_length} tokens)."
    )


def queue_full() -> RequestError:
    return RequestError("The request queue is full.", status=503, kind="503")


def internal_error(error: Exception) -> RequestError:
    return RequestError(f"Internal server error: {error}", status=500, kind="InternalServerError")


# Requests


def parse_embeddings(body: bytes, content_type: str, model: ServedModel) -> EmbeddingRequest:
    """Raises RequestError. Everything but the length of the texts is checked: that needs the tokenizer."""
    fields = _object(body, content_type)
    encoding = _string(fields, "encoding_format", "float")
    dimensions = _integer(fields, "dimensions")
    priority = _integer(fields, "priority")
    _string(fields, "model", "")
    if encoding not in ("float", "base64"):
        raise RequestError(f"encoding_format must be either 'float' or 'base64', got {encoding[:100]!r}")
    texts = _texts(fields)
    _within(bounds.excess_of_texts(texts, model.facts.context_length))
    if priority is not None and priority not in PRIORITIES:
        raise RequestError(
            f"priority must be a signed 64-bit integer between {PRIORITIES.start} and {PRIORITIES.stop - 1}"
        )
    if dimensions is not None:
        _check_dimensions(dimensions, model.facts, model.name)
    return EmbeddingRequest(texts, dimensions, encoding == "base64", priority)


def parse_tokenize(body: bytes, content_type: str) -> TokenizeRequest:
    """Raises RequestError."""
    fields = _object(body, content_type)
    prompt = fields.get("prompt")
    if prompt is None:
        _invalid("value_error", ("body",), "Value error, Exactly one of 'prompt' or 'messages' must be provided.")
    single = isinstance(prompt, str)
    texts = [prompt] if single else prompt
    if not _all(texts, str):
        _invalid("string_type", ("body", "prompt"), "Input should be a valid string or a list of strings")
    _within(bounds.excess_of_texts(texts))
    return TokenizeRequest(texts, single, _boolean(fields, "add_special_tokens"))


def parse_detokenize(body: bytes, content_type: str) -> DetokenizeRequest:
    """Raises RequestError."""
    fields = _object(body, content_type)
    if "tokens" not in fields:
        _invalid("missing", ("body", "tokens"), "Field required")
    tokens = fields["tokens"]
    single = _all(tokens, int)
    rows = [tokens] if single else tokens
    if not (_all(rows, list) and all(_all(row, int) for row in rows)):
        _invalid("list_type", ("body", "tokens"), "Input should be a valid list of integers, or of such lists")
    _within(bounds.excess_of_tokens(rows))
    if not all(0 <= token <= MAX_TOKEN_ID for row in rows for token in row):
        raise RequestError(f"Token ids must be between 0 and {MAX_TOKEN_ID}")
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
        raise RequestError("Input cannot be empty")
    if isinstance(given, str):
        if not given.strip():
            raise RequestError("Input cannot be empty or whitespace only")
        return [given]
    if not _none_blank(given):
        _reject_first(given)
    return given


def _none_blank(items: list[Any]) -> bool:
    """Whether all are texts that are not blank. A loop in C: benchmarks send 40,000 texts a second."""
    try:
        return all(map(str.strip, items))
    except TypeError:
        return False


def _reject_first(items: list[Any]) -> None:
    for index, item in enumerate(items):
        if isinstance(item, int | list):
            raise RequestError(f"Input at index {index} is not text: this server takes no token ids; send strings")
        if not isinstance(item, str):
            _invalid("string_type", ("body", "input", index), "Input should be a valid string")
        if not item.strip():
            raise RequestError(f"Input at index {index} cannot be empty or whitespace only")


def _check_dimensions(dimensions: int, model: ModelFacts, name: str) -> None:
    if not model.supports_dimensions:
        raise RequestError(
            f"Model '{name}' does not support matryoshka representation, "
            "changing output dimensions will lead to poor results."
        )
    if dimensions < 1:
        raise RequestError("Requested dimensions must be greater than 0")
    if model.matryoshka_dimensions and dimensions not in model.matryoshka_dimensions:
        raise RequestError(
            f"Model '{name}' only supports {list(model.matryoshka_dimensions)} matryoshka dimensions, "
            "using other output dimensions will lead to poor results."
        )
    if dimensions > model.dimensions:
        raise RequestError(f"Provided dimensions are greater than max embedding dimension: {model.dimensions}")


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
    return isinstance(value, list) and set(map(type, value)) <= {kind}


def _within(excess: str | None) -> None:
    if excess is not None:
        raise RequestError(excess)


def _invalid(kind: str, where: tuple[str | int, ...], message: str, reason: str | None = None) -> NoReturn:
    """The opening of the sentence that SGLang's web framework makes of a body of the wrong shape."""
    detail = {"type": kind, "loc": where, "msg": message} | ({"ctx": {"error": reason}} if reason else {})
    raise RequestError(f"1 validation error:\n  {detail}", kind="Bad Request")


# Answers


def written(vectors: Vectors, *, base64: bool) -> Sequence[object]:
    """Each vector as it stands in an answer. `vectors` are sliced and of length 1 already."""
    if base64:
        return [pybase64.b64encode_as_string(row) for row in vectors.astype("<f4", copy=False)]
    # As doubles: their shortest digits round-trip to the very float32 that base64 carries.
    return list(vectors.astype(np.float64))


def items(rows: Iterable[object]) -> list[Item]:
    """The `data` of an answer: written vectors in the order of their texts."""
    return [{"embedding": row, "index": index, "object": "embedding"} for index, row in enumerate(rows)]


def embeddings_answer(data: Sequence[Item], *, tokens: int, model_name: str) -> bytes:
    """`tokens`: of all texts together."""
    return orjson.dumps(
        {
            "data": data,
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


def tokenize_answer(rows: Sequence[Any], *, single: bool, max_length: int) -> bytes:
    """`rows` may be arrays. `max_length`: the tokenizer's own limit; it can differ from the model's context length."""
    counts = [len(row) for row in rows]
    return orjson.dumps(
        {
            "tokens": rows[0] if single else rows,
            "count": counts[0] if single else counts,
            "max_model_len": max_length,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def detokenize_answer(texts: Sequence[str], *, single: bool) -> bytes:
    return orjson.dumps({"text": texts[0] if single else texts})


def models_answer(model: ServedModel, *, created: int) -> bytes:
    card = {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "pg-qwen-embed",
        "root": model.name,
        "parent": None,
        "max_model_len": model.facts.context_length,
    }
    return orjson.dumps({"object": "list", "data": [card]})


def model_info_answer(model: ServedModel) -> bytes:
    weights = {} if model.facts.weight_version is None else {"weight_version": model.facts.weight_version}
    return orjson.dumps(
        {
            "model_path": model.name,
            "served_model_name": model.name,
            "is_generation": False,
            **weights,
            "architectures": model.facts.architectures,
            "embedding": {
                "task": "embed",
                "enabled": True,
                "normalize": True,
                "supports_dimensions": model.facts.supports_dimensions,
                "matryoshka_dimensions": model.facts.matryoshka_dimensions,
            },
        }
    )


def server_info_answer(model: ServedModel) -> bytes:
    return orjson.dumps(
        {
            "model_path": model.name,
            "served_model_name": model.name,
            "max_total_num_tokens": MAX_TOTAL_TOKENS,
            "max_req_input_len": model.facts.context_length - RESERVED_TOKENS,
            "enable_priority_scheduling": model.scheduling is not Scheduling.FIRST_COME,
            "schedule_low_priority_values_first": model.scheduling is Scheduling.LOW_FIRST,
            "default_priority_value": None,
            "abort_on_priority_when_disabled": False,
            "version": SGLANG_VERSION,
            "frontend": "pg-qwen-embed",
        }
    )


def loads_answer(load: Load) -> bytes:
    fields = {
        "dp_rank": 0,
        "num_running_reqs": load.running,
        "num_waiting_reqs": load.waiting,
        "max_total_num_tokens": MAX_TOTAL_TOKENS,
        "utilization": 1.0 if load.running else 0.0,
    }
    return orjson.dumps({"version": SGLANG_VERSION, "loads": [fields]})


def detail_answer(reason: str) -> bytes:
    """What FastAPI, the framework under SGLang, answers to an unknown path or method."""
    return orjson.dumps({"detail": reason})
