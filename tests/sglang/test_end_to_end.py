"""Attach, sync and search with a real SGLang behind it."""

import json

import numpy as np
import pytest
from real import Starting
from rig import Rig, both_versions, eventually
from subject import KEY


@both_versions
@pytest.mark.parametrize("name", ["plain", "strict"])
def test_vectors_follow_the_text_through_a_real_server(rig: Rig, servers: dict[str, Starting], name: str) -> None:
    subject = servers[name].subject
    rig.environment |= {"PG_QWEN_EMBED_SERVER_URL": f"{subject.root}/v1", "PG_QWEN_EMBED_API_KEY": KEY}
    rig.articles(*(f"the text number {n}" for n in range(1, 300)), "long " * 2000, "", None)
    rig.ok("attach", "articles", "--text", "body", "--dimensions", "32")
    worker = rig.worker()
    eventually(rig.settled, deadline=120)
    rig.execute("UPDATE articles SET body = 'changed' WHERE id = 7")
    eventually(lambda: rig.value("SELECT count(*) FROM qwen_embed.articles WHERE id = 7 AND NOT stale"))
    eventually(rig.settled)
    (one,) = json.loads(rig.ok("status", "--json"))
    assert (one["rows"], one["vectors"], one["cut"], one["failures"]) == (302, 300, 1, 0)
    assert rig.drift()[0] == 0
    for text, vector in rig.vectors():
        if not text.startswith("long"):
            whole = np.array(subject.embed([text]).json["data"][0]["embedding"])[:32]
            np.testing.assert_allclose(vector, whole / np.linalg.norm(whole), atol=2e-3, err_msg=text)
    (hit,) = json.loads(rig.ok("search", "articles", "changed", "--limit", "1", "--json"))
    assert hit["row"]["id"] > 0
    said = rig.cli("doctor")
    assert said.exit_code == 0, said.stdout
    assert worker.end() == 0
