"""Searching among the rows that meet a condition: as many rows as there are, the nearest ones, in every layout."""

import asyncio
import json
import re
import select
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from harness import LAYOUTS, READER, Harness, as_role, both_versions
from proxy import Proxy
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pg_qwen_embed import Client, UsageError
from pg_qwen_embed.domain.query import Wanted
from pg_qwen_embed.postgres.conditions import condition_of
from pg_qwen_embed.postgres.connection import take_binary_values
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.nearest import Nearest
from pg_qwen_embed.postgres.one_request import one_request

ROWS = 3000


def client(harness: Harness) -> Client:
    return Client(harness.url, server_url=harness.server.url)


def fill(harness: Harness, layout: str, *options: str, rows: int = ROWS) -> None:
    """likes: a permutation of 0 .. rows - 1; every third title is NULL."""
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, likes int NOT NULL, title text)")
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n, n * 7 % %s, CASE WHEN n % 3 > 0 THEN 'a' END"
                    " FROM generate_series(1, %s) n".replace("%s", str(rows)))  # fmt: skip
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout], *options)
    harness.once()


@pytest.fixture
def small(harness: Harness) -> Harness:
    fill(harness, "table", rows=20)
    return harness


def expected(harness: Harness, query: str, chosen: Callable[[int], bool], limit: int) -> list[int]:
    """The ids of the nearest rows by the server's own vectors."""
    own = harness.server.vector(query)
    ids = [n for n in range(1, ROWS + 1) if chosen(n)]
    found = {n: 1 - float(own @ harness.server.vector(f"text {n}")) for n in ids}
    return sorted(found, key=found.__getitem__)[:limit]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_every_selectivity_gets_as_many_rows_as_there_are_and_the_nearest(harness: Harness, layout: str) -> None:
    fill(harness, layout)
    with client(harness) as asking:
        for most in (ROWS, ROWS // 2, ROWS // 10, ROWS // 100, 5, 0):

            def chosen(n: int, most: int = most) -> bool:
                return n * 7 % ROWS < most

            for limit in (10, 100):
                wanted = expected(harness, "text 5", chosen, limit)
                for options in ({}, {"exact": True}, {"ef_search": 400}):
                    hits = asking.search(
                        "articles", "text 5", limit, where="likes < %(most)s", params={"most": most}, **options
                    )
                    assert len(hits) == min(limit, most), (most, limit, options)
                    assert all(hit.row["likes"] < most for hit in hits)
                    ids = [hit.row["id"] for hit in hits]
                    assert len(set(ids)) == len(ids)
                    assert len(set(ids) & set(wanted)) >= 0.95 * len(ids), (most, limit, options)
                    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)


@both_versions
def test_a_condition_sees_the_columns_of_the_source_by_its_own_names(harness: Harness) -> None:
    """Also where they are called like ours; the table by its own name; a percent sign, and values."""
    harness.execute("""CREATE TABLE "Odd % ""table" ("Key % 1" text, k2 uuid DEFAULT gen_random_uuid(), body text, chunk int,
                    distance int, k1 int, vector int, chosen int, embedding int, version int, "span" int, query text, s int,
                    t int, PRIMARY KEY ("Key % 1", k2))""")
    harness.execute("""INSERT INTO "Odd % ""table" ("Key % 1", body, chunk, distance, k1, vector, chosen, embedding, version,
                    "span", query, s, t) SELECT 'k' || n, 'text ' || n, n, n, n, n, n, n, n, n, n || '%', n, n
                    FROM generate_series(1, 20) n""")
    for layout in LAYOUTS:
        harness.ok(
            "attach", '"Odd % ""table"', "--name", "Odd % name", "--text", "body", "--column", "own", *LAYOUTS[layout]
        )
        harness.once()
        with client(harness) as asking:
            for where, params in (
                *(
                    (f"{name} = 7", None)
                    for name in ("chunk", "distance", "k1", "vector", "chosen", "version", "span", "s", "t")
                ),
                ('"Odd % ""table".chunk = 7', None),
                ('"Odd %% ""table".chunk = %(query)s', {"query": 7}),
                ("\"Key % 1\" = 'k7'", None),
                ("query LIKE '7%'", None),
                ("query LIKE '7%%' AND chunk = ANY(%(limit)s)", {"limit": [7, 8]}),
                (sql.SQL("{} = {}").format(sql.Identifier("Key % 1"), sql.Literal("k7")), None),
                (sql.SQL("{} = {}").format(sql.Identifier("Key % 1"), sql.Placeholder("key")), {"key": "k7"}),
                ("chunk = 7 -- a comment", None),
                ("chunk = 7 /* one /* in another */ ; */", None),
                ("body = $x$text 7$x$ OR body = E'\\'; \\\\' OR body = ';)' OR \"body\" = '('')'", None),
                ("EXISTS (SELECT FROM (VALUES (7)) v(n) WHERE n = chunk)", None),
            ):
                for exact in (False, True):
                    (hit,) = asking.search("Odd % name", "text", where=where, params=params, exact=exact)
                    assert hit.row["t"] == 7
        harness.ok("detach", "Odd % name", "--yes")


@pytest.mark.parametrize(
    ("where", "params", "words"),
    [
        ("likes >", None, "with the condition 'likes >': syntax error at or near \")\""),
        ("likes", None, "argument of WHERE must be type boolean, not type integer|must be type boolean"),
        ("no_such = 1", None, 'column "no_such" does not exist'),
        ("version = 1", None, 'column "version" does not exist'),
        ("embedding IS NOT NULL", None, 'column "embedding" does not exist'),
        ("likes > 'x'", None, "invalid input syntax for type integer"),
        ("count(*) > 1", None, "aggregate functions are not allowed"),
        ("1 / (likes - likes) > 0", None, "division by zero"),
        ("no_such(likes)", None, "function no_such(integer) does not exist"),
        ("likes > %(n)s", {"n": "x"}, "invalid input syntax for type integer"),
        ("title = %(n)s", {"n": "\0"}, "NUL"),
        ("likes = %(n)s", {"n": {"a": 1}}, "cannot adapt type 'dict'"),
        ("likes > %(n)s", None, "give params"),
        ("likes > 1; DROP TABLE articles", None, "has a semicolon"),
        ("true) OR (true", None, "closes a bracket at character 5"),
        ("(true", None, "opens a bracket"),
        ("title = 'x", None, "has a ' without an end"),
        ("title = $a$ x $b$", None, r"has a \$a\$ without an end"),
        ("true /* x", None, r"has a /\* without an end"),
        (" -- nothing\n", None, "is blank"),
        ("", None, "is blank"),
        ("title = '\0'", None, "holds a NUL"),
        ("likes > %(n)s", {"m": 1}, "needs a value 'n', which params lacks; there are: m"),
        ("likes > %(n)s", {}, "needs a value 'n', which params lacks; it is empty"),
        ("likes > %s", {"m": 1}, "has a % at character 9 that is no value"),
        ("likes % 2 = 0", {"m": 1}, "%% for a percent sign"),
        ("likes > 1", [1], "params are values by their names"),
        (None, {"m": 1}, "there is no condition"),
        (5, None, "and not a value of type int"),
    ],
)
def test_what_is_no_condition_is_one_sentence(
    small: Harness, where: Any, params: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with client(small) as asking:
        for exact in (False, True):
            with pytest.raises(UsageError) as said:
                asking.search("articles", "text", where=where, params=params, exact=exact)
            assert re.search(words if "\\" in words or "|" in words else re.escape(words), str(said.value)), said.value
            assert "\n" not in str(said.value)
        assert len(asking.search("articles", "text", where="likes > 0", limit=2)) == 2
    assert caplog.records == []  # the application's log has no line of psycopg's


async def test_an_error_in_the_middle_of_a_request_leaves_no_warning_in_the_log(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a search, when the database answers before the last statement is sent."""
    async with await psycopg.AsyncConnection.connect(harness.url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.SyntaxError):
            await _request_that_is_answered_early(connection)
        assert await (await connection.execute("SELECT 2")).fetchone() == (2,)
    assert caplog.records == []


async def _request_that_is_answered_early(connection: psycopg.AsyncConnection[Any]) -> None:
    async with one_request(connection):
        await connection.execute("no statement")
        await asyncio.to_thread(select.select, [connection.fileno()], [], [], 10)
        await connection.execute("SELECT 1")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_rows_that_the_policies_hide_are_not_found_by_any_condition(harness: Harness, layout: str) -> None:
    fill(harness, layout)
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    harness.execute("CREATE POLICY own ON articles TO PUBLIC USING (likes < 1000)")
    harness.execute(f"GRANT SELECT ON articles TO {READER}")
    harness.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA qwen_embed TO {READER}")
    with Client(as_role(harness.url, READER), server_url=harness.server.url) as asking:
        for where, count in (("true", 50), ("likes >= 990", 10), ("likes >= 1000", 0), ("likes < 1500", 50)):
            hits = asking.search("articles", "text 5", 50, where=where)
            assert (len(hits), all(hit.row["likes"] < 1000 for hit in hits)) == (count, True)


@pytest.mark.parametrize("layout", ["table", "chunked"])
def test_partitions_are_searched_with_a_condition(harness: Harness, layout: str) -> None:
    harness.execute(
        "CREATE TABLE articles (id bigint, lang text, body text, PRIMARY KEY (lang, id)) PARTITION BY LIST (lang)"
    )
    for lang in ("de", "en"):
        harness.execute(f"CREATE TABLE articles_{lang} PARTITION OF articles FOR VALUES IN ('{lang}')")
        harness.execute(f"INSERT INTO articles SELECT n, '{lang}', '{lang} ' || n FROM generate_series(1, 300) n")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()
    with client(harness) as asking:
        for where, count in (("lang = 'de'", 100), ("id <= 10", 20), ("lang = 'en' AND id = 3", 1), ("lang = 'fr'", 0)):
            assert len(asking.search("articles", "de 5", 100, where=where)) == count


def test_names_in_a_condition_are_looked_up_as_for_a_session_of_the_role(harness: Harness) -> None:
    """Its functions, types and tables; nobody's operator takes the place of PostgreSQL's own."""
    fill(harness, "table", rows=20)
    harness.execute("CREATE FUNCTION is_liked(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 15'")
    harness.execute("CREATE TABLE favourites (id bigint PRIMARY KEY)")
    harness.execute("INSERT INTO favourites VALUES (3), (4)")
    harness.execute("CREATE TYPE mood AS ENUM ('calm')")
    harness.execute("ALTER TABLE articles ADD mood mood")
    harness.execute("UPDATE articles SET mood = 'calm' WHERE id = 3")
    with client(harness) as asking:
        for where, count in (("is_liked(likes)", 4), ("id IN (SELECT id FROM favourites)", 2), ("mood = 'calm'::mood", 1),
                             ("EXISTS (SELECT FROM favourites f WHERE f.id = articles.id)", 2)):  # fmt: skip
            assert len(asking.search("articles", "text", 20, where=where)) == count
        assert len(asking.search("articles", "text", 20)) == 20


@pytest.mark.long
def test_a_sample_that_misleads_costs_time_and_no_row(harness: Harness) -> None:
    """All rows that meet the condition stand together, at the end of the table, or are far from the query."""
    fill(harness, "table")
    with client(harness) as asking:
        for where, count in ((f"id > {ROWS - 200}", 100), ("body ~ '9'", 100), ("body !~ '[13579]$'", 100)):
            for _ in range(2):
                assert len(asking.search("articles", "text 5", 100, where=where)) == count


def test_a_document_of_many_chunks_does_not_hide_the_others(harness: Harness) -> None:
    """More of its chunks are near than the index is asked for."""
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text)")
    long = "\n\n".join(f"near {n} " + "word " * 30 for n in range(400))
    harness.execute("INSERT INTO articles VALUES (1, %s)", long)
    harness.execute("INSERT INTO articles SELECT n, 'other ' || n FROM generate_series(2, 100) n")
    harness.ok("attach", "articles", "--text", "body", "--chunk-tokens", "64")
    harness.once()
    with client(harness) as asking:
        for options in ({"where": "true"}, {"where": "id < 50"}, {"exact": True}, {"where": "id < 50", "exact": True}):
            hits = asking.search("articles", "near 5", 10, **options)  # type: ignore[arg-type]
            assert len({hit.row["id"] for hit in hits}) == 10
            assert {"chunk", "span", "chunk_text"} < set(hits[0].row)


def by_index(harness: Harness, where: str) -> bool:
    """Whether the index finds the rows: the other way is planned, and never executed."""
    searching = Nearest(harness.embedding())
    wanted, condition = Wanted(5), condition_of(where, None)
    given = searching._values(harness.server.vector("text 5"), wanted, condition)
    with harness.connection.transaction():
        take_binary_values(harness.connection)
        harness.connection.execute(searching._begin, searching._settings(wanted, condition))
        harness.connection.execute("SET LOCAL enable_seqscan = off")  # the table is small
        harness.connection.execute("SET LOCAL enable_sort = off")
        *steps, search = searching._steps(wanted, condition)
        for step in steps:
            harness.connection.execute(step, given)
        plan = harness.connection.execute(b"EXPLAIN (ANALYZE, TIMING off) " + search, given).fetchall()
    (scan,) = [line for (line,) in plan if "_hnsw" in line]
    return "never executed" not in scan


@pytest.mark.parametrize("layout", LAYOUTS)
@both_versions
@pytest.mark.long
def test_the_index_is_used_where_many_rows_meet_the_condition_and_not_where_few_do(
    harness: Harness, layout: str
) -> None:
    fill(harness, layout)
    assert by_index(harness, "likes >= 0")
    assert by_index(harness, "likes % 2 = 0 AND title IS NOT DISTINCT FROM title")  # the planner expects few
    assert not by_index(harness, "likes < 10")
    assert not by_index(harness, "false")
    harness.execute(f"DROP INDEX {identifier(names_of(harness.embedding()).index).as_string(None)}")
    with client(harness) as asking:
        assert len(asking.search("articles", "text 5", 100, where="likes >= 0")) == 100


@pytest.mark.parametrize(
    ("kind", "layout"), [("hnsw-binary", "table"), ("hnsw-prefix:8", "column"), ("hnsw-prefix:8", "chunked")]
)
@pytest.mark.long
def test_a_compressed_index_finds_rows_that_meet_a_condition_and_whole_vectors_rank_them(
    harness: Harness, layout: str, kind: str
) -> None:
    fill(harness, layout, "--index", kind)
    harness.execute(
        "UPDATE _qwen_embed.ann_index SET ef_search = 20"
    )  # what the worker has measured is more than half the table
    assert by_index(harness, "likes >= 0")
    assert by_index(harness, "likes % 2 = 0 AND title IS NOT DISTINCT FROM title") == (layout != "chunked")
    assert not by_index(harness, "likes < 10")
    with client(harness) as asking:
        for limit, least in ((10, 0), (10, ROWS // 2), (50, 5), (7, ROWS - 4)):
            params, wanted = {"least": least}, expected(harness, "text 5", lambda n: n * 7 % ROWS >= least, limit)  # noqa: B023
            for ef_search in (None, 200):
                hits = asking.search(
                    "articles", "text 5", limit, where="likes >= %(least)s", params=params, ef_search=ef_search
                )
                assert len({hit.row["id"] for hit in hits}) == len(hits) == min(limit, ROWS - least)
                assert all(hit.row["likes"] >= least for hit in hits)
                assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
                near = {
                    1 - float(harness.server.vector("text 5") @ harness.server.vector(h.row["body"])) - h.distance
                    for h in hits
                }
                assert max(map(abs, near)) < 0.01
            assert len({hit.row["id"] for hit in hits} & set(wanted)) >= len(hits) / 2  # of sixteen signs


@both_versions
def test_a_search_with_a_condition_is_answered_by_the_database_once(harness: Harness) -> None:
    fill(harness, "table", rows=20)
    proxy = Proxy(f"{harness.connection.info.host}/.s.PGSQL.{harness.connection.info.port}")
    with proxy.running():
        url = make_conninfo(harness.url, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
        with Client(url, server_url=harness.server.url) as asking:
            asking.search("articles", "text")
            for options in (
                {"where": "likes > %(n)s", "params": {"n": 3}},
                {"exact": True},
                {"where": "true", "exact": True},
            ):
                before = proxy.answers
                assert asking.search("articles", "text", 5, **options)  # type: ignore[arg-type]
                assert proxy.answers - before == 1


def test_on_the_command_line_rows_are_filtered_and_columns_are_aligned(small: Harness) -> None:
    lines = small.ok("search", "articles", "text 3", "--where", "likes >= 18", "--columns", "likes, id").splitlines()
    assert lines[0].split() == ["distance", "likes", "id"]
    assert sorted(line.split()[1] for line in lines[1:]) == ["18", "19"]
    assert [line.index("likes") for line in lines[:1]] == [line.index(line.split()[1], 8) for line in lines[1:2]]
    (hit,) = json.loads(
        small.ok(
            "search", "articles", "text 3", "--where", "body LIKE '%t 3'", "--exact", "--columns", "body", "--json"
        )
    )
    assert hit["row"] == {"body": "text 3"}
    assert len(small.ok("search", "articles", "text 3", "--limit", "3", "--ef-search", "10").splitlines()) == 3
    none = small.cli("search", "articles", "text 3", "--where", "false")
    assert (none.exit_code, none.stdout) == (0, "")
    assert none.stderr == "articles holds no vector of a row that meets the condition\n"
    assert 'there is no column "x"; there are: id, body' in small.refused(
        "search", "articles", "x", "--columns", "id,x"
    )
    assert "syntax error" in small.refused("search", "articles", "x", "--where", "likes >")
    assert small.cli("search", "articles", "x", "--ef-search", "1001").exit_code == 2
