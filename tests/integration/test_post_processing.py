"""Post-processing: what is stored and what queries are is the fitted map of the server's vectors, in every layout."""

import json
from typing import Any

import numpy as np
import pytest
from harness import LAYOUTS, Harness, eventually, versions_and_layouts
from numpy.typing import NDArray

from pg_qwen_embed import Client
from pg_qwen_embed.domain.post import Fit
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION

ROWS = 200  # of 16 dimensions, for which 160 documents are enough
HALF = 2e-3  # of a number of at most 1 in half precision, normalised once more


def fitted(harness: Harness, name: str = "articles") -> Fit:
    return Fit.from_bytes(harness.value("SELECT fit FROM _qwen_embed.generation WHERE id = %s", live(harness, name)))


def live(harness: Harness, name: str = "articles") -> int:
    return harness.embedding(name).live.id


def articles(harness: Harness, rows: int = ROWS) -> None:
    harness.articles(*(f"article {n}" for n in range(rows)))


def attach(harness: Harness, *options: str) -> None:
    harness.ok("attach", "articles", "--text", "body", "--prompt-style", "qwen3", *options)


def stored(harness: Harness) -> dict[int, NDArray[np.float32]]:
    rows = harness.rows("SELECT id, embedding::text FROM qwen_embed.articles")
    return {id_: np.array(json.loads(vector), np.float32) for id_, vector in rows}


def expected(harness: Harness, text: str) -> NDArray[np.float32]:
    found: NDArray[np.float32] = fitted(harness).apply(harness.server.vector(text)[np.newaxis])[0]
    return found


def prompt(text: str) -> str:
    return f"Instruct: {DEFAULT_INSTRUCTION}\nQuery:{text}"


def equal(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, atol=HALF)


@versions_and_layouts
@pytest.mark.parametrize("method", ["center", "pca:6", "whiten", "half-whiten"])
def test_documents_and_queries_are_the_fitted_map_of_the_servers_vectors(
    harness: Harness, layout: str, method: str
) -> None:
    articles(harness)
    attach(harness, "--post", method, *LAYOUTS[layout])
    with harness.worker_here():
        eventually(lambda: harness.settled() and len(stored(harness)) == ROWS)
        harness.execute("UPDATE articles SET body = 'changed' WHERE id = 7")
        eventually(harness.settled)
        vectors = stored(harness)
        for id_ in (1, 2, 100, ROWS):
            equal(vectors[id_], expected(harness, f"article {id_ - 1}"))
        equal(vectors[7], expected(harness, "changed"))
        by_sql = json.loads(harness.value("SELECT qwen_embed.embed_query('articles', 'a question')::text"))
        equal(by_sql, expected(harness, prompt("a question")))
    with Client(harness.url, server_url=harness.server.url) as client:
        equal(client.embed_query("articles", "a question"), expected(harness, prompt("a question")))
        equal(client.embed_queries("articles", ["one", "two"])[1], expected(harness, prompt("two")))
        (hit, *_) = client.search("articles", client_vector := client.embed_query("articles", "x"), limit=1)
        assert hit.distance == pytest.approx(min(1 - float(v @ client_vector) for v in vectors.values()), abs=HALF)
    dimensions = 6 if method == "pca:6" else 16
    assert {len(vector) for vector in vectors.values()} == {dimensions}
    (row,) = harness.rows("SELECT post, dimensions FROM qwen_embed.embeddings")
    assert row == (method, dimensions)
    assert f"post-processing {method} of 16 dimensions, fitted on {ROWS} documents" in harness.ok("status", "articles")
