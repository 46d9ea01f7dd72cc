"""The worker with the packaged server, `pg-qwen-embed serve`: vectors with a meaning."""

import json
import re

import pytest
from harness import Harness, both_versions, eventually


@both_versions
@pytest.mark.parametrize("dimensions", [None, 64])
@pytest.mark.long
def test_texts_are_found_by_their_meaning(harness: Harness, dimensions: int | None) -> None:
    serving = harness.process("serve", "--port", "0")
    found = eventually(lambda: re.search(r"on (http://\S+/v1)", serving.said))
    harness.environment["PG_QWEN_EMBED_SERVER_URL"] = found[1]
    harness.articles("The cat sleeps on the warm sofa.", "Interest rates were raised by the central bank.", "")
    harness.ok("attach", "articles", "--text", "body", *(("--dimensions", str(dimensions)) if dimensions else ()))
    worker = harness.worker()
    eventually(harness.settled)
    assert harness.drift()[0] == 0
    harness.execute("INSERT INTO articles VALUES (4, 'Bake the bread in a hot oven for forty minutes.')")
    eventually(lambda: len(harness.rows("SELECT FROM qwen_embed.articles")) == 3)
    for query, nearest in {"a pet kitten naps": 1, "monetary policy of banks": 2, "recipe for a loaf": 4}.items():
        (hit, *_) = json.loads(harness.ok("search", "articles", query, "--json"))
        assert hit["row"]["id"] == nearest, query
    assert worker.end() == 0
    assert serving.end() == 0
