"""A fake SGLang of another model, whose vectors have nothing in common with the first one's."""

from dataclasses import dataclass

import numpy as np
from fake_sglang import FakeSGLang
from numpy.typing import NDArray


@dataclass(eq=False)
class OtherModel(FakeSGLang):
    """Its vectors are those of the first model for another text."""

    model: str = "other"

    def vector(self, text: str, dimensions: int | None = None) -> NDArray[np.float32]:
        return super().vector(f"other: {text}", dimensions)
