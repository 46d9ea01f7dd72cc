"""The models of the local server: text in, vectors out. Nothing here knows of HTTP.

An embedder rejects a text that is too long, and never truncates. It returns raw vectors; `unit` slices and normalises
them, and never returns a zero vector. One thread at a time uses an embedder."""

import hashlib
import importlib
import json
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.vectors import normalise
from pg_qwen_embed.serve.protocol import ModelFacts, Vectors, input_too_long

STATIC_CONTEXT = 8192  # tokens; a static model itself has no limit
MAX_WORDS = 1 << 16  # in the cache of a word's tokens: 15 MB with ordinary text
LONGEST_WORD = 64  # characters; longer words seldom repeat, and are not cached
QUICK_TEXT = 1000  # characters; only of shorter ones are the tokens counted without a pause for other threads
T = TypeVar("T")
_TOKEN = np.dtype(np.int64)  # NumPy takes such indexes without a conversion


class Embedded(NamedTuple):
    vectors: Vectors  # raw: one row a text, of any norm
    tokens: int  # of all texts together


class Embedder(Protocol):
    """A model as the server sees it."""

    @property
    def facts(self) -> ModelFacts: ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises RequestError for the first text that is too long, before it embeds any."""

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str: ...


def load(folder: Path) -> Embedder:
    """The embedder for a model folder. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"there is no model folder {folder}; name a folder that holds a model2vec model")
    kind = _kind(folder)
    if kind is None:
        raise UsageError(f"{folder} holds neither a model2vec nor a sentence-transformers model")
    try:
        return kind(folder)
    except UsageError:
        raise
    except Exception as error:  # the libraries raise errors of their own classes, and bare Exceptions
        raise UsageError(f"the model in {folder} cannot be loaded: {error}") from error


def unit(vectors: Vectors, texts: Sequence[str], dimensions: int | None) -> Vectors:
    """The first `dimensions` of each vector, at length 1. A zero vector becomes a direction made of the text's hash.

    The vector of a text is zero if the model knows none of its tokens."""
    prefixes = np.ascontiguousarray(vectors[:, :dimensions])
    for row in np.flatnonzero(~prefixes.any(axis=1)).tolist():
        prefixes[row] = _direction_of(texts[row], prefixes.shape[1])
    return normalise(prefixes)


def _direction_of(text: str, dimensions: int) -> npt.NDArray[np.float32]:
    """The same for the same text, on every machine. No element is zero, so every prefix can be normalised."""
    noise = np.frombuffer(hashlib.shake_256(text.encode()).digest(dimensions), np.uint8)
    return noise.astype(np.float32) - np.float32(127.5)


class StaticEmbedder:
    """A model2vec model: a text's vector is the sum of its tokens' vectors. (Sum or mean: normalised, they are equal.)

    Its vectors equal those of model2vec's encode(). It is several times faster: it caches the tokens of each word, and
    adds int8 vectors in float32, where the sums are exact."""

    def __init__(self, folder: Path) -> None:
        model = _import("model2vec", extra="embedded").StaticModel.from_pretrained(folder)
        self._tokenizer = model.tokenizer
        self._tokenizer.no_truncation()
        self._vectors = _token_vectors(model)
        self._tokens_of = _word_by_word(self._tokenizer) if _splits_at_spaces(self._tokenizer) else self._whole
        self._facts = ModelFacts(
            architectures=tuple(model.config.get("architectures", ("StaticModel",))),
            dimensions=self._vectors.shape[1],
            context_length=STATIC_CONTEXT,
            supports_dimensions=bool(model.config.get("apply_pca")),
            weight_version=hashlib.sha256(np.ascontiguousarray(self._vectors).data).hexdigest()[:12],
        )

    @property
    def facts(self) -> ModelFacts:
        return self._facts

    def embed(self, texts: Sequence[str]) -> Embedded:
        tokens = [self._tokens_of(text) for text in texts]
        lengths = [len(ids) // _TOKEN.itemsize for ids in tokens]
        for length in lengths:
            if length >= STATIC_CONTEXT:
                raise input_too_long(length, STATIC_CONTEXT)
        sums = np.empty((len(texts), self._facts.dimensions), np.float32)
        for row, ids in zip(sums, tokens, strict=True):
            self._vectors.take(np.frombuffer(ids, _TOKEN), axis=0).sum(axis=0, dtype=np.float32, out=row)
        return Embedded(sums, sum(lengths))

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return _ids(self._tokenizer, text, special=add_special_tokens)

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def _whole(self, text: str) -> bytes:
        return _packed(self.tokenize(text, add_special_tokens=False))


def _token_vectors(model: Any) -> npt.NDArray[Any]:
    """One row a token id, as int8 or float32. The row of the unknown token is zero: it has no meaning."""
    rows = model.embedding if model.token_mapping is None else model.embedding[model.token_mapping]
    if model.weights is not None:
        rows = rows * model.weights[:, None]
    vectors = np.array(rows, np.int8 if rows.dtype == np.int8 else np.float32)
    if model.unk_token_id is not None:
        vectors[model.unk_token_id] = 0
    return vectors


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """The tokens of a text. encode() keeps Python's lock, so that the event loop would stand still; encode_batch() does not."""
    if len(text) <= QUICK_TEXT:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
        return ids
    (found,) = tokenizer.encode_batch([text], add_special_tokens=special)
    return list(found.ids)


def _packed(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()


class _Words(dict[str, bytes]):
    """A cache of the tokens of each word. When it is full, it starts again empty."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> bytes:
        tokens = _packed(_ids(self._tokenizer, word, special=False))
        if len(word) <= LONGEST_WORD:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


def _word_by_word(tokenizer: Any) -> Callable[[str], bytes]:
    """A text's tokens, word by word. str.split() would also split at characters that BERT's tokenizer removes."""
    cached = _Words(tokenizer).__getitem__

    def tokens_of(text: str) -> bytes:
        words = text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")
        return b"".join(map(cached, words))

    return tokens_of


def _splits_at_spaces(tokenizer: Any) -> bool:
    """Whether a text's tokens are those of its words, in order. Known of BERT's tokenizer only."""
    parts = json.loads(tokenizer.to_str())
    return (
        (parts["normalizer"] or {}).get("type") == "BertNormalizer"
        and (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and not any(" " in token["content"] for token in parts["added_tokens"])
    )


class SentenceTransformerEmbedder:
    """Any sentence-transformers model, on the device that the library chooses.

    It supports `dimensions` if the model's config.json has "is_matryoshka": true or "matryoshka_dimensions": [..].
    SGLang reads the same fields."""

    def __init__(self, folder: Path) -> None:
        library = _import("sentence_transformers", extra="local")
        self._model = library.SentenceTransformer(str(folder))
        config = _config(folder)
        prefixes = tuple(config.get("matryoshka_dimensions") or ())
        self._facts = ModelFacts(
            architectures=tuple(config.get("architectures") or ()),
            dimensions=self._model.encode("dimensions").shape[-1],
            context_length=self._model.max_seq_length or STATIC_CONTEXT,
            supports_dimensions=bool(prefixes or config.get("is_matryoshka")),
            matryoshka_dimensions=prefixes,
        )

    @property
    def facts(self) -> ModelFacts:
        return self._facts

    def embed(self, texts: Sequence[str]) -> Embedded:
        lengths = [len(self.tokenize(text, add_special_tokens=True)) for text in texts]
        for length in lengths:
            if length >= self._facts.context_length:
                raise input_too_long(length, self._facts.context_length)
        vectors = self._model.encode(list(texts), prompt="", show_progress_bar=False, convert_to_numpy=True)
        return Embedded(vectors.astype(np.float32), sum(lengths))

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._model.tokenizer.encode(text, add_special_tokens=add_special_tokens, truncation=False)
        return ids

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        text: str = self._model.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text


def _kind(folder: Path) -> Callable[[Path], Embedder] | None:
    modules = [str(module) for module in _json(folder / "modules.json", list[Any]())]
    if _config(folder).get("model_type") == "model2vec" or any("StaticEmbedding" in module for module in modules):
        return StaticEmbedder
    return SentenceTransformerEmbedder if modules else None


def _config(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json", dict[str, Any]())


def _json(file: Path, default: T) -> T:
    """The content of the file; the default if the file cannot be read or holds another type."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return default
    return content if isinstance(content, type(default)) else default


def _import(library: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:  # the library is installed, but something that it imports is not
            raise
        raise UsageError(f"this model needs {library}; run: pip install 'pg-qwen-embed[{extra}]'") from error
