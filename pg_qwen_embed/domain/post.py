"""Post-processing: a linear map that is fitted on a sample of documents, and then made with every vector. Pure.

Here is which map it is; domain/fit.py makes it."""

import re
from dataclasses import dataclass
from enum import StrEnum

from pg_qwen_embed.domain.errors import UsageError

LEAST_FOR_A_DIMENSION = 10  # documents; from fewer the small eigenvalues are mostly chance
MOST_FOR_A_DIMENSION = 20  # documents of a sample
FORMS = "none, center, pca:N, whiten or half-whiten"

_WRITTEN = re.compile(r"(center|whiten|half-whiten|pca:[0-9]{1,6}) of ([0-9]{1,6})")
_PCA = re.compile(r"pca:([0-9]{1,6})")


class Method(StrEnum):
    CENTER = "center"  # the mean is subtracted
    PCA = "pca"  # and the directions of the largest variance are kept
    WHITEN = "whiten"  # and every direction gets the same variance
    HALF_WHITEN = "half-whiten"  # and every direction gets the square root of its deviation


@dataclass(frozen=True, slots=True)
class Post:
    """Which map is fitted. inputs: dimensions of the server's vectors. kept: those of PCA's that are kept."""

    method: Method
    inputs: int
    kept: int | None = None

    @property
    def outputs(self) -> int:
        """Dimensions of the vectors that are kept."""
        return self.kept or self.inputs

    @property
    def least(self) -> int:
        """Documents without which nothing is fitted."""
        return LEAST_FOR_A_DIMENSION * self.inputs

    @property
    def most(self) -> int:
        """Documents of a sample."""
        return MOST_FOR_A_DIMENSION * self.inputs

    @property
    def form(self) -> str:
        """As a person writes it: `pca:256`."""
        return self.method.value if self.kept is None else f"{self.method.value}:{self.kept}"

    def __str__(self) -> str:
        """As the registry keeps it: `pca:256 of 1024`."""
        return f"{self.form} of {self.inputs}"


def check(form: str) -> str | None:
    """What is written after --post, if it can be; None: no map. Raises UsageError."""
    if form in ("", "none"):
        return None
    if form in ("center", "whiten", "half-whiten") or (_PCA.fullmatch(form) and int(form[4:]) > 0):
        return form
    raise UsageError(f"there is no post-processing {form!r}; there are: {FORMS}, as in pca:256")


def post_of(form: str | None, inputs: int) -> Post | None:
    """The map of that form for vectors of this number of dimensions. Raises UsageError."""
    form = check(form or "none")
    if form is None:
        return None
    method, _, kept = form.partition(":")
    if kept and int(kept) > inputs:
        raise UsageError(f"pca:{kept} keeps {int(kept):,} dimensions, and the server's vectors have {inputs:,}; "
                         f"write pca:{inputs} or less")  # fmt: skip
    return Post(Method(method), inputs, int(kept) if kept else None)


def parse(written: str | None) -> Post | None:
    """What the registry has. Raises ValueError."""
    if written is None:
        return None
    found = _WRITTEN.fullmatch(written)
    if not found:
        raise ValueError(f"no post-processing: {written!r}")
    try:
        return post_of(found[1], int(found[2]))
    except UsageError as error:
        raise ValueError(str(error)) from None


def too_few(name: str, post: Post, documents: int) -> str:
    """Why nothing is fitted."""
    return (
        f"{name}: post-processing {post.form} of {post.inputs:,} dimensions is fitted on {post.least:,} documents or more "
        f"({LEAST_FOR_A_DIMENSION} for each dimension), and there are {documents:,}"
    )
