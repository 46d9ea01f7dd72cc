"""Attach, sync and search with a real SGLang behind it."""

import json

import numpy as np
import pytest
from harness import Harness, both_versions, eventually
from real import Starting
from subject import KEY


@both_versions
@pytest.mark.parametrize("name", ["plain", "strict"])
def test_vectors_follow_the_text_through_a_real_server(
    harness: Harness, servers: dict[str, Starting], name: str
) -> None:
    subject = servers[name].subject
    harness.environment |= {"PG_QWEN_EMBED_SERVER_URL": f"{subject.root}/v1", "PG_QWEN_EMBED_API_KEY": KEY}
    harness.articles(*(f"the text number {n}" for n in range(1, 120)), "long " * 2000, "", None)
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "32")
    worker = harness.worker()
    eventually(harness.settled, deadline=120)
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 7")
    eventually(
        lambda: harness.value("SELECT count(*) FROM qwen_embed.articles WHERE id = 7 AND NOT stale"), deadline=60
    )
    eventually(harness.settled, deadline=60)
    (one,) = json.loads(harness.ok("status", "--json"))
    assert (one["rows"], one["vectors"], one["truncated"], one["failures"]) == (122, 120, 1, 0)
    assert harness.drift()[0] == 0
    found = [(text, vector) for text, vector in harness.vectors() if not text.startswith("long")]
    for begin in range(0, len(found), 8):
        texts, vectors = zip(*found[begin : begin + 8], strict=True)
        whole = np.array([item["embedding"][:32] for item in subject.embed(texts).json["data"]])
        np.testing.assert_allclose(vectors, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=2e-3)
    (hit,) = json.loads(harness.ok("search", "articles", "changed", "--limit", "1", "--json"))
    assert hit["row"]["id"] > 0
    said = harness.cli("doctor")
    assert said.exit_code == 0, said.stdout
    assert worker.end() == 0
