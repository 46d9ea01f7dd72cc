"""AsyncClient: one answer of the database for a search, any number of tasks, several loops, and an end without a word."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psycopg
import pytest
from harness import LAYOUTS, Harness, eventually
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from pooler import Pooler
from proxy import Proxy
from psycopg.conninfo import make_conninfo

from pg_qwen_embed import AsyncClient, Client, DatabaseUnavailable, DocumentRejected, Hit, UsageError
from pg_qwen_embed.postgres import client_pool

CLOSED = "this Client is closed; make a new one"


@pytest.fixture
def filled(harness: Harness) -> Harness:
    harness.articles("one", "two", "three", "four")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.server.texts.clear()
    return harness


def asking(harness: Harness, url: str | None = None) -> AsyncClient:
    return AsyncClient(url or harness.url, server_url=harness.server.url)


@contextmanager
def through_proxy(harness: Harness) -> Iterator[tuple[Proxy, str]]:
    with Proxy(f"{harness.connection.info.host}/.s.PGSQL.{harness.connection.info.port}").running() as proxy:
        yield (
            proxy,
            make_conninfo(harness.url, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable"),
        )


def connections(harness: Harness) -> int:
    (count,) = harness.rows("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_qwen_embed client'"
                            " AND datname = current_database()")[0]  # fmt: skip
    return int(count)


async def test_a_search_is_answered_by_the_database_once(filled: Harness) -> None:
    """Also with an index, filters, a vector, and settings; the first one opens the connection."""
    with through_proxy(filled) as (proxy, url):
        async with asking(filled, url) as client:
            await client.search("articles", "one")
            for options in ({}, {"ef_search": 50}, {"limit": 1}):
                for query in ("two", await client.embed_query("articles", "three")):
                    before = proxy.answers
                    assert await client.search("articles", query, **options)
                    assert proxy.answers - before == 1


async def test_many_tasks_search_at_once_with_few_connections(filled: Harness) -> None:
    async with asking(filled) as client:
        found = await asyncio.gather(*(client.search("articles", f"text {n}") for n in range(100)))
        assert [len(hits) for hits in found] == [4] * 100
        assert 1 <= connections(filled) <= client_pool.MOST


async def test_a_client_works_in_one_loop_after_another_and_in_two_at_once(filled: Harness) -> None:
    client = asking(filled)
    assert await client.search("articles", "one")

    async def several() -> int:
        return sum(map(len, [await client.search("articles", "one") for _ in range(3)]))

    def elsewhere() -> int:
        return asyncio.run(several())

    both = await asyncio.gather(asyncio.to_thread(elsewhere), several(), asyncio.to_thread(elsewhere))
    assert both == [12, 12, 12]
    assert await asyncio.to_thread(elsewhere) == 12
    await client.close()
    with pytest.raises(UsageError, match=CLOSED):
        await asyncio.to_thread(elsewhere)


@pytest.mark.parametrize(
    "end",
    [
        "await client.close()",
        "del client",
        "pass",
        "raise SystemExit(0)",
        "client.self = client; del client; import gc; gc.collect()",
    ],
)
def test_a_program_ends_without_a_word_whether_or_not_it_closes_its_client(filled: Harness, end: str) -> None:
    program = f"""
import asyncio, gc, sys
from pg_qwen_embed import AsyncClient
async def main():
    client = AsyncClient(sys.argv[1], server_url=sys.argv[2])
    print(len(await client.search("articles", "one")))
    {end}
asyncio.run(main())
"""
    command = [sys.executable, "-W", "always", "-c", program, filled.url, filled.server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


async def test_a_client_that_nobody_holds_closes_its_connections(filled: Harness) -> None:
    client = asking(filled)
    await client.search("articles", "one")
    assert connections(filled) == 1
    del client
    await asyncio.to_thread(eventually, lambda: not connections(filled))


async def test_a_search_that_is_cancelled_leaves_the_client_as_it_was(filled: Harness) -> None:
    async with asking(filled) as client:
        await client.search("articles", "one")
        filled.server.fault = "hang"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.search("articles", "two")
        filled.server.fault = None
        tasks = [asyncio.create_task(client.search("articles", f"{n}")) for n in range(50)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        assert [len(await task) for task in tasks[1::2]] == [4] * 25
        assert len(await client.search("articles", "three")) == 4


async def test_whoever_waits_when_a_client_is_closed_is_told_so(filled: Harness) -> None:
    client = asking(filled)
    await client.search("articles", "one")
    filled.server.fault = "hang"
    sent = len(filled.server.requests)
    waiting = asyncio.create_task(client.search("articles", "two"))
    await asyncio.to_thread(eventually, lambda: len(filled.server.requests) > sent)
    await client.close()
    await client.close()
    with pytest.raises(UsageError, match=CLOSED):
        await waiting
    with pytest.raises(UsageError, match=CLOSED):
        await client.search("articles", "two")


async def test_queries_are_embedded_in_few_requests_and_equal_ones_once(filled: Harness) -> None:
    texts = [f"text {n % 100}" for n in range(300)]
    async with asking(filled) as client:
        found = await client.embed_queries("articles", texts)
        assert found.shape == (300, 16)
        assert found.dtype == np.float32
        assert sorted(filled.server.texts) == sorted(set(texts))
        for n in (0, 99, 100, 299):
            np.testing.assert_allclose(found[n], await client.embed_query("articles", texts[n]), atol=1e-6)
        assert (await client.embed_queries("articles", [])).shape == (0, 16)


async def test_a_query_that_cannot_be_embedded_is_named_by_its_position(filled: Harness) -> None:
    async with asking(filled) as client:
        for texts, words in ((["one", " \n"], "the query at position 1 is blank"), (["one", None], "position 1 is no text"),
                             ("one", "several queries are a list")):  # fmt: skip
            with pytest.raises(UsageError, match=words):
                await client.embed_queries("articles", texts)  # type: ignore[arg-type]
        filled.server.poison = "bad"
        with pytest.raises(DocumentRejected, match="the query at position 3: "):
            await client.embed_queries("articles", ["one", "two", "one", "a bad one", "three"])


@pytest.mark.parametrize("wrapped", [list, tuple, np.asarray, lambda v: np.asarray(v, np.float64)])
async def test_a_search_takes_a_vector(filled: Harness, wrapped: type) -> None:
    async with asking(filled) as client:
        vector = await client.embed_query("articles", "two")
        sent = len(filled.server.requests)
        hits = await client.search("articles", wrapped(vector.tolist()), 2)
        assert len(filled.server.requests) == sent
        assert hits == await client.search("articles", "two", 2)
        assert hits[0].row["body"] == "two"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ([1.0] * 15, "articles has vectors of 16 dimensions, and the query has 15"),
        (np.ones((2, 16)), "not an array of shape"),
        ([0.0] * 16, "a zero vector"),
        ([float("nan")] * 16, "cannot hold"),
        ([1e9] * 16, "cannot hold"),
        (["x"] * 16, "a text or a vector of numbers, and not a value of type list"),
        (None, "not a value of type NoneType|not an array"),
        ({"a": 1}, "not a value of type dict"),
        (b"two", "not a value of type bytes"),
    ],
)
async def test_a_query_that_is_no_vector_of_the_embedding_is_one_sentence(
    filled: Harness, query: object, words: str
) -> None:
    async with asking(filled) as client:
        with pytest.raises(UsageError, match=words):
            await client.search("articles", query)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "a limit of 0 finds nothing"),
        ({"limit": 2**31}, "more than PostgreSQL takes"),
        ({"ef_search": 0}, "it must be from 1 to 1,000"),
        ({"ef_search": 1001}, "it must be from 1 to 1,000"),
        ({"mode": "magic"}, "there is no search mode 'magic'"),
    ],
)
async def test_what_cannot_be_searched_is_one_sentence(filled: Harness, options: dict[str, object], words: str) -> None:
    async with asking(filled) as client:
        with pytest.raises(UsageError, match=words):
            await client.search("articles", "one", **options)  # type: ignore[arg-type]


async def test_a_vector_of_embed_query_is_a_parameter_of_psycopg(filled: Harness) -> None:
    """As it is with the package pgvector, and as text without it; a HalfVector is a query too."""
    query = "SELECT id FROM qwen_embed.articles ORDER BY embedding <=> %s LIMIT 1"
    async with asking(filled) as client:
        vector = await client.embed_query("articles", "two")
        (hit,) = await client.search("articles", HalfVector(vector), 1)
        assert hit.row["id"] == 2
    assert filled.rows(query.replace("%s", "%s::halfvec"), str(vector.tolist())) == [(2,)]
    with psycopg.connect(filled.url) as connection:
        register_vector(connection)
        for value in (vector, HalfVector(vector)):
            assert connection.execute(query, (value,)).fetchall() == [(2,)]


def test_what_changed_since_it_was_read_is_read_again(filled: Harness) -> None:
    """The instruction, the generation, its dimensions and its model, the names of the table and its columns."""
    filled.server.model = "Qwen/Qwen3-Embedding-0.6B"
    filled.ok("detach", "articles", "--yes")
    filled.ok("attach", "articles", "--text", "body", "--instruction", "First")
    filled.once()
    with Client(filled.url, server_url=filled.server.url) as client:
        for use in (client.search, client.embed_query):
            use("articles", "one")
        filled.execute("UPDATE _qwen_embed.embedding SET instruction = 'Second'")
        filled.server.texts.clear()
        client.search("articles", "one")
        assert filled.server.texts[-1] == "Instruct: Second\nQuery:one"
        filled.execute("UPDATE _qwen_embed.embedding SET instruction = 'Third'")
        client.embed_query("articles", "one")
        assert filled.server.texts[-1] == "Instruct: Third\nQuery:one"
        filled.execute("ALTER TABLE articles RENAME COLUMN views TO looks")
        filled.execute("ALTER TABLE articles RENAME TO pages")
        (hit,) = client.search("articles", "one", 1)
        assert hit.row == {"id": 1, "body": "one", "looks": 0}
        filled.ok("detach", "articles", "--yes")
        with pytest.raises(UsageError, match='there is no embedding "articles"'):
            client.search("articles", "one")
        filled.ok("attach", "pages", "--name", "articles", "--text", "body", "--dimensions", "8")
        filled.once()
        assert (client.embed_query("articles", "one")).shape == (8,)
        assert len(client.search("articles", "one")) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_column_that_is_added_is_in_the_rows_of_a_client_that_runs(harness: Harness, layout: str) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--words", "simple", *LAYOUTS[layout])
    harness.once()
    vector = np.ones(16, np.float32)
    with Client(harness.url, server_url=harness.server.url) as client:
        searches: list[Callable[[], list[Hit]]] = [
            lambda: client.search("articles", "one"),
            lambda: client.search("articles", vector, where="true"),
            lambda: client.search("articles", "one", mode="words"),
            lambda: client.search("articles", "one", mode="hybrid"),
        ]
        for n, search in enumerate(searches):
            assert f"added_{n}" not in search()[0].row
            harness.execute(f"ALTER TABLE articles ADD COLUMN added_{n} int DEFAULT {n}")
            assert search()[0].row[f"added_{n}"] == n
            harness.execute(f"ALTER TABLE articles DROP COLUMN added_{n}")
            assert f"added_{n}" not in search()[0].row


async def test_another_table_in_the_place_of_the_source_is_not_searched(filled: Harness) -> None:
    async with asking(filled) as client:
        await client.search("articles", "one")
        filled.execute("ALTER TABLE articles RENAME TO former")
        filled.execute("CREATE TABLE articles (LIKE former INCLUDING ALL)")
        filled.execute("INSERT INTO articles SELECT id, 'another', 0 FROM former")
        assert {hit.row["body"] for hit in await client.search("articles", "one")} == {"one", "two", "three", "four"}


async def test_a_lost_connection_is_replaced_for_all(filled: Harness) -> None:
    """Of the connections that wait in the client, each one is gone."""
    async with asking(filled) as client:
        await asyncio.gather(*(client.search("articles", f"{n}") for n in range(20)))
        filled.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                       " WHERE application_name = 'pg_qwen_embed client' AND datname = current_database()")  # fmt: skip
        found = await asyncio.gather(*(client.search("articles", f"{n}") for n in range(20)))
        assert [len(hits) for hits in found] == [4] * 20


async def test_a_database_that_is_away_is_one_sentence_and_then_forgotten(filled: Harness) -> None:
    with through_proxy(filled) as (proxy, url):
        async with asking(filled, url) as client:
            await client.search("articles", "one")
            proxy.mode = "refuse"
            proxy.cut()
            with pytest.raises(DatabaseUnavailable, match="PostgreSQL does not answer"):
                await client.search("articles", "one")
            assert (await client.embed_query("articles", "one")).shape == (16,)  # as it was known last
            proxy.mode = "pass"
            assert await client.search("articles", "one")


def test_a_loop_that_ends_closes_the_connections_of_the_client_in_it(filled: Harness) -> None:
    client = asking(filled)

    async def search() -> int:
        return len(await client.search("articles", "one"))

    assert [asyncio.run(search()) for _ in range(3)] == [4, 4, 4]
    eventually(lambda: not connections(filled))


async def test_clients_search_through_a_pooler_in_transaction_mode(filled: Harness) -> None:
    """Settings of a search reach no other client, and no statement is prepared in a session of others."""
    info = filled.connection.info
    with Pooler(f"{info.host}/.s.PGSQL.{info.port}").running() as pooler:
        url = make_conninfo(filled.url, host="127.0.0.1", port=pooler.port, sslmode="disable", gssencmode="disable")
        async with asking(filled, url) as one, asking(filled, url) as other:
            for number in range(12):
                for client in (one, other):
                    assert len(await client.search("articles", f"text {number}", ef_search=77)) == 4
                    assert len(await client.search("articles", "text", where="id <= %(n)s", params={"n": 3})) == 3
            with psycopg.connect(url, autocommit=True) as connection:
                for name in ("hnsw.ef_search", "hnsw.iterative_scan", "plan_cache_mode"):
                    (value,) = connection.execute("SELECT current_setting(%s)", [name]).fetchone() or ("",)
                    assert value in ("40", "off", "auto")
