"""Rerank: the reranker orders what a search has found; what it is sent is bounded; what it answers is checked."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fake_reranker import FakeReranker
from harness import LAYOUTS, READER, Harness, as_role, versions_and_layouts
from odd_server import OddServer, reply

from pg_qwen_embed import AsyncClient, Client, DocumentRejected, ServerUnavailable, UsageError
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION
from pg_qwen_embed.domain.rerank import MOST_BYTES, MOST_CANDIDATES
from pg_qwen_embed.inference.reranker import Reranker
from pg_qwen_embed.settings import Settings, resolve

BODIES = (
    "Bread and butter",
    "A soup of beans",
    "Summer soups in the Alps",
    "A cold soup for summer",
    None,
    "Passwords",
)
QUERY = "cold soup for summer"
AMONG = {"where": "id > %(least)s", "params": {"least": 0}}
WAYS: list[dict[str, Any]] = [{}, {"exact": True}, AMONG, {"mode": "hybrid"}, {"mode": "words"}, {"mode": "hybrid", "exact": True},
        {"mode": "hybrid"} | AMONG, {"mode": "words"} | AMONG]  # fmt: skip


@pytest.fixture
def reranker() -> Iterator[FakeReranker]:
    with FakeReranker().running() as server:
        yield server


@pytest.fixture
def filled(harness: Harness) -> Harness:
    harness.articles(*BODIES)
    harness.ok("attach", "articles", "--text", "body", "--words", "english")
    harness.once()
    return harness


def asking(harness: Harness, reranker: FakeReranker, url: str | None = None) -> Client:
    return Client(url or harness.url, server_url=harness.server.url, reranker=reranker.url)


@versions_and_layouts
def test_a_rerank_orders_what_was_found_by_the_rerankers_scores(
    harness: Harness, reranker: FakeReranker, layout: str
) -> None:
    """By vectors, with a condition, without the index, by words and by both; a reader with few rights sees the same."""
    harness.articles(*BODIES)
    harness.ok("attach", "articles", "--text", "body", "--words", "english", "--grant-to", READER, *LAYOUTS[layout])
    harness.once()
    with asking(harness, reranker, as_role(harness.url, READER)) as client:
        for options in WAYS:
            reranker.requests.clear()
            hits = client.search("articles", QUERY, 3, rerank=True, **options)
            assert [hit.row["id"] for hit in hits] == [4, 3, 2], options
            assert [hit.rerank_score for hit in hits] == pytest.approx([1, 0.5, 0.25]), options
            assert set(client.search("articles", QUERY, 1, **options)[0].row) == set(hits[0].row), "no further column"
            (request,) = reranker.requests
            assert (request["query"], request["instruct"]) == (QUERY, DEFAULT_INSTRUCTION)
            assert set(request["documents"]) <= {body for body in BODIES if body}
            assert request["return_documents"] is False


def test_the_document_is_that_of_the_template_and_of_long_ones_the_chunk(
    harness: Harness, reranker: FakeReranker
) -> None:
    harness.execute('CREATE TABLE "odd %s" (id text PRIMARY KEY, "t%s" text, chunk_text text, body text)')
    long = "Other things. " * 30 + "A cold soup for summer. " * 8 + "Other things. " * 30
    harness.execute("""INSERT INTO "odd %%s" VALUES ('a', 'T', 'mine', 'short'), ('b', 'T', 'mine', %s)""", long)
    harness.ok("attach", '"odd %s"', "--name", "odd", "--template", "{t%s}: {body}", "--chunk-tokens", "64")
    harness.once()
    with asking(harness, reranker) as client:
        hits = client.search("odd", QUERY, rerank=True)
    assert {hit.row["id"]: hit.row["chunk_text"] for hit in hits} == {"a": "mine", "b": "mine"}
    (request,) = reranker.requests
    assert "T: short" in request["documents"]
    (other,) = [document for document in request["documents"] if document != "T: short"]
    assert other in f"T: {long}"
    assert len(other) < 100, "the chunk alone"


def test_what_is_sent_is_bounded_in_number_and_bytes(harness: Harness, reranker: FakeReranker) -> None:
    harness.articles(*(f"{n} {'文字' * 1500}" for n in range(60)))
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    with asking(harness, reranker) as client:
        for limit, candidates, sent in ((2, None, 50), (2, 7, 7), (9, 7, 9), (60, None, 60)):
            assert len(client.search("articles", "9", limit, rerank=True, candidates=candidates)) == limit
            documents = reranker.requests[-1]["documents"]
            assert len(documents) == sent
            assert {MOST_BYTES - 3 < len(document.encode()) <= MOST_BYTES for document in documents} == {True}
        for options in ({"candidates": 0}, {"candidates": MOST_CANDIDATES + 1}, {"limit": MOST_CANDIDATES + 1}):
            with pytest.raises(UsageError, match=f"{MOST_CANDIDATES}"):
                client.search("articles", "9", rerank=True, **options)


def test_a_row_whose_document_became_blank_comes_last_and_is_not_sent(filled: Harness, reranker: FakeReranker) -> None:
    filled.execute("UPDATE articles SET body = ' ' WHERE id = 4")
    with asking(filled, reranker) as client:
        hits = client.search("articles", QUERY, rerank=True)
        assert (hits[-1].row["id"], hits[-1].rerank_score) == (4, None)
        assert len(reranker.requests[0]["documents"]) == 4
        assert client.search("articles", QUERY, where="id = 4", rerank=True)[0].rerank_score is None
        assert client.search("articles", QUERY, where="id = 99", rerank=True) == []
    assert len(reranker.requests) == 1, "without a document nothing is sent"


def test_a_rerank_that_cannot_be_is_a_usage_error(filled: Harness, reranker: FakeReranker) -> None:
    with Client(filled.url, server_url=filled.server.url) as client:
        with pytest.raises(UsageError, match="no reranker is set: pass reranker=URL to Client, or set PG_QWEN"):
            client.search("articles", QUERY, rerank=True)
        with pytest.raises(UsageError, match="candidates are those of a rerank"):
            client.search("articles", QUERY, candidates=10)
    with asking(filled, reranker) as client:
        with pytest.raises(UsageError, match="reads the text of a query"):
            client.search("articles", client.embed_query("articles", QUERY), rerank=True)
        assert client.search("articles", QUERY)[0].rerank_score is None, "only where it is wanted"
    assert reranker.requests == []


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("400", DocumentRejected, r"the reranker at http://\S+/v1 rejects the documents: The test wants it."),
        (
            "no template",
            DocumentRejected,
            r"rejects the documents: .* start SGLang for Qwen3-Reranker with --chat-template",
        ),
        ("404", ServerUnavailable, r"the reranker at \S+ answered 404: .*is this its base URL, ending in /v1\?"),
        ("500", ServerUnavailable, r"the reranker at \S+ failed: The test wants it."),
        ("503", ServerUnavailable, r"the reranker at \S+ answered 503: The test wants it."),
        ("html", ServerUnavailable, r"the reranker at \S+ answered something that is not JSON"),
        ("dict", ServerUnavailable, r"the reranker at \S+ answered no list of scores"),
        ("index_twice", ServerUnavailable, r"answered 2 scores whose `index` is not each number below 2 once"),
        ("too_few", ServerUnavailable, r"answered 1 scores whose `index` is not each number below 2 once"),
        ("nan", ServerUnavailable, r"answered a score that is no number"),
        ("text", ServerUnavailable, r"answered a score that is no number"),
    ],
)
async def test_an_answer_that_is_no_list_of_scores_is_one_sentence(
    reranker: FakeReranker, fault: str, kind: type[Exception], said: str
) -> None:
    reranker.fault = fault
    with pytest.raises(kind, match=said) as raised:
        await scores(Settings(server_url=reranker.url))
    assert "\n" not in str(raised.value)
    reranker.fault = None
    assert await scores(Settings(server_url=reranker.url)) == [0.0, 1.0]


async def scores(settings: Settings, limit: float = 10.0) -> list[float]:
    client = Reranker(settings, limit)
    client.open()
    try:
        return await client.scores("Instruct", "two", ["one", "two"])
    finally:
        await client.close()


async def test_a_reranker_that_does_not_answer_or_redirects_or_answers_too_much_is_one_sentence(
    reranker: FakeReranker,
) -> None:
    reranker.fault = "hang"
    with pytest.raises(ServerUnavailable, match=r"the reranker at \S+ did not answer within 0.2 s"):
        await scores(Settings(server_url=reranker.url), 0.2)
    with pytest.raises(ServerUnavailable, match=r"start it, or set PG_QWEN_EMBED_RERANKER_URL"):
        await scores(Settings(server_url="http://127.0.0.1:1/v1"))
    with OddServer().running() as odd:
        odd.answer = lambda _: reply(b"", 307, f"Location: {reranker.url}/rerank\r\n")
        with pytest.raises(ServerUnavailable, match="redirects are not followed; set PG_QWEN_EMBED_RERANKER_URL to"):
            await scores(Settings(server_url=odd.url))
        odd.answer = lambda _: reply(b"[" + b" " * (1 << 21) + b"]")
        with pytest.raises(ServerUnavailable, match="more than"):
            await scores(Settings(server_url=odd.url))
    assert len(reranker.requests) == 1, "the redirect was not followed"


def test_an_embedding_server_is_no_reranker(filled: Harness) -> None:
    with (
        Client(filled.url, server_url=filled.server.url, reranker=filled.server.url) as client,
        pytest.raises(ServerUnavailable, match="serves an embedding model, which is no reranker"),
    ):
        client.search("articles", QUERY, rerank=True)


def test_the_reranker_gets_its_own_key_alone_and_no_error_shows_it(filled: Harness, reranker: FakeReranker) -> None:
    filled.server.api_key = "key-of-embeddings"
    keys = {"PG_QWEN_EMBED_API_KEY": "key-of-embeddings", "PG_QWEN_EMBED_RERANKER_API_KEY": "key-of-reranker"}
    reranker.api_key = "key-of-reranker"
    ask = ("search", "articles", QUERY, "--rerank", "--reranker-url", f"{reranker.url}/rerank")
    assert json.loads(filled.ok(*ask, "--json", env={**keys}))[0]["rerank_score"] == 1
    said = filled.refused(*ask, env={**keys, "PG_QWEN_EMBED_RERANKER_API_KEY": "another-key-1"})
    assert "rejects the API key" in said
    assert "set PG_QWEN_EMBED_RERANKER_API_KEY" in said
    assert "another-key-1" not in said
    filled.refused(*ask, env={**keys, "PG_QWEN_EMBED_RERANKER_API_KEY": None})
    assert reranker.keys == ["Bearer key-of-reranker", "Bearer another-key-1", ""]
    settings = resolve({}, reranker_url="http://me:s3cret-12@h/v1", reranker_api_key="key-of-reranker")
    assert settings.secrets.hidden("s3cret-12 key-of-reranker") == settings.secrets.hidden("s3cret-12") + " " + (
        settings.secrets.hidden("key-of-reranker"))  # fmt: skip
    assert "s3cret" not in settings.secrets.hidden("s3cret-12")
    assert "s3cret" not in repr(settings)
    with pytest.raises(UsageError, match="the reranker URL 'nowhere' is not a URL"):
        resolve({}, reranker_url="nowhere")


def test_search_reranks_on_the_command_line(filled: Harness, reranker: FakeReranker) -> None:
    env: dict[str, str | None] = {"PG_QWEN_EMBED_RERANKER_URL": reranker.url}
    said = filled.ok("search", "articles", QUERY, "--rerank", "--candidates", "5", "--columns", "id", env=env)
    assert re.split(r"\s*\n", said.strip())[:2] == ["score   id", "1.0000  4"]
    assert len(reranker.requests[0]["documents"]) == 5
    assert filled.refused("search", "articles", QUERY, "--rerank") == (
        "no reranker is set: add --reranker-url, or set PG_QWEN_EMBED_RERANKER_URL"
    )


async def test_a_client_that_closes_while_the_reranker_works_says_so(filled: Harness, reranker: FakeReranker) -> None:
    reranker.fault = "hang"
    client = AsyncClient(filled.url, server_url=filled.server.url, reranker=reranker.url)
    searching = asyncio.ensure_future(client.search("articles", QUERY, rerank=True))
    while not reranker.requests:  # noqa: ASYNC110  # no event for it
        await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await searching
