"""Vectors in clusters, like those of texts. Seeded."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import record

from pg_qwen_embed.domain.vectors import Vectors, normalise

LATENT = 32


def clustered(count: int, dimensions: int) -> Vectors:
    """Unit vectors of shape (count, dimensions). Vectors 2n and 2n + 1 are of one cluster, like an article's chunks."""
    rng = np.random.default_rng(record.SEED)
    centres = rng.standard_normal((max(1, count // 100), LATENT), dtype=np.float32)
    latent = centres[rng.integers(len(centres), size=count // 2 + 1).repeat(2)[:count]]
    latent += rng.standard_normal((count, LATENT), dtype=np.float32)
    made: Vectors = latent @ rng.standard_normal((LATENT, dimensions), dtype=np.float32) / np.float32(LATENT**0.5)
    return normalise(made + 0.3 * rng.standard_normal((count, dimensions), dtype=np.float32))


@contextmanager
def saved(vectors: Vectors) -> Iterator[Path]:
    """A file for the modelled GPU, which answers a text with the vector of the number at its beginning."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npy"
        np.save(file, vectors)
        yield file
