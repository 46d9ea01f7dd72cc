"""The map of a post-processing: fitted on a sample of documents, and made with vectors. Pure.

A vector of the server is centred by the mean of the sample, turned and scaled by a matrix, and normalised again. Documents
and queries get the same map. How a fit is kept is in postgres/fits.py, and when it is made in worker/fitting.py."""

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.errors import SetupError, UsageError
from pg_qwen_embed.domain.post import Method, Post
from pg_qwen_embed.domain.vectors import Vectors, normalise

FORMAT = 1  # of what `Fit.to_bytes` writes
SMALLEST_EIGENVALUE = 1e-6  # of the largest one: what is below is noise of half precision, and is not scaled up further
NO_DIRECTION = 1e-6  # the length of a vector that is the mean itself

Matrix = NDArray[np.float64]


@dataclass(slots=True)
class Moments:
    """Mean and scatter of the vectors that were added, without the vectors themselves."""

    count: int
    total: Matrix
    products: Matrix

    @staticmethod
    def of(dimensions: int) -> "Moments":
        """Of no vector yet."""
        return Moments(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))

    def add(self, vectors: Vectors) -> None:
        """vectors: of shape (rows, dimensions)."""
        own = vectors.astype(np.float64)
        self.count += len(own)
        self.total += own.sum(axis=0)
        self.products += own.T @ own

    @property
    def mean(self) -> Matrix:
        found: Matrix = self.total / self.count
        return found

    @property
    def covariance(self) -> Matrix:
        found: Matrix = self.products / self.count - np.outer(self.mean, self.mean)
        return found


@dataclass(frozen=True, slots=True)
class Fit:
    """A map that was fitted. mean: of shape (inputs,). matrix: of shape (inputs, outputs); None: nothing is turned.

    documents: on how many it was fitted."""

    mean: Vectors
    matrix: Vectors | None
    documents: int

    @property
    def outputs(self) -> int:
        return len(self.mean) if self.matrix is None else self.matrix.shape[1]

    def apply(self, vectors: Vectors) -> Vectors:
        """The unit vectors of shape (rows, outputs) for vectors of shape (rows, inputs).

        A vector that is the mean itself has no direction; it gets the last axis, which varies least."""
        moved = vectors - self.mean
        found = moved if self.matrix is None else moved @ self.matrix
        found = np.ascontiguousarray(found, dtype=np.float32)
        without = np.flatnonzero(np.einsum("ij,ij->i", moved, moved) < NO_DIRECTION**2)
        without = np.union1d(without, np.flatnonzero(np.einsum("ij,ij->i", found, found) < NO_DIRECTION**2))
        if len(without):
            found[without] = 0
            found[without, -1] = 1
        return normalise(found)

    def to_bytes(self) -> bytes:
        """A line of JSON, then mean and matrix as little-endian float32, row by row."""
        outputs = None if self.matrix is None else self.outputs
        head = {"format": FORMAT, "inputs": len(self.mean), "outputs": outputs, "documents": self.documents}
        parts = [self.mean] if self.matrix is None else [self.mean, self.matrix]
        return b"".join((json.dumps(head).encode(), b"\n", *(part.astype("<f4").tobytes() for part in parts)))

    @staticmethod
    def from_bytes(value: bytes) -> "Fit":
        """Raises SetupError for one that a newer release has written, or that is damaged."""
        line, _, numbers = bytes(value).partition(b"\n")
        try:
            head = json.loads(line)
            if head["format"] != FORMAT:
                raise SetupError(
                    f"a fit of format {head['format']} was made by a newer pg_qwen_embed; upgrade this package"
                )
            inputs, outputs = head["inputs"], head["outputs"]
            found = np.frombuffer(numbers, "<f4").astype(np.float32)
            matrix = None if outputs is None else found[inputs:].reshape(inputs, outputs)
            return Fit(found[:inputs], matrix, head["documents"])
        except (ValueError, KeyError, TypeError) as error:
            raise SetupError(f"the fit of a generation cannot be read ({error}); detach it, and attach again") from None


def fit(post: Post, moments: Moments, documents: int) -> Fit:
    """The map of these vectors of documents. Raises UsageError if they are all the same.

    Principal components come by falling variance, so a prefix of a vector has the most of it. Of two vectors that are
    whitened, the inner product is that of the Mahalanobis distance."""
    mean = moments.mean.astype(np.float32)
    if post.method is Method.CENTER:
        return Fit(mean, None, documents)
    values, directions = np.linalg.eigh(moments.covariance)
    order = np.argsort(values)[::-1][: post.outputs]
    values, directions = values[order], directions[:, order]
    if values[0] <= SMALLEST_EIGENVALUE**2:
        raise UsageError("all documents of the sample have the same vector, so there is nothing to fit")
    values = np.maximum(values, SMALLEST_EIGENVALUE * values[0])
    power = {Method.PCA: 0.0, Method.WHITEN: -0.5, Method.HALF_WHITEN: -0.25}[post.method]
    signs = np.where(
        directions[np.abs(directions).argmax(axis=0), np.arange(len(values))] < 0, -1, 1
    )  # of each, one of two
    return Fit(mean, (directions * signs * values**power).astype(np.float32), documents)
