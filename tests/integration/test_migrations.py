"""The team that owns the source migrates it: its statements do what they would do without an embedding."""

from collections.abc import Callable

import pytest
from harness import Harness, both_versions, eventually

LAYOUTS = pytest.mark.parametrize(
    "layout", [[], ["--store", "column"], ["--chunk-tokens", "64"]], ids=["table", "column", "chunked"]
)
Attached = Callable[[list[str]], Harness]


@pytest.fixture
def attached(harness: Harness) -> Attached:
    """A source of two rows with their vectors, and columns that are not embedded."""

    def attach(layout: list[str]) -> Harness:
        harness.execute(
            "CREATE TABLE articles (unused int, id int PRIMARY KEY, title text, body text, price int, note text)"
        )
        harness.execute("INSERT INTO articles VALUES (0, 1, 'one', 'first', 1, 'n'), (0, 2, 'two', 'second', 2, 'n')")
        harness.ok("attach", "articles", "--template", "{title}: {body}", *layout)
        harness.once()
        return harness

    return attach


@both_versions
@LAYOUTS
def test_columns_that_are_not_embedded_can_be_altered_as_without_an_embedding(
    attached: Attached, layout: list[str]
) -> None:
    harness = attached(layout)
    asked = len(harness.server.texts)
    for migration in (
        "ALTER TABLE articles ALTER COLUMN price TYPE bigint",
        "ALTER TABLE articles ALTER COLUMN note TYPE varchar(5) USING left(note, 5)",
        "ALTER TABLE articles DROP COLUMN unused",
        "ALTER TABLE articles ADD COLUMN t text NOT NULL DEFAULT 'x', ADD COLUMN stale boolean DEFAULT random() > 2",
        "ALTER TABLE articles ADD COLUMN number bigserial, ADD COLUMN other int GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE articles ADD COLUMN sum bigint GENERATED ALWAYS AS (price * 2) STORED",
        "ALTER TABLE articles RENAME COLUMN note TO s",
        "ALTER TABLE articles DROP COLUMN price CASCADE",
        "ALTER TABLE articles SET UNLOGGED",
        "CREATE INDEX ON articles (s)",
    ):
        harness.execute(migration)
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 2")
    harness.once()
    assert harness.server.texts[asked:] == ["two: changed"]
    harness.assert_in_step("concat(title, ': ', body)")
    assert "warning" not in harness.ok("status", "articles")


@LAYOUTS
def test_no_function_with_a_parsed_body_takes_a_tables_row(attached: Attached, layout: list[str]) -> None:
    """Releases with the fix of CVE-2026-6460 would fail an ALTER TABLE .. ADD COLUMN .. DEFAULT."""
    harness = attached(layout)
    assert harness.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_type t ON t.oid = ANY (p.proargtypes::oid[]) "
        "WHERE t.typrelid <> 0 AND p.prosqlbody IS NOT NULL AND p.pronamespace::regnamespace::text ~ 'qwen_embed'"
    ) == []  # fmt: skip


@both_versions
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_statements_of_every_kind_are_followed_after_the_key_was_renamed_and_before_anybody_noticed(
    harness: Harness, partitioned: bool
) -> None:
    by = " PARTITION BY HASH (lang, id)" if partitioned else ""
    harness.execute(f"CREATE TABLE articles (lang text, id int, body text, PRIMARY KEY (lang, id)){by}")
    if partitioned:
        harness.execute("CREATE TABLE part PARTITION OF articles FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    harness.execute("INSERT INTO articles VALUES ('de', 1, 'one'), ('de', 2, 'two'), ('de', 3, 'three')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    session = harness.connect()  # its trigger functions are planned by the old names
    session.execute("INSERT INTO articles VALUES ('de', 4, 'four')")
    harness.execute("ALTER TABLE articles RENAME COLUMN id TO number")
    session.execute("INSERT INTO articles VALUES ('zh', 1, 'new'), ('zh', 2, 'newer')")
    session.execute("UPDATE articles SET body = 'changed' WHERE number = 1")
    session.execute("UPDATE articles SET number = 20 WHERE number = 2 AND lang = 'de'")
    session.execute("DELETE FROM articles WHERE number = 3")
    assert harness.count("outbox") == 1 + 2 + 2 + 2 + 1
    harness.once()
    assert {text for text, _ in harness.vectors()} == {"changed", "newer", "two", "four"}
    assert harness.drift()[0] == 0
    assert "triggers are missing, disabled or out of date" in harness.ok("status", "articles")
    assert "restored: the triggers" in harness.ok("verify", "articles", "--repair")
    assert "warning" not in harness.ok("status", "articles")


def test_renamed_column_is_embedded_and_searched_under_its_new_name(attached: Attached) -> None:
    harness = attached(["--view-columns", "body"])
    harness.execute("ALTER TABLE articles RENAME COLUMN body TO content")
    harness.execute("UPDATE articles SET content = 'changed' WHERE id = 1")
    harness.once()
    harness.assert_in_step("concat(title, ': ', content)")
    assert harness.rows("SELECT body FROM qwen_embed.articles ORDER BY id") == [("changed",), ("second",)]
    assert "content" in harness.ok("search", "articles", "one", "--json")


DROPPED = {
    "outbox": ("DROP TABLE _qwen_embed.outbox_1", "its outbox was dropped"),
    "store": ("DROP TABLE _qwen_embed.store_1 CASCADE", "its store was dropped"),
    "failures": ("DROP TABLE _qwen_embed.failure_1", "its failure table was dropped"),
    "document function": ("DROP FUNCTION _qwen_embed.document_1 CASCADE", "its document function was dropped"),
    "view": ("DROP VIEW qwen_embed.articles CASCADE", "the view qwen_embed.articles"),
    "triggers": ("DROP FUNCTION _qwen_embed.follow_insert_1 CASCADE", "1 of its 5 triggers are missing"),
    "view altered": ("ALTER VIEW qwen_embed.articles SET (security_invoker = false)", "not as created"),
}


@LAYOUTS
@pytest.mark.parametrize("what", DROPPED)
def test_what_was_dropped_or_altered_by_hand_is_reported_and_restored_with_its_grants(
    attached: Attached, layout: list[str], what: str
) -> None:
    harness = attached(layout)
    session = harness.connect()  # its trigger functions are planned
    session.execute("UPDATE articles SET body = 'first again' WHERE id = 1")
    session.execute("INSERT INTO articles (id, title, body) VALUES (4, 'four', 'fourth')")
    role = f"reader_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {role}")
    try:
        harness.execute(f"GRANT SELECT ON qwen_embed.articles, _qwen_embed.store_1 TO {role}")
        harness.once()  # a worker sees the grants
        before = sorted(map(str, harness.catalog()))
        drop, said = DROPPED[what]
        harness.execute(drop)
        session.execute("INSERT INTO articles (id, title, body) VALUES (3, 'three', 'the application goes on')")
        session.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
        session.execute("UPDATE articles SET id = 5 WHERE id = 4")
        session.execute("DELETE FROM articles WHERE id = 5")
        assert said in harness.ok("status", "articles")
        assert said in harness.cli("doctor").stdout
        assert "restored: the " in harness.ok("verify", "articles", "--repair")
        rights = "SELECT has_table_privilege(%s, oid, 'SELECT') FROM unnest(%s::regclass[]) AS oid"
        assert harness.rows(rights, role, ["qwen_embed.articles", "_qwen_embed.store_1"]) == [(True,), (True,)]
        harness.once()
        harness.assert_in_step("concat(title, ': ', body)")
        assert "warning" not in harness.ok("status", "articles")
        assert sorted(map(str, harness.catalog())) == before
    finally:
        harness.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_column_of_vectors_that_was_dropped_is_restored_and_filled(attached: Attached) -> None:
    harness = attached(["--store", "column"])
    harness.execute("ALTER TABLE articles DROP COLUMN embedding CASCADE")
    assert "its column of vectors was dropped" in harness.ok("status", "articles")
    harness.ok("verify", "articles", "--repair")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")


@LAYOUTS
def test_primary_key_that_got_wider_is_noticed_and_nothing_wrong_is_written(
    attached: Attached, layout: list[str]
) -> None:
    harness = attached(layout)
    worker = harness.worker("--poll", "0.2")
    eventually(lambda: "leader pg_qwen" in harness.ok("status", "articles"))
    before = harness.rows("SELECT id, embedding::text FROM qwen_embed.articles ORDER BY id")
    harness.execute("ALTER TABLE articles ADD tenant int NOT NULL DEFAULT 0")
    harness.execute("ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (tenant, id)")
    harness.execute("INSERT INTO articles (tenant, id, title, body) VALUES (1, 1, 'other', 'tenant')")
    said = "the primary key of public.articles has changed to (tenant, id)"
    assert said in harness.ok("status", "articles")
    assert said in harness.cli("doctor").stdout
    eventually(lambda: "left" in worker.said)
    assert harness.rows("SELECT s.k1, count(*) FROM _qwen_embed.store_1 s GROUP BY 1 ORDER BY 1") == [(1, 1), (2, 1)]
    assert "other: tenant" not in harness.server.texts
    shown = harness.rows("SELECT id, embedding::text FROM qwen_embed.articles WHERE NOT stale ORDER BY id")
    assert shown == before
    assert f"articles: {said}; run: pg-qwen-embed alter articles --rekey" == harness.refused("verify", "articles")
