"""The view qwen_embed.NAME: what applications query, with which rights, and how."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, both_versions, eventually
from psycopg.conninfo import make_conninfo

from pg_qwen_embed import Client
from pg_qwen_embed.postgres.connection import connect_async
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.store import Store

ROWS = 5000


@pytest.fixture(scope="module", params=["table", "column"])
def large(
    request: pytest.FixtureRequest, clusters: Callable[[int], Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    """A source of 5,000 rows with vectors and an index. Tests must not change it."""
    with clusters(18).database() as url, FakeSGLang().running() as server, ExitStack() as stack:
        harness = Harness(url, server, Path(tmp_path_factory.mktemp("large")), stack)
        harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, views int)")
        harness.execute("INSERT INTO articles SELECT n, 'text ' || n, n %% 10 FROM generate_series(1, %s) n", ROWS)
        harness.ok("attach", "articles", "--text", "body", "--store", request.param)
        harness.once()
        yield harness


def nearest(harness: Harness, text: str, where: str = "", limit: int = 10) -> tuple[str, str]:
    """The query of an application, and its plan."""
    vector = json.dumps(harness.server.vector(text).tolist())
    source = "articles JOIN qwen_embed.articles e USING (id)"
    query = f"SELECT id, body, stale FROM {source} {where} ORDER BY e.embedding <=> '{vector}' LIMIT {limit}"
    return query, "\n".join(line for (line,) in harness.rows(f"EXPLAIN {query}"))


def test_order_by_distance_with_a_limit_uses_the_index(large: Harness) -> None:
    query, plan = nearest(large, "text 77")
    assert "Index Scan using " in plan
    assert "_hnsw" in plan
    assert "Sort" not in plan
    assert large.rows(query)[0] == (77, "text 77", False)


def test_search_finds_as_many_as_asked_for_beyond_what_the_index_gives_at_once(large: Harness) -> None:
    """hnsw.ef_search is 40 by default: without an iterative scan there would be no more."""
    with Client(large.url, server_url=large.server.url) as client:
        hits = client.search("articles", "text 5", limit=200)
    assert len(hits) == 200
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert hits[0].row == {"id": 5, "body": "text 5", "views": 5}


def test_search_is_planned_with_the_index(large: Harness) -> None:
    """The statement `search` itself, under its own settings."""
    vector = json.dumps(large.server.vector("text 5").tolist())
    with large.connection.transaction():
        names = names_of(large.embedding())
        settings = {"name": "articles", "instruction": "", "ef_search": 1, "given": False, "has_condition": False}
        large.connection.execute(statement("begin_search", names), settings)
        query = b"EXPLAIN " + statement(names.layout.search, names).as_bytes(large.connection)
        plan = "\n".join(line for (line,) in large.connection.execute(query, {"query": vector, "limit": 10}))
    assert "_hnsw" in plan


def test_the_view_shows_the_key_the_vector_and_stale(large: Harness) -> None:
    described = large.connection.execute("SELECT * FROM qwen_embed.articles LIMIT 0").description
    assert [column.name for column in described or ()] == ["id", "embedding", "stale"]


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        (["--view-columns", "all"], ["id", "body", "views", "embedding", "stale"]),
        (["--view-columns", "views, body", "--column", "vector"], ["id", "views", "body", "vector", "stale"]),
        (["--view-name", "stale=old"], ["id", "embedding", "old"]),
        (
            ["--chunk-tokens", "64", "--view-name", "chunk=part", "--view-name", "chunk_text=words"],
            ["id", "part", "span", "words", "embedding", "stale"],
        ),
    ],
    ids=["all", "two", "stale renamed", "chunk renamed"],
)
def test_columns_of_the_view_are_those_that_attach_names(
    harness: Harness, options: list[str], columns: list[str]
) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()
    described = harness.connection.execute("SELECT * FROM qwen_embed.articles").description
    assert [column.name for column in described or ()] == columns
    (hit,) = json.loads(harness.ok("search", "articles", "one", "--json"))
    assert hit["row"]["body"] == "one"
    assert "warning" not in harness.ok("status", "articles")


@both_versions
@pytest.mark.parametrize("store", ["table", "column"])
def test_stale_is_true_from_an_update_until_the_worker_has_followed(harness: Harness, store: str) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.once()
    stale = "SELECT stale FROM qwen_embed.articles ORDER BY id"
    assert harness.rows(stale) == [(False,), (False,)]
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    assert harness.rows(stale) == [(False,), (True,)]
    harness.execute("UPDATE articles SET views = 5")
    assert harness.rows(stale) == [(False,), (True,)]
    harness.once()
    assert harness.rows(stale) == [(False,), (False,)]


@pytest.fixture
def role(harness: Harness) -> Iterator[str]:
    name = f"reader_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {name}")
    yield name
    harness.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@both_versions
@pytest.mark.parametrize("store", ["table", "column"])
def test_a_role_granted_what_the_dry_run_says_can_query_and_sees_only_its_rows(
    harness: Harness, role: str, store: str
) -> None:
    harness.articles("mine", "yours")
    harness.execute("ALTER TABLE articles ADD owner text")
    harness.execute(f"UPDATE articles SET owner = '{role}' WHERE id = 1")
    arguments = ("attach", "articles", "--text", "body", "--store", store)
    printed = harness.ok(*arguments, "--dry-run")
    header = " ".join(line.removeprefix("--").strip() for line in printed.splitlines() if line.startswith("--"))
    said = header.partition("Grants for a role that searches: ")[2].partition("A role that only")[0]
    harness.ok(*arguments)
    harness.once()
    assert "and SELECT on public.articles" in said
    said = said.replace("and SELECT on public.articles", f"; GRANT SELECT ON public.articles TO {role}")
    grants = re.sub(r"\bTO r\b", f"TO {role}", said).rstrip(". ")
    reader = harness.connect()
    reader.execute(f"SET ROLE {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT FROM qwen_embed.articles")
    harness.execute(grants)
    query, _ = nearest(harness, "mine")
    assert [row[0] for row in reader.execute(query)] == [1, 2]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("TABLE _qwen_embed.embedding")

    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    harness.execute("CREATE POLICY own ON articles USING (owner = current_user)")
    assert [row[0] for row in reader.execute(query)] == [1]
    reader.close()


def test_a_role_without_rights_is_told_so_in_one_sentence(harness: Harness, role: str) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute(f"ALTER ROLE {role} LOGIN")
    as_reader: dict[str, str | None] = {
        "PG_QWEN_EMBED_DATABASE_URL": harness.url.replace("user=postgres", f"user={role}")
    }
    for command in (["status"], ["verify", "articles"], ["search", "articles", "x"], ["detach", "articles", "--yes"],
                    ["backfill", "articles"], ["attach", "articles", "--text", "body", "--name", "b"],
                    ["worker", "--once"], ["init"]):  # fmt: skip
        said = harness.refused(*command, env=as_reader)
        assert "GRANT USAGE ON SCHEMA" in said or "permission denied for schema" in said, command


@both_versions
@pytest.mark.parametrize("distance", ["cosine", "ip", "l2"])
def test_each_distance_orders_by_its_own_operator_through_its_own_index(harness: Harness, distance: str) -> None:
    operator, of_itself = {"cosine": ("<=>", 0.0), "ip": ("<#>", -1.0), "l2": ("<->", 0.0)}[distance]
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body", "--distance", distance)
    harness.once()
    (hit, *_) = json.loads(harness.ok("search", "articles", "two", "--json"))
    assert hit["row"]["body"] == "two"
    assert hit["distance"] == pytest.approx(of_itself, abs=5e-2)
    index = harness.value("SELECT pg_get_indexdef('_qwen_embed.store_1_hnsw'::regclass)")
    assert f"halfvec_{distance}_ops" in index
    harness.execute("SET enable_seqscan = off")
    plan = harness.rows(f"EXPLAIN SELECT id FROM qwen_embed.articles ORDER BY embedding {operator} "
                    f"'{json.dumps([0.25] * 16)}' LIMIT 1")  # fmt: skip
    assert "store_1_hnsw" in str(plan)


def test_an_index_whose_build_was_cut_short_is_built_again(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '_qwen_embed.store_1_hnsw'::regclass")
    assert '"index": "invalid"' in harness.ok("status", "--json")
    harness.worker()
    eventually(lambda: '"index": "valid"' in harness.ok("status", "--json"))


def test_rows_hidden_from_the_worker_by_row_level_security_are_an_error_and_not_deleted(
    harness: Harness, role: str
) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute(f"ALTER ROLE {role} LOGIN")
    harness.execute(
        f"GRANT USAGE ON SCHEMA _qwen_embed TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA _qwen_embed TO {role}"
    )
    harness.execute(f"GRANT SELECT ON articles TO {role}")
    for kind in ("store", "failure"):
        harness.execute(f"ALTER TABLE {harness.internal(kind)} OWNER TO {role}")
    harness.execute("UPDATE articles SET body = 'changed'")
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    store = Store(harness.embedding().target, 0)

    async def read() -> None:
        async with await connect_async(make_conninfo(harness.url, user=role), "test") as connection:
            await store.read_outbox(connection, version=1, after=0, in_flight=set(), entries=10, keys=10)

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        asyncio.run(read())
