"""The team that owns the source migrates it: its statements do what they would do without an embedding."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed.postgres.locks import Lock

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
@pytest.mark.long
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
@pytest.mark.long
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
    "outbox altered": ("ALTER TABLE _qwen_embed.outbox_1 RENAME k1 TO kk", "its outbox was dropped"),
    "view": ("DROP VIEW qwen_embed.articles CASCADE", "the view qwen_embed.articles"),
    "triggers": ("DROP FUNCTION _qwen_embed.follow_insert_1 CASCADE", "1 of its 5 triggers are missing"),
    "view altered": ("ALTER VIEW qwen_embed.articles SET (security_invoker = false)", "not as created"),
}


@LAYOUTS
@pytest.mark.parametrize("what", DROPPED)
@pytest.mark.long
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
def test_extension_that_was_dropped_and_created_again_costs_the_vectors_and_nothing_else(
    attached: Attached, layout: list[str]
) -> None:
    harness = attached(layout)
    worker = harness.worker("--poll", "0.2")
    eventually(lambda: "leader pg_qwen" in harness.ok("status", "articles"))
    harness.execute("DROP EXTENSION vector CASCADE")
    assert "the extension vector was dropped; run: pg-qwen-embed init, and then" in harness.ok("status", "articles")
    harness.execute("INSERT INTO articles (id, title, body) VALUES (3, 'three', 'the application goes on')")
    harness.execute("CREATE EXTENSION vector")
    assert "was dropped; run: pg-qwen-embed verify articles --repair" in harness.ok("status", "articles").replace(
        "were", "was"
    )
    assert "restored: the " in harness.ok("verify", "articles", "--repair")
    eventually(lambda: harness.settled() and harness.drift()[0] == 0)
    harness.assert_in_step("concat(title, ': ', body)")
    assert "warning" not in harness.ok("status", "articles")
    assert worker.popen.poll() is None


@LAYOUTS
def test_column_that_was_dropped_and_added_again_is_followed_after_a_repair(
    attached: Attached, layout: list[str]
) -> None:
    harness = attached(layout)
    harness.execute("ALTER TABLE articles DROP COLUMN body CASCADE")
    assert "once the column is there again" in harness.refused("verify", "articles", "--repair")
    harness.execute("ALTER TABLE articles ADD COLUMN body text")
    harness.execute("UPDATE articles SET body = 'written again' WHERE id = 1")
    assert "restored: " in harness.ok("verify", "articles", "--repair")
    harness.execute("UPDATE articles SET body = 'and changed' WHERE id = 2")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")
    assert "warning" not in harness.ok("status", "articles")


@LAYOUTS
def test_table_that_was_dropped_and_made_again_is_followed_and_keeps_the_vectors(
    attached: Attached, layout: list[str]
) -> None:
    harness = attached(layout)
    harness.execute("CREATE TABLE articles_new (id bigint PRIMARY KEY, body text, title text)")
    harness.execute("INSERT INTO articles_new SELECT id, body, title FROM articles")
    harness.execute("DROP TABLE articles CASCADE; ALTER TABLE articles_new RENAME TO articles")
    kept = 0 if "column" in layout else 2
    assert f"{kept} rows keep their vectors" in harness.ok("alter", "articles", "--table", "articles")
    harness.once()
    harness.execute("INSERT INTO articles VALUES (3, 'third', 'three')")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")
    assert "warning" not in harness.ok("status", "articles")


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


ALTERED = {
    "type of an embedded column": ("ALTER TABLE articles ALTER COLUMN body TYPE varchar(200)", []),
    "type with other text": (
        "ALTER TABLE articles ALTER COLUMN body TYPE varchar(3) USING left(body, 3)",
        ["one: fir", "two: sec"],
    ),
    "renamed": ("ALTER TABLE articles RENAME COLUMN body TO content", []),
    "swapped": (
        "ALTER TABLE articles ADD COLUMN body_new varchar(99); UPDATE articles SET body_new = body WHERE id = 1; "
        "UPDATE articles SET body_new = 'other' WHERE id = 2; ALTER TABLE articles DROP COLUMN body; "
        "ALTER TABLE articles RENAME COLUMN body_new TO body",
        ["two: other"],
    ),
    "type of the key": ("ALTER TABLE articles ALTER COLUMN id TYPE bigint", []),
    "nothing": ("SELECT 1", []),
}


@LAYOUTS
@pytest.mark.parametrize("what", ALTERED)
@pytest.mark.long
def test_embedded_column_is_altered_and_only_documents_that_changed_are_embedded_again(
    attached: Attached, layout: list[str], what: str
) -> None:
    harness = attached(layout)
    role = f"reader_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {role}")
    try:
        harness.execute(f"GRANT SELECT ON qwen_embed.articles TO {role}")
        command, again = ALTERED[what]
        asked = len(harness.server.texts)
        assert "altered" in harness.ok("alter", "articles", "--sql", command)
        harness.once()
        assert sorted(harness.server.texts[asked:]) == again
        body = "content" if what == "renamed" else "body"
        harness.execute(f"UPDATE articles SET {body} = 'new' WHERE id = 1")
        harness.execute(f"INSERT INTO articles (id, title, {body}) VALUES (3, 'three', 'new')")
        harness.once()
        harness.assert_in_step(f"concat(title, ': ', {body})")
        assert "warning" not in harness.ok("status", "articles")
        assert harness.value("SELECT has_table_privilege(%s, 'qwen_embed.articles', 'SELECT')", role)
    finally:
        harness.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@LAYOUTS
@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("int", "bigint", "5000000000"),
        ("int", "numeric", "2.5"),
        ("int", "text", "'a longer key'"),
        ("varchar(4)", "varchar(40)", "'a longer key'"),
        ("numeric(4,1)", "numeric(12,3)", "99999.555"),
    ],
)
@pytest.mark.long
def test_key_of_another_type_is_followed_in_that_type(
    harness: Harness, layout: list[str], before: str, after: str, new: str
) -> None:
    harness.execute(f"CREATE TABLE articles (id {before} PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles VALUES (1, 'one'), (2, 'two')")
    harness.ok("attach", "articles", "--text", "body", *layout)
    harness.once()
    asked = len(harness.server.texts)
    harness.ok("alter", "articles", "--sql", f"ALTER TABLE articles ALTER COLUMN id TYPE {after}")
    harness.execute(f"INSERT INTO articles VALUES ({new}, 'new')")
    harness.execute("UPDATE articles SET body = 'changed' WHERE body = 'one'")
    harness.once()
    assert set(harness.server.texts[asked:]) == {"new", "changed"}
    harness.assert_in_step()
    assert "warning" not in harness.ok("status", "articles")


def test_key_column_that_is_replaced_by_one_of_another_type_is_reported_and_followed(attached: Attached) -> None:
    harness = attached([])
    harness.execute(
        "ALTER TABLE articles ADD id2 uuid DEFAULT gen_random_uuid(); ALTER TABLE articles DROP COLUMN id CASCADE"
    )
    harness.execute("ALTER TABLE articles RENAME id2 TO id; ALTER TABLE articles ADD PRIMARY KEY (id)")
    harness.execute("INSERT INTO articles (title, body) VALUES ('three', 'the application goes on')")
    assert "the key of public.articles has another type now; run: pg-qwen-embed alter articles --rekey" in harness.ok(
        "status"
    )
    harness.ok("alter", "articles", "--rekey")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")


def test_all_embeddings_of_the_table_make_way_for_a_statement(attached: Attached) -> None:
    harness = attached([])
    harness.ok("attach", "articles", "--text", "body", "--name", "bodies", "--chunk-tokens", "64")
    harness.once()
    asked = len(harness.server.texts)
    harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER COLUMN body TYPE varchar(99)")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    harness.once()
    assert set(harness.server.texts[asked:]) == {"changed", "one: changed"}
    harness.assert_in_step("concat(title, ': ', body)")
    harness.assert_in_step("body", "bodies")


def test_column_of_the_users_is_never_taken_for_the_one_of_vectors(attached: Attached) -> None:
    harness = attached(["--store", "column"])
    harness.execute("CREATE TABLE other (id int PRIMARY KEY, title text, body text, embedding text)")
    assert 'has a column "embedding" already' in harness.refused("alter", "articles", "--table", "other")
    harness.execute("ALTER TABLE other RENAME embedding TO mine")
    harness.ok("alter", "articles", "--table", "other")
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'articles'::regclass AND attname = 'embedding'"
    assert harness.rows(columns) == []


def test_view_that_was_renamed_by_hand_is_restored(attached: Attached) -> None:
    harness = attached(["--chunk-tokens", "64"])
    harness.execute("ALTER VIEW qwen_embed.articles RENAME TO moved")
    assert "restored: the view qwen_embed.articles" in harness.ok("verify", "articles", "--repair")
    assert "warning" not in harness.ok("status", "articles")
    assert "one" in harness.ok("search", "articles", "one: first", "--limit", "1")


def test_row_of_the_backfill_that_was_deleted_is_reported_and_restored(attached: Attached) -> None:
    harness = attached([])
    harness.execute("DELETE FROM _qwen_embed.backfill")
    assert "the row of its backfill was deleted; run: pg-qwen-embed verify" in harness.ok("status")
    harness.ok("verify", "articles", "--repair")
    harness.once()
    assert "warning" not in harness.ok("status", "articles")
    harness.assert_in_step("concat(title, ': ', body)")


def test_renames_in_a_chain_are_followed_by_number(attached: Attached) -> None:
    harness = attached(["--view-columns", "title,note"])
    names = ("title", "t"), ("body", "title"), ("note", "body")
    chain = "; ".join(f"ALTER TABLE articles RENAME {old} TO {new}" for old, new in names)
    harness.ok("alter", "articles", "--sql", chain)
    harness.execute("UPDATE articles SET title = 'changed' WHERE id = 1")
    harness.once()
    harness.assert_in_step("concat(t, ': ', title)")
    assert harness.rows("SELECT title, note FROM qwen_embed.articles ORDER BY id") == [("one", "n"), ("two", "n")]


def test_key_column_with_the_former_name_of_an_embedded_one_is_one_sentence(attached: Attached) -> None:
    harness = attached([])
    harness.execute("ALTER TABLE articles RENAME body TO content")
    harness.execute("ALTER TABLE articles ADD body text; UPDATE articles SET body = 'key' || id")
    harness.execute("ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (body)")
    assert "rename the key column first" in harness.refused("alter", "articles", "--rekey")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ALTER TABLE articles ALTER COLUMN nix TYPE int", 'column "nix" of relation "articles" does not exist'),
        ("ALTER TABLE articles DROP COLUMN body", "a column it embeds was dropped"),
        ("ALTER TABLE articles DROP COLUMN id", "has no primary key"),
        ("DROP TABLE articles", "its table was dropped"),
        ("ALTER TABLE articles ADD x int; COMMIT", "leave BEGIN, COMMIT and ROLLBACK out"),
        ("nonsense", "syntax error"),
    ],
)
def test_statement_that_cannot_be_is_one_sentence_and_changes_nothing(
    attached: Attached, command: str, said: str
) -> None:
    harness = attached([])
    before = sorted(map(str, harness.catalog()))
    assert said in harness.refused("alter", "articles", "--sql", command)
    assert sorted(map(str, harness.catalog())) == before
    harness.execute("INSERT INTO articles (id, title, body) VALUES (3, 'three', 'third')")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")


REKEYED = {
    "wider": (
        ["ADD tenant int NOT NULL DEFAULT 0", "DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (tenant, id)"],
        "tenant, id",
        "INSERT INTO articles (tenant, id, title, body) VALUES (1, 1, 'other', 'tenant'), (2, 2, 'two', 'second')",
        {"other: tenant"},
    ),
    "swapped for bigint": (
        [
            "ADD id_new bigint", "DROP CONSTRAINT articles_pkey", "RENAME COLUMN id TO id_old", "RENAME COLUMN id_new TO id",
        ],
        "id",
        "UPDATE articles SET id = id_old; ALTER TABLE articles ADD PRIMARY KEY (id), ALTER COLUMN id_old DROP NOT NULL; "
        "INSERT INTO articles (id, title, body) VALUES (5000000000, 'large', 'key')",
        {"large: key"},
    ),
    "another column": (
        ["ADD code text", "DROP CONSTRAINT articles_pkey"],
        "code",
        "UPDATE articles SET code = 'c' || id; ALTER TABLE articles ADD PRIMARY KEY (code)",
        set(),
    ),
}  # fmt: skip


@LAYOUTS
@pytest.mark.parametrize("what", REKEYED)
@pytest.mark.long
def test_another_key_is_followed_and_keeps_the_vectors(attached: Attached, layout: list[str], what: str) -> None:
    harness = attached(layout)
    changes, key, further, new = REKEYED[what]
    for change in changes:
        harness.execute(f"ALTER TABLE articles {change}")
    harness.execute(further)
    said = harness.refused("verify", "articles")
    assert said.endswith("run: pg-qwen-embed alter articles --rekey")
    asked = len(harness.server.texts)
    assert f"follows ({key})" in harness.ok("alter", "articles", "--rekey")
    harness.once()
    if not layout or "--chunk-tokens" in layout:
        assert set(harness.server.texts[asked:]) == new
    harness.execute("UPDATE articles SET body = 'changed' WHERE title = 'one'")
    harness.execute("DELETE FROM articles WHERE title = 'two'")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")
    assert "warning" not in harness.ok("status", "articles")
    assert "already" in harness.refused("alter", "articles", "--rekey")


@LAYOUTS
@pytest.mark.long
def test_table_that_took_the_place_of_another_is_reported_and_followed(attached: Attached, layout: list[str]) -> None:
    harness = attached(layout)
    harness.execute("CREATE TABLE articles_new (id bigint PRIMARY KEY, body text, title text)")
    harness.execute("INSERT INTO articles_new SELECT id, body, title FROM articles")
    harness.execute("INSERT INTO articles_new VALUES (3, 'third', 'three')")
    harness.execute("ALTER TABLE articles RENAME TO articles_old; ALTER TABLE articles_new RENAME TO articles")
    advice = "pg-qwen-embed alter articles --table public.articles"
    assert f"follows public.articles_old, and there is another table public.articles; if that took its place, run: {advice}" \
        in harness.ok("status", "articles")  # fmt: skip
    assert advice in harness.cli("doctor").stdout
    asked = len(harness.server.texts)
    kept = 0 if "column" in layout else 2
    assert f"{kept} rows keep their vectors" in harness.ok("alter", "articles", "--table", "public.articles")
    harness.once()
    assert len(set(harness.server.texts[asked:])) == 3 - kept
    assert "index valid" in harness.ok("status", "articles")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    harness.execute("DROP TABLE articles_old")
    harness.once()
    harness.assert_in_step("concat(title, ': ', body)")
    assert "warning" not in harness.ok("status", "articles")
    assert "already" in harness.refused("alter", "articles", "--table", "articles")


def test_generation_that_cannot_be_taken_on_is_taken_on_later_and_the_worker_goes_on(attached: Attached) -> None:
    harness = attached([])
    with harness.connect(autocommit=False) as holder:
        holder.execute("SELECT FROM _qwen_embed.generation FOR UPDATE")
        worker = harness.worker("--poll", "0.2")
        eventually(lambda: "not_followed embedding=articles" in worker.said)
    harness.execute("UPDATE articles SET body = 'changed'")
    eventually(lambda: harness.settled() and harness.drift()[0] == 0)
    assert worker.popen.poll() is None
    assert "Traceback" not in worker.said


def test_running_worker_follows_another_key_in_its_session(attached: Attached) -> None:
    harness = attached([])
    worker = harness.worker("--poll", "0.2")
    eventually(lambda: "leader pg_qwen" in harness.ok("status", "articles"))
    harness.execute("ALTER TABLE articles ADD tenant int NOT NULL DEFAULT 0")
    harness.execute("ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (tenant, id)")
    harness.ok("alter", "articles", "--rekey")
    harness.execute("INSERT INTO articles (tenant, id, title, body) VALUES (1, 1, 'other', 'tenant')")
    eventually(lambda: harness.settled() and harness.drift()[0] == 0)
    harness.assert_in_step("concat(title, ': ', body)")
    assert "was restored" not in worker.said


@LAYOUTS
def test_table_that_takes_the_place_may_have_the_columns_present_names(attached: Attached, layout: list[str]) -> None:
    harness = attached(layout)
    harness.execute("ALTER TABLE articles RENAME COLUMN body TO content")
    harness.execute("CREATE TABLE articles_new (id int PRIMARY KEY, content text, title text)")
    harness.execute("INSERT INTO articles_new SELECT id, content, title FROM articles")
    harness.execute("ALTER TABLE articles RENAME TO articles_old; ALTER TABLE articles_new RENAME TO articles")
    harness.ok("alter", "articles", "--table", "public.articles")
    harness.execute("UPDATE articles SET content = 'changed' WHERE id = 1")
    harness.once()
    harness.assert_in_step("concat(title, ': ', content)")


def test_rekey_that_was_interrupted_is_reported_and_goes_on(attached: Attached) -> None:
    harness = attached([])
    harness.execute("ALTER TABLE articles ADD tenant int NOT NULL DEFAULT 0")
    harness.execute("ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (tenant, id)")
    waiting = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE wait_event = 'advisory' AND datname = current_database()"
    )
    with harness.connect(autocommit=False) as writer, ThreadPoolExecutor() as threads:
        writer.execute("SELECT pg_advisory_xact_lock_shared(%s, 1)", (int(Lock.STORE),))
        said = threads.submit(harness.cli, "alter", "articles", "--rekey")
        assert eventually(lambda: harness.rows(waiting)) == [(True,)]
        assert said.result().exit_code == 1
    assert "is being exchanged" in harness.ok("status", "articles")
    harness.execute("INSERT INTO articles (id, title, body) VALUES (3, 'three', 'meanwhile')")
    asked = len(harness.server.texts)
    assert "2 rows keep their vectors" in harness.ok("alter", "articles", "--rekey")
    harness.once()
    assert set(harness.server.texts[asked:]) == {"three: meanwhile"}
    harness.assert_in_step("concat(title, ': ', body)")
