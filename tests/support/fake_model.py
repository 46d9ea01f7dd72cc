"""The model of the fake SGLang: its reported identity, its vectors (hashes of the texts), its tokenizer (bytes)."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from pg_qwen_embed.serve import protocol
from pg_qwen_embed.serve.protocol import DetokenizeRequest, ModelFacts, Scheduling, ServedModel, TokenizeRequest

END = 256  # the token that the tokenizer appends, and whose vector is the text's; all others are the text's bytes
END_TEXT = "<|endoftext|>"
TOKENIZER_LENGTH = 131_072  # the tokenizer's own limit: a client must not take it for the model's
SCHEDULING = {None: Scheduling.FIRST_COME, "high": Scheduling.HIGH_FIRST, "low": Scheduling.LOW_FIRST}


@dataclass(eq=False)
class HashModel:
    """Tests set the fields while the server runs: another model, other weights, fewer abilities."""

    model: str = "stand-in"  # its name
    dimensions: int = 16
    weight_version: str | None = "default"
    supports_dimensions: bool = True
    matryoshka_dimensions: tuple[int, ...] = ()
    context_length: int = 32_768  # in tokens, which are bytes here
    priorities: str | None = None  # which go first, "high" or "low", with --enable-priority-scheduling; None: without

    @property
    def served(self) -> ServedModel:
        facts = ModelFacts(
            architectures=("Qwen3ForCausalLM",),
            dimensions=self.dimensions,
            context_length=self.context_length,
            supports_dimensions=self.supports_dimensions,
            matryoshka_dimensions=self.matryoshka_dimensions,
            weight_version=self.weight_version,
        )
        return ServedModel(self.model, facts, SCHEDULING[self.priorities])

    def vector(self, text: str, dimensions: int | None = None) -> NDArray[np.float32]:
        """The unit vector of a text."""
        raw = hashlib.shake_256(text.encode()).digest(self.dimensions)
        prefix = np.frombuffer(raw, np.uint8).astype(np.float32)[: dimensions or self.dimensions] - 127.5
        unit: NDArray[np.float32] = prefix / np.linalg.norm(prefix)
        return unit


@dataclass(eq=False)
class ByteTokenizer:
    """Composes a text (NFC) and makes a token of each byte."""

    ends: bool = True  # it appends the token that is pooled
    tokenizes: bool = True  # False: there is no /tokenize, as before 0.5
    detokenizes: bool = True
    decodes_otherwise: bool = False  # the decoded text differs from the original, as with tokenizers of words
    tokenizing: str = ""  # how a gateway answers /tokenize and /server_info instead: with a status, or with "nothing"

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        end = [END] if special and self.ends else []
        return [*unicodedata.normalize("NFC", text).encode(), *end]

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        if not self.tokenizes:
            raise web.HTTPNotFound
        rows = [self.tokens(text, special=request.add_special_tokens) for text in request.texts]
        return protocol.tokenize_answer(rows, single=request.single, max_length=TOKENIZER_LENGTH)

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        if not self.detokenizes:
            raise web.HTTPNotFound
        texts = [_text(row, skip_special=request.skip_special_tokens) for row in request.rows]
        if self.decodes_otherwise:
            texts = [" ".join(text) for text in texts]
        return protocol.detokenize_answer(texts, single=request.single)


def _text(tokens: Sequence[int], *, skip_special: bool) -> str:
    text = bytes(token for token in tokens if token < END).decode(errors="replace")
    return text + ("" if skip_special else END_TEXT * tokens.count(END))
