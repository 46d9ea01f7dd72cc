"""What SGLang answers to /v1/rerank with a reranker's template; the fake reranker of the tests answers the same.

The template is the one that docs/servers.md shows."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_reranker import FakeReranker
from harness import eventually
from real import HERE, START, sglang
from subject import Subject
from test_contract import rejection

from pg_qwen_embed.domain.errors import DocumentRejected, ProtocolError
from pg_qwen_embed.inference.reranker import Reranker
from pg_qwen_embed.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "servers.md"
QUERY, DOCUMENTS = "cold soup", ["bread", "a cold soup", "日本語のスープ", "warm soup 🙂"]


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Subject]]:
    if "SGLANG_PYTHON" not in os.environ:
        pytest.fail("SGLANG_PYTHON is not set; run: make test-sglang")
    folder = tmp_path_factory.mktemp("reranker")
    command = [os.environ["SGLANG_PYTHON"], str(HERE / "tiny_model.py"), str(folder / "tiny"), "yes", "no"]
    subprocess.run(command, check=True, timeout=300)
    (template,) = re.findall(r"```\n(<\|im_start\|>.*?\n)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "reranker.jinja").write_text(template, encoding="utf-8")
    options = ("--chat-template", str(folder / "reranker.jinja"))
    with (
        sglang(folder / "tiny", folder, "reranker", *options, embeds=False) as starting,
        FakeReranker(context_length=512).running() as fake,
    ):
        eventually(starting.ready, deadline=START)
        yield {"sglang": starting.subject, "fake": Subject(fake.url.removesuffix("/v1"), "", 0, 512)}
        starting.process.terminate()


@pytest.fixture(params=["sglang", "fake"])
def reranker(request: pytest.FixtureRequest, rerankers: dict[str, Subject]) -> Subject:
    return rerankers[request.param]


def test_the_scores_come_with_the_highest_first(reranker: Subject) -> None:
    answer = reranker.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "return_documents": False})
    assert answer.status == 200, answer.body
    assert [list(item) for item in answer.json] == [["score", "index", "meta_info"]] * 4
    assert sorted(item["index"] for item in answer.json) == [0, 1, 2, 3]
    scores = [item["score"] for item in answer.json]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert {item["meta_info"] for item in answer.json} == {None}


def test_the_documents_come_with_their_scores_and_no_more_than_wanted(reranker: Subject) -> None:
    whole = reranker.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}).json
    assert [item["document"] for item in whole] == [DOCUMENTS[item["index"]] for item in whole]
    best = reranker.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 2}).json
    assert [item["index"] for item in best] == [item["index"] for item in whole[:2]]
    assert len(reranker.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 9}).json) == 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"query": "", "documents": ["x"]}, "Query cannot be empty"),
        ({"query": "  ", "documents": ["x"]}, "Query cannot be empty or whitespace only"),
        ({"query": "x", "documents": []}, "Documents cannot be empty"),
        ({"query": "x", "documents": ["x", ""]}, "Each document must be a non-empty string"),
        ({"query": "x", "documents": ["x", " \n"]}, "Each document cannot be empty or whitespace only"),
    ],
)
def test_what_is_empty_is_rejected(reranker: Subject, body: object, said: str) -> None:
    assert rejection(reranker.post("/v1/rerank", body)) == said


@pytest.mark.parametrize(
    "body", [b"no json", {"query": "x"}, {"documents": ["x"]}, {"query": "x", "documents": ["x"], "top_n": 0}]
)
def test_a_request_of_another_form_is_rejected(reranker: Subject, body: object) -> None:
    answer = reranker.post("/v1/rerank", body)
    assert rejection(answer).startswith("1 validation error:\n  {'type': ")
    assert answer.json["type"] == "Bad Request"


def test_a_document_that_is_too_long_is_rejected(reranker: Subject) -> None:
    said = rejection(reranker.post("/v1/rerank", {"query": "x", "documents": ["x", "word " * 2000]}))
    assert re.fullmatch(r"The input \(\d+ tokens\) is longer than the model's context length \(512 tokens\)\.", said)


async def test_the_client_gets_the_servers_scores_in_the_order_of_the_documents(reranker: Subject) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "instruct": "Given a dish, find recipes"}
    raw = {item["index"]: item["score"] for item in reranker.post("/v1/rerank", body).json}
    client = Reranker(Settings(server_url=f"{reranker.root}/v1"))
    client.open()
    try:
        scores = await client.scores("Given a dish, find recipes", QUERY, DOCUMENTS)
        assert scores == pytest.approx([raw[n] for n in range(4)], abs=1e-4)
        with pytest.raises(DocumentRejected, match=r"rejects the documents: The input .* is longer than"):
            await client.scores("", QUERY, ["word " * 2000])
    finally:
        await client.close()


@pytest.mark.parametrize("name", ["sglang", "fake"])
async def test_the_client_tells_an_embedding_server_from_a_reranker(subjects: dict[str, Subject], name: str) -> None:
    client = Reranker(Settings(server_url=f"{subjects[name].root}/v1"))
    client.open()
    try:
        with pytest.raises(ProtocolError, match="serves an embedding model, which is no reranker"):
            await client.scores("", QUERY, DOCUMENTS)
    finally:
        await client.close()
