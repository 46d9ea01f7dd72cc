"""The MCP server, by the SDK's own client over stdio, as a role that may only read."""

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import examples
import psycopg
import pytest
from harness import READER, Harness, as_role, eventually
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from psycopg import sql

from pg_qwen_embed.admin import sql as printing
from pg_qwen_embed.integrations.reading import _nearest
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.grants import Roles
from pg_qwen_embed.postgres.names import names_of

COLUMNS = ["--columns", "articles=likes,lang"]


@asynccontextmanager
async def agent(harness: Harness, *arguments: str) -> AsyncIterator[Client]:
    env = {k: v for k, v in (os.environ | harness.variables).items() if v is not None}
    env["PG_QWEN_EMBED_DATABASE_URL"] = as_role(harness.url, READER)
    command = StdioServerParameters(command=sys.executable, args=["-m", "pg_qwen_embed", "mcp", *arguments], env=env)
    async with Client(stdio_client(command)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def error(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    (content,) = result.content
    return str(content.text)


@pytest.fixture
def articles(of_roles: Harness) -> Harness:
    """An attached table, which the reader may read."""
    harness = of_roles
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, likes int, lang text, secret text)")
    values = "n, 'article ' || n, n, CASE WHEN n % 2 = 0 THEN 'en' END, 'hidden'"
    harness.execute(f"INSERT INTO articles SELECT {values} FROM generate_series(1, 50) n")
    harness.ok("attach", "articles", "--text", "title")
    with psycopg.connect(harness.url, autocommit=True) as connection:
        subject = printing.subject(harness.connection, "articles")
        connection.execute(printing.grants(Roles(None, None, READER), subject, None, harness.url))
    harness.worker()
    eventually(harness.settled)
    return harness


async def test_agent_finds_narrows_and_reads(articles: Harness) -> None:
    async with agent(articles, *COLUMNS) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["list_embeddings", "search", "read_rows"]
        (one,) = (await call(client, "list_embeddings"))["result"]
        assert (one["name"], one["key"], one["columns"]) == ("articles", ["id"], ["id", "title", "likes", "lang"])
        assert one["filters"] == {"likes": "integer", "lang": "text"}
        found = await call(client, "search", embedding="articles", text="article 7", limit=3)
        assert found["rows"][0] == {"distance": 0.0, "id": 7, "title": "article 7", "likes": 7, "lang": None}
        assert len(found["rows"]) == 3
        filters = [{"column": "likes", "op": ">", "value": 40}, {"column": "lang", "value": "en"}]
        found = await call(client, "search", embedding="articles", text="article 7", filters=filters)
        assert {row["id"] for row in found["rows"]} == {42, 44, 46, 48, 50}
        filters = [{"column": "likes", "op": "in", "value": [1, 2, 3]}, {"column": "lang", "value": None}]
        found = await call(client, "search", embedding="articles", text="article 7", filters=filters)
        assert {row["id"] for row in found["rows"]} == {1, 3}
        found = await call(client, "read_rows", embedding="articles", keys=[3, "5", 999])
        assert [row["title"] for row in found["rows"]] == ["article 3", "article 5"]


async def test_what_an_agent_may_not_or_cannot_is_a_sentence(articles: Harness) -> None:
    async with agent(articles, *COLUMNS, "--embedding", "articles") as client:

        async def refused(**arguments: Any) -> str:
            return await error(client, "search", **{"embedding": "articles", "text": "x"} | arguments)

        assert "cannot be filtered by 'secret'; its filters are: likes, lang" in await refused(
            filters=[{"column": "secret", "value": "hidden"}]
        )
        injection = [{"column": "likes", "value": "0; DROP TABLE articles"}]
        assert 'invalid input syntax for type integer: "0; DROP TABLE articles"' in await refused(filters=injection)
        assert "a limit of 0 finds nothing" in await refused(limit=0)
        assert "the query is blank" in await refused(text=" ")
        assert 'there is no embedding "others"' in await refused(embedding="others")
        assert "the key of articles is (id)" in await error(
            client, "read_rows", embedding="articles", keys=[{"id": 1, "title": "x"}]
        )
        assert articles.value("SELECT count(*) FROM articles") == 50
        articles.server.model = "other"  # a sentence, and the server goes on
        assert len((await call(client, "read_rows", embedding="articles", keys=[1]))["rows"]) == 1


@pytest.fixture
def compressed(articles: Harness) -> Harness:
    """The same table with a compressed index."""
    articles.ok("attach", "articles", "--text", "title", "--name", "short", "--index", "hnsw-binary")
    articles.execute(f"GRANT SELECT ON qwen_embed.short TO {READER}")
    eventually(lambda: articles.settled("short"))
    return articles


async def test_an_index_that_is_compressed_is_searched_by_the_function_of_the_embedding(compressed: Harness) -> None:
    names = names_of(compressed.embedding("short"))
    for conditions in ([], [sql.SQL("t.likes > 1")]):
        assert '"qwen_embed"."short"(' in as_text(_nearest(names, sql.Composed([names.source_key("t")]), conditions))
    async with agent(compressed, "--columns", "short=likes") as client:
        found = await call(client, "search", embedding="short", text="article 7", limit=3)
        assert len(found["rows"]) == 3
        assert found["rows"][0] == {"distance": 0.0, "id": 7, "title": "article 7", "likes": 7}
        filters = [{"column": "likes", "op": ">", "value": 47}]
        found = await call(client, "search", embedding="short", text="article 7", filters=filters)
        assert {row["id"] for row in found["rows"]} == {48, 49, 50}


HYBRID = """
CREATE FUNCTION qwen_embed.articles_{kind}(query text, {vector} k integer DEFAULT 10)
RETURNS TABLE (id bigint, score float8) LANGUAGE sql STABLE AS
$$SELECT a.id, 1.0 / a.id FROM public.articles a WHERE a.title LIKE '%' || query || '%' ORDER BY a.id LIMIT k$$
"""


async def test_words_are_searched_where_the_embedding_has_them(articles: Harness) -> None:
    async with agent(articles, *COLUMNS) as client:
        wanted: dict[str, Any] = {"embedding": "articles", "text": "article", "limit": 2}
        assert "articles was attached without words" in await error(client, "search", **wanted, mode="hybrid")
        articles.execute(HYBRID.format(kind="words", vector=""))
        articles.execute(HYBRID.format(kind="hybrid", vector="vector halfvec,"))
        for mode in ("words", "hybrid"):
            found = await call(client, "search", **wanted, mode=mode)
            assert [(row["id"], row["score"]) for row in found["rows"]] == [(1, 1.0), (2, 0.5)]
            filters = [{"column": "likes", "op": ">", "value": 48}]
            found = await call(client, "search", **wanted, mode=mode, filters=filters)
            assert [row["id"] for row in found["rows"]] == [49, 50]


async def test_an_answer_has_limits(articles: Harness) -> None:
    articles.execute("UPDATE articles SET lang = repeat('x', 5000)")
    async with agent(articles, *COLUMNS, "--max-rows", "4", "--max-bytes", "5000") as client:
        found = await call(client, "read_rows", embedding="articles", keys=list(range(1, 10)))
        assert len(found["rows"]) == 2
        assert "more rows were found than an answer may hold" in found["note"]
        assert found["rows"][0]["lang"] == "x" * 2000 + " ..."
        articles.execute("UPDATE articles SET lang = NULL")
        found = await call(client, "search", embedding="articles", text="article 7", limit=100)
        assert len(found["rows"]) == 4


@pytest.fixture
def odd(articles: Harness) -> Harness:
    """A chunked embedding, whose table has a composite key and odd names."""
    articles.execute('CREATE TABLE "Odd na%me" (tenant int, code uuid, "te%xt" text, PRIMARY KEY (tenant, code))')
    articles.execute(
        """INSERT INTO "Odd na%me" SELECT n, gen_random_uuid(), 'row ' || n || repeat(' and words', 20)
           FROM generate_series(1, 5) n"""
    )
    articles.ok("attach", '"Odd na%me"', "--text", "te%xt", "--chunk-tokens", "32")
    articles.execute(f'GRANT SELECT ON "Odd na%me", qwen_embed."Odd na%me" TO {READER}')
    eventually(lambda: articles.settled("Odd na%me"))
    return articles


async def test_a_chunked_embedding_and_a_composite_key_are_searched(odd: Harness) -> None:
    async with agent(odd) as client:
        found = await call(client, "search", embedding="Odd na%me", text="row", limit=10)
        assert sorted(row["tenant"] for row in found["rows"]) == [1, 2, 3, 4, 5]
        assert all(row["chunk_text"] in row["te%xt"] for row in found["rows"])
        key = {name: found["rows"][0][name] for name in ("tenant", "code")}
        (row,) = (await call(client, "read_rows", embedding="Odd na%me", keys=[key]))["rows"]
        assert row == {
            name: value for name, value in found["rows"][0].items() if name not in ("distance", "chunk_text")
        }


def test_what_is_wrong_is_said_at_the_start(articles: Harness) -> None:
    assert articles.refused("mcp", "--columns", "likes") == "--columns likes: write it like articles=lang,likes"
    assert 'has no column "no"' in articles.refused("mcp", "--columns", "articles=no")
    assert 'there is no embedding "artikles"' in articles.refused("mcp", "--embedding", "artikles")
    assert 'there is no embedding "others"' in articles.refused("mcp", "--columns", "others=likes")


async def test_the_configuration_of_the_page_on_mcp_starts_the_server(articles: Harness) -> None:
    page = (examples.DOCS / "mcp.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (given,) = json.loads(block)["mcpServers"].values()
    assert given["command"] == "pg-qwen-embed"
    assert set(given["env"]) <= set(articles.variables)
    assert given["args"].pop(0) == "mcp"
    async with agent(articles, *given["args"]) as client:
        (one,) = (await call(client, "list_embeddings"))["result"]
        assert one["filters"] == {"lang": "text", "likes": "integer"}
