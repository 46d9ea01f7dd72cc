"""Search with the client and on the command line, with real prompts."""

import asyncio
import json
import threading
from contextlib import suppress

import numpy as np
import psycopg
import pytest
from harness import Harness

from pg_qwen_embed import Client
from pg_qwen_embed.domain.errors import DatabaseUnavailable, ServerUnavailable, UsageError


@pytest.fixture
def filled(harness: Harness) -> Harness:
    harness.articles("one", "two", "three  spaced\ntext", "x" * 500)
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.server.texts.clear()
    return harness


def client(harness: Harness) -> Client:
    return Client(harness.url, server_url=harness.server.url)


def test_a_query_of_qwen3_carries_its_instruction_and_a_document_none(harness: Harness) -> None:
    harness.server.model = "Qwen/Qwen3-Embedding-0.6B"
    harness.articles("document")
    harness.ok("attach", "articles", "--text", "body", "--instruction", "Find it")
    harness.once()
    harness.ok("search", "articles", "query")
    assert harness.server.texts == ["document", "Instruct: Find it\nQuery:query"]


def test_the_vector_of_a_query_has_the_embeddings_dimensions(harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--dimensions", "8")
    with client(harness) as asking:
        vector = asking.embed_query("articles", "query")
    np.testing.assert_allclose(vector, harness.server.vector("query", 8), atol=1e-6)
    with psycopg.connect(harness.url) as connection:
        connection.execute("SELECT FROM qwen_embed.articles ORDER BY embedding <=> %s::halfvec", [str(vector.tolist())])


def test_results_come_nearest_first_with_the_rows_columns(filled: Harness) -> None:
    with client(filled) as asking:
        hits = asking.search("articles", "two", limit=3)
    assert hits[0].row == {"id": 2, "body": "two", "views": 0}
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert len(hits) == 3


def test_on_the_command_line_a_hit_is_one_short_line(filled: Harness) -> None:
    lines = filled.ok("search", "articles", "x" * 500).splitlines()
    assert len(lines) == 4
    assert all(len(line) < 200 for line in lines)
    assert any("body=three spaced text" in line for line in lines)


def test_every_type_of_column_can_be_printed_as_json(harness: Harness) -> None:
    harness.execute("""CREATE TABLE articles (id uuid PRIMARY KEY, body text, a timestamptz, b date, c numeric, d bytea, e jsonb,
                   f int[], g interval, h inet, i int4range, j float8, k time, l bit(3), m point, n text)""")
    harness.execute("""INSERT INTO articles VALUES (gen_random_uuid(), 'one', now(), '2020-01-01', 1.10, '\\xff00', '{"a": 1}',
                   '{1}', '1 day', '::1', '[1,2)', 'NaN', '12:00', '101', '(1,2)', NULL)""")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    (hit,) = json.loads(harness.ok("search", "articles", "one", "--json"))
    assert hit["row"]["e"] == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("articles", "   "), "the query is blank"),
        (("other", "x"), 'there is no embedding "other"; there are: articles'),
    ],
)
def test_search_rejects_with_one_sentence(filled: Harness, arguments: tuple[str, ...], words: str) -> None:
    assert words in filled.refused("search", *arguments)


def test_a_limit_below_one_is_a_usage_error(filled: Harness) -> None:
    assert filled.cli("search", "articles", "x", "--limit", "0").exit_code == 2
    with client(filled) as asking, pytest.raises(UsageError, match="must be 1 or more"):
        asking.search("articles", "x", limit=0)


def test_search_rejects_a_server_of_another_model(filled: Harness) -> None:
    filled.server.model = "another"
    assert "articles was attached with stand-in (16 dimensions" in filled.refused("search", "articles", "x")


def test_search_says_that_the_server_is_away(filled: Harness) -> None:
    filled.server.fault = "503"
    with client(filled) as asking:
        with pytest.raises(ServerUnavailable, match="The request queue is full"):
            asking.search("articles", "x")
        filled.server.fault = None
        assert asking.search("articles", "x")


def test_the_client_says_that_the_database_is_away(filled: Harness) -> None:
    with (
        Client("postgresql://u@127.0.0.1:1/d", server_url=filled.server.url) as asking,
        pytest.raises(DatabaseUnavailable, match="PostgreSQL does not answer"),
    ):
        asking.search("articles", "x")


def test_the_client_connects_again_after_its_connection_was_cut(filled: Harness) -> None:
    with client(filled) as asking:
        asking.search("articles", "x")
        filled.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                       " WHERE application_name = 'pg_qwen_embed client' AND datname = current_database()")  # fmt: skip
        with suppress(DatabaseUnavailable):  # it may raise that once
            asking.search("articles", "x")
        assert asking.search("articles", "x")


def test_the_client_can_be_used_inside_an_event_loop_and_from_threads(filled: Harness) -> None:
    found: list[int] = []
    with client(filled) as asking:

        async def inside() -> None:
            found.append(len(asking.search("articles", "x")))

        asyncio.run(inside())
        threads = [threading.Thread(target=lambda: found.append(len(asking.search("articles", "x")))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [4] * 5


def test_the_client_can_be_closed_twice(filled: Harness) -> None:
    asking = client(filled)
    asking.close()
    asking.close()
