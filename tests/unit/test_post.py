"""The maps of post-processing against their closed forms, and what is kept of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pg_qwen_embed.domain import fit as fitting
from pg_qwen_embed.domain import post, template
from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState, Target
from pg_qwen_embed.domain.errors import SetupError, UsageError
from pg_qwen_embed.domain.fit import Fit, Moments
from pg_qwen_embed.domain.post import Method, Post
from pg_qwen_embed.domain.source import QualifiedName, Source
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.inference.model_info import ModelInfo

METHODS = [Post(Method.CENTER, 12), Post(Method.PCA, 12, 5), Post(Method.WHITEN, 12), Post(Method.HALF_WHITEN, 12)]


def sample(rows: int = 600, dimensions: int = 12, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors with a mean, and with directions of unequal variance."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions)) * np.linspace(3, 0.3, dimensions)
    found = rng.normal(size=(rows, dimensions)) @ mixing + rng.normal(size=dimensions)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def moments(vectors: NDArray[np.float32], parts: int = 1) -> Moments:
    found = Moments.of(vectors.shape[1])
    for part in np.array_split(vectors, parts):
        found.add(part)
    return found


def moved(fit: Fit, vectors: NDArray[np.float32]) -> NDArray[Any]:
    """The map before it normalises."""
    centred = vectors.astype(np.float64) - fit.mean
    return centred if fit.matrix is None else centred @ fit.matrix


@given(st.integers(1, 7))
def test_moments_are_those_of_all_vectors_however_they_come(parts: int) -> None:
    vectors = sample()
    found = moments(vectors, parts)
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(vectors.T, bias=True), atol=1e-6)


def test_centred_vectors_have_no_mean() -> None:
    vectors = sample()
    fit = fitting.fit(METHODS[0], moments(vectors), len(vectors))
    np.testing.assert_allclose(moved(fit, vectors).mean(axis=0), 0, atol=1e-6)


def test_pca_keeps_the_directions_of_most_variance_as_a_singular_value_decomposition_finds_them() -> None:
    vectors = sample()
    fit = fitting.fit(METHODS[1], moments(vectors), len(vectors))
    _, values, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(moved(fit, vectors).var(axis=0), values[:5] ** 2 / len(vectors), rtol=1e-3)
    np.testing.assert_allclose(np.abs(np.sum(directions[:5].T * fit.matrix, axis=0)), 1, atol=1e-4)


@pytest.mark.parametrize(("place", "power"), [(2, 0.0), (3, 0.5)])
def test_a_whitened_direction_has_this_power_of_its_variance(place: int, power: float) -> None:
    vectors = sample()
    fit = fitting.fit(METHODS[place], moments(vectors), len(vectors))
    variances = np.linalg.eigvalsh(np.cov(vectors.T.astype(np.float64), bias=True))[::-1]
    covariance = np.cov(moved(fit, vectors).T, bias=True)
    np.testing.assert_allclose(np.diag(covariance), variances**power, rtol=1e-3)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_returns_unit_vectors_and_is_kept_as_it_is(method: Post) -> None:
    vectors = sample()
    fit = fitting.fit(method, moments(vectors), len(vectors))
    found = fit.apply(vectors)
    assert found.dtype == np.float32
    assert found.shape == (len(vectors), method.outputs)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    again = Fit.from_bytes(fit.to_bytes())
    assert again.documents == fit.documents == len(vectors)
    np.testing.assert_array_equal(again.apply(vectors), found)
    np.testing.assert_array_equal(fit.apply(vectors[:0]), np.empty((0, method.outputs)))


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_that_is_the_mean_itself_gets_a_direction(method: Post) -> None:
    fit = fitting.fit(method, moments(sample()), 600)
    (found,) = fit.apply(fit.mean[np.newaxis])
    assert found[-1] == 1
    assert np.count_nonzero(found) == 1


def test_dimensions_that_never_vary_are_not_scaled_beyond_measure() -> None:
    vectors = sample()
    vectors[:, 3:] = 0.25
    fit = fitting.fit(METHODS[2], moments(vectors), len(vectors))
    assert np.isfinite(fit.apply(vectors)).all()
    assert fit.matrix is not None
    assert np.abs(fit.matrix).max() <= 1.01e3 / np.sqrt(np.linalg.eigvalsh(np.cov(vectors.T, bias=True)).max())


def test_documents_that_are_all_the_same_cannot_be_fitted() -> None:
    with pytest.raises(UsageError, match="the same vector"):
        fitting.fit(METHODS[2], moments(np.repeat(sample(1), 200, axis=0)), 200)


@pytest.mark.parametrize(
    "form", ["whitening", "pca", "pca:", "pca:0", "pca:-3", "pca:x", "center:3", "Whiten", "pca:1234567"]
)
def test_a_form_that_is_none_is_one_sentence(form: str) -> None:
    with pytest.raises(UsageError, match="there are: none, center, pca:N, whiten or half-whiten"):
        post.check(form)


def test_pca_keeps_at_most_what_there_is() -> None:
    assert post.post_of("pca:12", 12) == Post(Method.PCA, 12, 12)
    with pytest.raises(UsageError, match="the server's vectors have 12; write pca:12 or less"):
        post.post_of("pca:13", 12)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_registry_has_is_read_back(method: Post) -> None:
    assert post.parse(str(method)) == method


def test_what_nobody_has_written_is_an_error() -> None:
    for written in ("whiten", "pca:99 of 12", "center of x"):
        with pytest.raises(ValueError, match=r"post-processing|pca"):
            post.parse(written)
    for value in (b"", b"{}\n", b'{"format": 1, "inputs": 4, "outputs": 4, "documents": 9}\nxxxx', b"\xff\n"):
        with pytest.raises(SetupError, match="cannot be read"):
            Fit.from_bytes(value)
    with pytest.raises(SetupError, match="newer"):
        Fit.from_bytes(b'{"format": 2}\n')


def target(method: Post | None, dimensions: int) -> Target:
    generation = Generation(1, GenerationState.LIVE, Spec("m", dimensions, template.from_columns(("a",)), post=method))
    return Embedding("articles", Source(QualifiedName("public", "articles"), (), ()), "", generation).target


def test_a_server_must_have_the_dimensions_that_are_fitted_and_not_only_those_that_are_kept() -> None:
    kept = target(Post(Method.PCA, 12, 3), 3)
    assert ModelInfo("m", 8, shortens=False).mismatch(kept) is not None
    assert ModelInfo("m", 12, shortens=False).mismatch(kept) is None


def test_a_target_is_not_ready_before_it_has_its_fit_and_makes_no_vector_until_then() -> None:
    vectors = sample()
    assert target(None, 12).is_ready
    np.testing.assert_array_equal(target(None, 12).finished(vectors), vectors)
    own = target(Post(Method.CENTER, 12), 12)
    assert not own.is_ready
    assert own.without_post.is_ready
    with pytest.raises(UsageError, match="articles: its post-processing center is not fitted yet"):
        own.finished(vectors)
    fit = fitting.fit(METHODS[0], moments(vectors), len(vectors))
    fitted = own.with_fit(fit)
    assert fitted.is_ready
    assert fitted.embedding.target.is_ready
    assert fitted.embedding == own.embedding
    np.testing.assert_array_equal(fitted.finished(vectors), fit.apply(vectors))
    np.testing.assert_array_equal(fitted.without_post.finished(vectors), vectors)
    assert fitted.without_post.generation.fit is None
