"""A model of which is known how well it finds: texts with common words are near each other, and an instruction can spoil that.

A vector is the sum of the vectors of its words, which are hashes. An instruction that has the word `confuse` turns the query by
a part that depends on the query alone: so searches find less, by a known cause."""

import hashlib
import random

import numpy as np
from fake_sglang import FakeSGLang
from numpy.typing import NDArray

GOOD, ALSO_GOOD, BAD = "Find it", "Retrieve what the words are about", "Please confuse everything"
DIMENSIONS = 64
WORDS = [f"word{number}" for number in range(400)]


def plant(server: FakeSGLang, spoilt: float = 3.0) -> None:
    """Give the fake SGLang this model. spoilt: how much of a query is turned by a bad instruction."""
    server.model = "Qwen/Qwen3-Embedding-0.6B"
    server.dimensions = DIMENSIONS

    def vector(text: str, dimensions: int | None = None) -> NDArray[np.float32]:
        instruction, _, query = text.rpartition("\nQuery:")
        total = sum((_of(word) for word in query.split()), np.full(DIMENSIONS, 1e-3, np.float32))
        if "confuse" in instruction:
            total = total / np.linalg.norm(total) + np.float32(spoilt) * _of(f"spoilt {query}") / np.float32(
                DIMENSIONS**0.5
            )
        prefix = total[: dimensions or DIMENSIONS]
        unit: NDArray[np.float32] = prefix / np.linalg.norm(prefix)
        return unit

    server.vector = vector  # type: ignore[method-assign]


def articles(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Titles and texts: a title has two words of its text, and two others."""
    chosen = random.Random(seed)
    found = []
    for _ in range(count):
        words = chosen.sample(WORDS, 16)
        title = [words[0], words[5], *chosen.sample(WORDS, 2)]
        found.append((" ".join(title), " ".join(words)))
    return found


def _of(word: str) -> NDArray[np.float32]:
    raw = hashlib.shake_256(word.encode()).digest(DIMENSIONS)
    return (np.frombuffer(raw, np.uint8).astype(np.float32) - 127.5) / 74
