"""Attach: what it does not accept, always with one sentence and nothing created, and what --dry-run says beforehand."""

import subprocess
import sys

import pytest
from harness import Harness, both_versions

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.admin import transaction


@pytest.fixture
def house(harness: Harness) -> Harness:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, kind regclass)")
    harness.execute("CREATE TABLE keyless (body text)")
    harness.execute("CREATE VIEW a_view AS SELECT * FROM articles")
    harness.execute("CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM articles")
    harness.execute("CREATE SEQUENCE a_sequence")
    harness.execute("CREATE TABLE with_embedding (id int PRIMARY KEY, body text, embedding text)")
    harness.execute("CREATE TABLE with_stale (id int PRIMARY KEY, body text, stale text)")
    harness.execute("CREATE TABLE parted (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    harness.execute("CREATE TABLE part PARTITION OF parted DEFAULT")
    harness.execute("CREATE TABLE later_unique (id int PRIMARY KEY DEFERRABLE, body text)")
    harness.execute("CREATE TABLE parent (id int PRIMARY KEY, body text); CREATE TABLE heir () INHERITS (parent)")
    harness.execute("CREATE TABLE taken (id int PRIMARY KEY, body text)")
    harness.ok("attach", "taken", "--text", "body")
    harness.execute("TRUNCATE taken")
    return harness


REFUSALS = {
    "no primary key": (["keyless", "--text", "body"], "has no primary key", "ADD PRIMARY KEY"),
    "unknown column": (["articles", "--text", "bodi"], 'has no column "bodi"', "id, body, kind"),
    "unknown column in a template": (["articles", "--template", "{bodi}"], 'has no column "bodi"', ""),
    "unknown table": (["artikles", "--text", "body"], "there is no such table", "artikles"),
    "unknown schema": (["app.articles", "--text", "body"], "there is no such table", "app.articles"),
    "malformed name": (['a"b', "--text", "body"], 'a"b', "table"),
    "empty name": (["", "--text", "body"], "table", ""),
    "two names": (["articles, taken", "--text", "body"], "articles, taken", ""),
    "too many dots": (["a.b.c.d", "--text", "body"], "not a valid table name in SQL", ""),
    "view": (["a_view", "--text", "body"], "a_view is a view", "needs a table"),
    "materialized view": (["a_matview", "--text", "body"], "is a materialized view", ""),
    "sequence": (["a_sequence", "--text", "body"], "is a sequence", ""),
    "index": (["articles_pkey", "--text", "body"], "is an index", ""),
    "partition": (["part", "--text", "body"], "is a partition", "attach the partitioned table"),
    "deferrable key": (["later_unique", "--text", "body"], "deferrable primary key", ""),
    "table that others inherit from": (["parent", "--text", "body"], "inherit from it", ""),
    "PostgreSQL's own table": (["pg_catalog.pg_class", "--text", "relname"], "belongs to PostgreSQL itself", ""),
    "our own table": (["_qwen_embed.embedding", "--text", "name"], "belongs to pg_qwen_embed", ""),
    "name taken": (["articles", "--text", "body", "--name", "taken"], 'the name "taken" is taken', "--name"),
    "the same again": (["taken", "--text", "body"], 'the name "taken" is taken', "--name"),
    "column too long": (["articles", "--text", "body", "--column", "c" * 64], "1 to 63 bytes", "--column"),
    "name too long": (["articles", "--text", "body", "--name", "é" * 32], "1 to 63 bytes", ""),
    "more than the model has": (["articles", "--text", "body", "--dimensions", "17"], "16 dimensions, not 17", ""),
    "no dimensions": (["articles", "--text", "body", "--dimensions", "0"], "1 to 4000", ""),
    "another model": (
        ["articles", "--text", "body", "--model", "x/y"],
        "serves stand-in, not x/y; leave --model out",
        "",
    ),
    "nothing to embed": (["articles"], "either --text", "--template"),
    "two ways to say it": (["articles", "--text", "body", "--template", "{body}"], "either --text", ""),
    "template without a column": (["articles", "--template", "body"], "names no column", ""),
    "template with a conversion": (["articles", "--template", "{body!r}"], "a column alone between braces", ""),
    "template left open": (["articles", "--template", "{body"], "cannot be read", ""),
    "template without a name": (["articles", "--template", "{}"], "a column alone between braces", ""),
    "vectors' column is there": (["with_embedding", "--text", "body"], 'has a column "embedding" already', "--column"),
    "stale is shown": (["with_stale", "--text", "body", "--view-columns", "all"], '"stale"', "--view-name stale="),
    "unknown view column": (["articles", "--text", "body", "--view-columns", "id,nix"], 'no column "nix"', ""),
    "unknown own column": (["articles", "--text", "body", "--view-name", "chunk=part"], 'no column "chunk"', ""),
    "view name without a name": (["articles", "--text", "body", "--view-name", "stale"], "stale=is_stale", ""),
    "vectors' column called stale": (["articles", "--text", "body", "--column", "stale"], '"stale"', ""),
    "a name of an object": (["articles", "--text", "kind"], "name of an object of the database", ""),
    "a key without a unique index": (
        ["articles", "--text", "body", "--key", "body"],
        "do not identify a row",
        "--key id",
    ),
    "a key that is no column": (["articles", "--text", "body", "--key", "nobody"], 'no column "nobody"', ""),
    "instruction for a plain model": (["articles", "--text", "body", "--instruction", "x"], "carry no instruction", ""),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_attach_rejects_with_one_sentence_and_creates_nothing(house: Harness, case: tuple[list[str], str, str]) -> None:
    arguments, *expected = case
    before = house.catalog()
    said = house.refused("attach", *arguments)
    for words in expected:
        assert words in said
    assert house.catalog() == before


def test_dimensions_that_no_index_holds_are_rejected(harness: Harness) -> None:
    harness.server.dimensions = 5000
    harness.articles()
    before = harness.catalog()
    assert "4001 dimensions: an index on halfvec holds 1 to 4000" in harness.refused(
        "attach", "articles", "--text", "body", "--dimensions", "4001"
    )
    assert harness.catalog() == before


def test_attach_rejects_a_temporary_table(house: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    house.execute("CREATE TEMPORARY TABLE passing (id int PRIMARY KEY, body text)")
    (schema,) = house.rows("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'passing'")[0]
    before = house.catalog()
    assert "is a temporary table" in house.refused("attach", f"{schema}.passing", "--text", "body")
    assert house.catalog() == before


def test_attach_needs_a_server_unless_model_and_dimensions_are_given(harness: Harness) -> None:
    harness.articles("one")
    before = harness.catalog()
    away: dict[str, str | None] = {"PG_QWEN_EMBED_SERVER_URL": "http://127.0.0.1:1/v1"}
    said = harness.refused("attach", "articles", "--text", "body", env=away)
    assert "http://127.0.0.1:1/v1 does not answer" in said
    assert harness.catalog() == before
    result = harness.cli("attach", "articles", "--text", "body", "--model", "stand-in", "--dimensions", "8", env=away)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")
    assert "were not checked" in result.stderr
    harness.once()
    harness.assert_in_step()


def test_attach_says_that_the_servers_key_is_missing(harness: Harness) -> None:
    harness.server.api_key = "s3cret"
    harness.articles()
    assert "rejects the API key (Unauthorized); set PG_QWEN_EMBED_API_KEY" in harness.refused(
        "attach", "articles", "--text", "body"
    )
    harness.ok("attach", "articles", "--text", "body", env={"PG_QWEN_EMBED_API_KEY": "s3cret"})


@pytest.mark.parametrize("command", ["attach", "detach"])
def test_a_table_that_stays_locked_is_given_up_with_nothing_changed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for module in (attaching, transaction):
        monkeypatch.setattr(module, "LOCK_TIMEOUT", "20ms")
    harness.articles("one")
    arguments = {"attach": ["articles", "--text", "body"], "detach": ["articles", "--yes"]}[command]
    if command == "detach":
        harness.ok("attach", "articles", "--text", "body")
    before = harness.catalog()
    application = harness.connect(autocommit=False)
    application.execute("INSERT INTO articles VALUES (2, 'long transaction')")
    said = harness.refused(command, *arguments)
    assert "5 times 20ms" in said
    application.rollback()
    assert harness.catalog() == before
    harness.ok(command, *arguments)


def test_attach_as_a_process_prints_one_sentence(harness: Harness) -> None:
    command = [sys.executable, "-m", "pg_qwen_embed", "attach", "nowhere", "--text", "body",
               "--database-url", harness.url, "--server-url", harness.server.url]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_attach_where_init_has_not_run_says_so(bare: Harness) -> None:
    bare.articles()
    assert "run: pg-qwen-embed init" in bare.refused("attach", "articles", "--text", "body")


@both_versions
@pytest.mark.parametrize("store", ["table", "column"])
def test_a_dry_run_creates_nothing_and_prints_what_attach_then_does(harness: Harness, store: str) -> None:
    harness.articles("one")
    before = harness.catalog()
    printed = harness.ok("attach", "articles", "--text", "body", "--store", store, "--dry-run")
    assert harness.catalog() == before
    harness.connection.execute(printed.encode())
    plain_sql = harness.catalog()
    harness.execute("DROP VIEW qwen_embed.articles")
    harness.execute("DROP TABLE articles CASCADE")
    harness.execute("DROP SCHEMA _qwen_embed, qwen_embed CASCADE")
    harness.ok("init")
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    ours = [row for row in harness.catalog() if row not in harness.rows("TABLE _qwen_embed.embedding")]
    assert ours == plain_sql


@both_versions
def test_everything_attach_creates_carries_a_comment(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    silent = harness.rows("""
        SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relnamespace IN ('qwen_embed'::regnamespace, '_qwen_embed'::regnamespace)
          AND c.relkind IN ('r', 'v') AND c.relname <> 'alembic_version' AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p
        WHERE p.pronamespace = '_qwen_embed'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL SELECT t.tgname FROM pg_trigger t
        WHERE NOT t.tgisinternal AND obj_description(t.oid, 'pg_trigger') IS NULL""")
    assert silent == []


def test_the_order_of_a_template_and_odd_characters_in_it_are_kept(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, body text)")
    harness.execute("INSERT INTO articles VALUES (1, 'T', 'B')")
    harness.ok("attach", "articles", "--template", r"{body} is 100% {{of}} '{title}' \\ $1 %s %(x)s {body}")
    harness.once()
    assert harness.server.texts == [r"B is 100% {of} 'T' \ $1 %s %(x)s B"]
    assert harness.drift()[0] == 0


def test_names_with_a_percent_sign_can_be_used(harness: Harness) -> None:
    harness.execute('CREATE TABLE "100%" ("key%s" int, "k%%" text, "body%(x)s" text, PRIMARY KEY ("key%s", "k%%"))')
    harness.execute("""INSERT INTO "100%" VALUES (1, 'a', 'one'), (2, 'b', 'two')""")
    harness.ok("attach", '"100%"', "--text", "body%(x)s")
    harness.once()
    harness.execute("""UPDATE "100%" SET "body%(x)s" = 'changed' WHERE "key%s" = 1""")
    harness.execute("""DELETE FROM "100%" WHERE "key%s" = 2""")
    harness.once()
    harness.assert_in_step('"body%(x)s"', "100%")
    assert "changed" in harness.ok("search", "100%", "changed")
    harness.ok("status", "100%")
    harness.ok("detach", "100%", "--yes")


def test_detach_of_what_is_not_there_says_what_there_is(harness: Harness) -> None:
    harness.articles()
    assert "attach a table first" in harness.refused("detach", "articles", "--yes")
    harness.ok("attach", "articles", "--text", "body")
    assert "there are: articles" in harness.refused("detach", "other", "--yes")


def test_detach_keeps_everything_while_something_depends_on_the_view(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("CREATE VIEW mine AS SELECT id FROM qwen_embed.articles")
    before = harness.catalog()
    assert "something of yours depends on it" in harness.refused("detach", "articles", "--yes")
    assert harness.catalog() == before


def test_detach_asks_first(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    result = harness.cli("detach", "articles")
    assert result.exit_code == 1
    assert harness.embedding().name == "articles"


def test_two_embeddings_of_one_table_are_independent(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, body text)")
    harness.execute("INSERT INTO articles VALUES (1, 'title', 'body')")
    harness.ok("attach", "articles", "--text", "title", "--name", "titles")
    harness.ok("attach", "articles", "--text", "body", "--name", "bodies", "--store", "column", "--dimensions", "4")
    harness.once()
    harness.execute("UPDATE articles SET title = 'other'")
    assert (harness.count("outbox", "titles"), harness.count("outbox", "bodies")) == (1, 0)
    harness.once()
    harness.assert_in_step("title", "titles")
    harness.ok("detach", "titles", "--yes")
    harness.execute("UPDATE articles SET body = 'other'")
    harness.once()
    harness.assert_in_step("body", "bodies")


def test_column_of_a_partitioned_table_is_rejected(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    assert "leave --store column out" in harness.refused("attach", "articles", "--text", "body", "--store", "column")


def test_database_that_lost_the_extension_is_reported_and_can_be_cleaned_up(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("DROP EXTENSION vector CASCADE")
    assert "the extension vector was dropped" in harness.ok("status")
    harness.cli("doctor", "--json")
    assert "the extension vector was dropped" in harness.refused("verify", "articles")
    harness.ok("detach", "articles", "--yes")
