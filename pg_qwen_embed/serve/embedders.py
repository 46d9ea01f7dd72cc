"""The models behind the local server: text in, vectors out. Nothing here knows of HTTP.

An embedder refuses a text that is too long (it never truncates) and answers raw vectors; `unit` makes of them what is
sent: sliced, of length 1, never zero. An embedder is used by one thread at a time."""

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

STATIC_CONTEXT = 8192  # a static model has no limit of its own
MAX_WORDS = 1 << 16  # words whose tokens are remembered: 15 MB of ordinary text
LONGEST_WORD = 64  # longer ones are rarely met again
T = TypeVar("T")
_TOKEN = np.dtype(np.int64)  # what numpy gathers by without converting


class Embedded(NamedTuple):
    vectors: Vectors  # raw: one row a text, any length
    tokens: int  # of all texts together


class Embedder(Protocol):
    """A model as the server sees it."""

    @property
    def facts(self) -> ModelFacts: ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises Refusal for the first text that is too long, before anything is embedded."""

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
    except Exception as error:  # each library has errors of its own, some of them bare Exceptions
        raise UsageError(f"the model in {folder} cannot be loaded: {error}") from error


def unit(vectors: Vectors, texts: Sequence[str], dimensions: int | None) -> Vectors:
    """The first `dimensions` of each vector, of length 1. A text of unknown tokens only gets a direction of its own."""
    prefixes = np.ascontiguousarray(vectors[:, :dimensions])
    for row in np.flatnonzero(~prefixes.any(axis=1)).tolist():
        prefixes[row] = _direction_of(texts[row], prefixes.shape[1])
    return normalise(prefixes)


def _direction_of(text: str, dimensions: int) -> npt.NDArray[np.float32]:
    """The same for the same text, on every machine; no element is zero, so any prefix has a length."""
    noise = np.frombuffer(hashlib.shake_256(text.encode()).digest(dimensions), np.uint8)
    return noise.astype(np.float32) - np.float32(127.5)


class StaticEmbedder:
    """A model2vec model: the sum of the vectors of a text's tokens. (Its length is lost, so sum and mean are one.)

    Same vectors as model2vec's own encode(), several times faster: the tokens of a word are remembered, and sums of
    int8 are exact in float32."""

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
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def _whole(self, text: str) -> bytes:
        return _packed(self.tokenize(text, add_special_tokens=False))


def _token_vectors(model: Any) -> npt.NDArray[Any]:
    """One row a token id, as int8 or float32. The unknown token means nothing: its row is zero."""
    rows = model.embedding if model.token_mapping is None else model.embedding[model.token_mapping]
    if model.weights is not None:
        rows = rows * model.weights[:, None]
    vectors = np.array(rows, np.int8 if rows.dtype == np.int8 else np.float32)
    if model.unk_token_id is not None:
        vectors[model.unk_token_id] = 0
    return vectors


def _packed(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()


class _Words(dict[str, bytes]):
    """The tokens of each word, learned from the tokenizer as they come. Forgets all when full."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> bytes:
        tokens = _packed(self._tokenizer.encode(word, add_special_tokens=False).ids)
        if len(word) <= LONGEST_WORD:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


def _word_by_word(tokenizer: Any) -> Callable[[str], bytes]:
    """Not str.split(): some of what it takes for space is removed by the tokenizer, not split at."""
    recall = _Words(tokenizer).__getitem__

    def tokens_of(text: str) -> bytes:
        words = text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")
        return b"".join(map(recall, words))

    return tokens_of


def _splits_at_spaces(tokenizer: Any) -> bool:
    """Are a text's tokens those of its words, one after the other? True of BERT's tokenizer; others are not trusted."""
    parts = json.loads(tokenizer.to_str())
    return (
        (parts["normalizer"] or {}).get("type") == "BertNormalizer"
        and (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and not any(" " in token["content"] for token in parts["added_tokens"])
    )


class SentenceTransformerEmbedder:
    """Any sentence-transformers model, on whatever device that library picks.

    Prefixes are offered if the model's config.json says "is_matryoshka": true or lists "matryoshka_dimensions",
    which is where SGLang looks too."""

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
    """What the file holds, if that is of the default's type."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return default
    return content if isinstance(content, type(default)) else default


def _import(library: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:  # it is there, but broken
            raise
        raise UsageError(f"this model needs {library}; run: pip install 'pg-qwen-embed[{extra}]'") from error
