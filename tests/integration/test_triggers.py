"""What the triggers append to the outbox: every change of a document, nothing else, whoever makes it."""

import psycopg
import pytest
from harness import Rig, both_versions, eventually

# A type whose equality ignores case, as citext's does (citext itself is not part of every server).
CASELESS = """
CREATE TYPE caseless;
CREATE FUNCTION caseless_in(cstring) RETURNS caseless LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION caseless_out(caseless) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE caseless (INPUT = caseless_in, OUTPUT = caseless_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (caseless AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS caseless) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION caseless_eq(caseless, caseless) RETURNS bool LANGUAGE sql IMMUTABLE AS
    $$ SELECT lower($1::text) = lower($2::text) $$;
CREATE OPERATOR = (LEFTARG = caseless, RIGHTARG = caseless, FUNCTION = caseless_eq);
"""


@pytest.fixture
def attached(rig: Rig) -> Rig:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, body text, views int NOT NULL DEFAULT 0)")
    rig.execute("INSERT INTO articles SELECT n, 'title', 'body' FROM generate_series(1, 3) n")
    rig.ok("attach", "articles", "--text", "title", "--text", "body")
    return rig


def appended(rig: Rig) -> list[int | None]:
    """The keys in the outbox, in order."""
    return [key for (key,) in rig.rows(f"SELECT k1 FROM {rig.machinery('outbox')} ORDER BY seq")]


@both_versions
@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ("INSERT INTO articles VALUES (4, 'a', 'b'), (5, 'c', 'd')", [4, 5]),
        ("INSERT INTO articles VALUES (4, NULL, NULL)", [4]),
        ("UPDATE articles SET body = 'other' WHERE id < 3", [1, 2]),
        ("UPDATE articles SET title = NULL WHERE id = 3", [3]),
        ("UPDATE articles SET body = 'other', views = 1 WHERE id = 1", [1]),
        ("DELETE FROM articles WHERE id > 1", [2, 3]),
        ("TRUNCATE articles", [None]),
        ("UPDATE articles SET id = 10 WHERE id = 1", [1, 10]),
        ("UPDATE articles SET id = 10, body = 'other' WHERE id = 1", [1, 10, 10]),
        ("INSERT INTO articles VALUES (1, 'x', 'y') ON CONFLICT (id) DO UPDATE SET body = excluded.body", [1]),
        ("INSERT INTO articles VALUES (1, 'x', 'y') ON CONFLICT DO NOTHING", []),
        ("MERGE INTO articles a USING (VALUES (3), (4)) v(id) ON a.id = v.id WHEN MATCHED THEN DELETE"
         " WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'a', 'b')", [3, 4]),
        ("WITH gone AS (DELETE FROM articles WHERE id = 1 RETURNING *) INSERT INTO articles SELECT 7, 'a', 'b' FROM gone",
         [1, 7]),
        ("UPDATE articles SET views = views + 1", []),
        ("UPDATE articles SET body = body, title = 'title', id = id", []),
        ("DELETE FROM articles WHERE id = 99", []),
        ("ALTER TABLE articles ADD COLUMN extra int DEFAULT 5", []),
    ],
)  # fmt: skip
def test_a_change_appends_the_keys_of_changed_documents_only(
    attached: Rig, change: str, keys: list[int | None]
) -> None:
    attached.execute(change)
    assert sorted(appended(attached), key=lambda key: key or 0) == keys


def test_copy_appends_the_keys_of_its_rows(attached: Rig) -> None:
    with attached.connection.cursor().copy("COPY articles (id, body) FROM STDIN") as copy:
        copy.write_row((4, "four"))
        copy.write_row((5, None))
    assert appended(attached) == [4, 5]


def test_a_change_that_is_rolled_back_appends_nothing(attached: Rig) -> None:
    with attached.connection.transaction(force_rollback=True):
        attached.execute("UPDATE articles SET body = 'other'")
    assert appended(attached) == []


def test_changes_of_replication_and_of_a_restore_are_followed(attached: Rig) -> None:
    attached.execute("SET session_replication_role = replica")
    attached.execute("UPDATE articles SET body = 'other' WHERE id = 2")
    attached.execute("INSERT INTO articles VALUES (4, 'a', 'b')")
    assert appended(attached) == [2, 4]


def test_the_writers_search_path_does_not_matter(attached: Rig) -> None:
    attached.execute("SET search_path = ''")
    attached.execute("UPDATE public.articles SET body = 'other' WHERE id = 2")
    assert appended(attached) == [2]


@both_versions
def test_a_change_of_case_alone_is_seen_where_equality_ignores_case(rig: Rig) -> None:
    rig.execute(CASELESS)
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body caseless)")
    rig.execute("INSERT INTO articles VALUES (1, 'text'::text)")
    rig.ok("attach", "articles", "--text", "body")
    rig.execute("UPDATE articles SET body = 'TEXT'::text")
    assert appended(rig) == [1]


def test_a_change_of_case_alone_is_seen_under_a_nondeterministic_collation(rig: Rig) -> None:
    try:
        rig.execute("CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL is built without ICU")
    rig.execute("CREATE TABLE articles (id text COLLATE caseless PRIMARY KEY, body text COLLATE caseless)")
    rig.execute("INSERT INTO articles VALUES ('key', 'text')")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.execute("UPDATE articles SET body = 'TEXT'")
    rig.once()
    rig.assert_in_step()


@both_versions
@pytest.mark.parametrize("kind", ["numeric", "text[]", "jsonb", "varchar(20)"])
def test_texts_are_compared_as_they_are_written(rig: Rig, kind: str) -> None:
    old, new = {"numeric": ("1.0", "1.00"), "text[]": ("{a,b}", "{a,c}"), "jsonb": ('{"a": 1.0}', '{"a": 1.00}'),
                "varchar(20)": ("a", "a ")}[kind]  # fmt: skip
    rig.execute(f"CREATE TABLE articles (id int PRIMARY KEY, body {kind})")
    rig.execute(f"INSERT INTO articles VALUES (1, '{old}')")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.execute(f"UPDATE articles SET body = '{new}'")
    rig.once()
    rig.assert_in_step("body::text")


@both_versions
def test_what_a_before_trigger_changes_is_seen(rig: Rig) -> None:
    rig.articles("text")
    rig.execute("CREATE FUNCTION count_views() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN NEW.body := 'seen ' || NEW.views; RETURN NEW; END $$")  # fmt: skip
    rig.execute("CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION count_views()")
    rig.ok("attach", "articles", "--text", "body")
    rig.execute("UPDATE articles SET views = 7")
    assert appended(rig) == [1]
    rig.once()
    assert [text for text, _ in rig.vectors()] == ["seen 7"]
    rig.assert_in_step()


def test_a_generated_column_is_followed(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, a text, both_ text GENERATED ALWAYS AS (a || '!') STORED)")
    rig.ok("attach", "articles", "--text", "both_")
    rig.execute("INSERT INTO articles VALUES (1, 'one')")
    rig.once()
    rig.execute("UPDATE articles SET a = 'two'")
    rig.once()
    rig.assert_in_step("both_")
    assert [text for text, _ in rig.vectors("both_")] == ["two!"]


@both_versions
def test_a_partitioned_source_is_followed_whatever_the_change_is_aimed_at(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)")
    rig.execute("CREATE TABLE one PARTITION OF articles FOR VALUES IN (1)")
    rig.execute("CREATE TABLE two PARTITION OF articles FOR VALUES IN (2)")
    rig.execute("INSERT INTO articles VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'c'), (4, 1, 'd')")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.execute("INSERT INTO two VALUES (5, 2, 'e')")
    rig.execute("UPDATE one SET body = 'changed' WHERE id = 1")
    rig.execute("DELETE FROM one WHERE id = 3")
    rig.execute("UPDATE articles SET part = 2 WHERE id = 4")
    rig.once()
    rig.assert_in_step()
    assert rig.count("store") == 4


@both_versions
@pytest.mark.parametrize("alive", [True, False])
def test_partitions_that_are_attached_detached_or_dropped_are_followed(rig: Rig, alive: bool) -> None:
    rig.execute("CREATE TABLE articles (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)")
    rig.execute("CREATE TABLE one PARTITION OF articles FOR VALUES IN (1)")
    rig.execute("CREATE TABLE two PARTITION OF articles FOR VALUES IN (2)")
    rig.execute("CREATE TABLE three (id int, part int, body text, PRIMARY KEY (id, part))")
    rig.execute("INSERT INTO articles VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'c')")
    rig.execute("INSERT INTO three VALUES (1, 3, 'd'), (2, 3, 'e')")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    if alive:
        rig.worker("--poll", "0.2")

    def followed() -> bool:
        if not alive:
            rig.once()
        return bool(rig.drift()[0] == 0 and rig.count("store") == rig.value("SELECT count(*) FROM articles"))

    for change, left in (
        ("ALTER TABLE articles ATTACH PARTITION three FOR VALUES IN (3)", 5),
        ("ALTER TABLE articles DETACH PARTITION one", 3),
        ("DROP TABLE two", 2),
        ("CREATE TABLE four PARTITION OF articles FOR VALUES IN (4)", 2),
        (
            "ALTER TABLE articles DETACH PARTITION three; UPDATE three SET body = 'loaded'; DELETE FROM three WHERE id = 2; "
            "ALTER TABLE articles ATTACH PARTITION three FOR VALUES IN (3)",
            1,
        ),
    ):
        rig.execute(change)
        eventually(followed)
        assert rig.count("store") == left
    rig.execute("INSERT INTO articles VALUES (1, 4, 'f')")
    eventually(followed)
    rig.assert_in_step()


def test_rows_of_an_attached_partition_that_are_locked_are_looked_at_again(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, views int) PARTITION BY RANGE (id)")
    rig.execute("CREATE TABLE one (LIKE articles INCLUDING ALL); INSERT INTO one VALUES (1, 'old')")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.execute("ALTER TABLE articles ATTACH PARTITION one FOR VALUES FROM (1) TO (9)")
    with rig.connect(autocommit=False) as writer:
        writer.execute("UPDATE articles SET views = 1")
        rig.once()
        writer.commit()
    rig.once()
    rig.assert_in_step()


def test_partition_changed_while_detached_is_followed_where_no_backfill_was_asked_for(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    rig.execute("CREATE TABLE one PARTITION OF articles FOR VALUES FROM (1) TO (9)")
    rig.ok("attach", "articles", "--text", "body", "--no-backfill")
    rig.execute("INSERT INTO articles VALUES (1, 'one')")
    rig.once()
    rig.execute(
        "ALTER TABLE articles DETACH PARTITION one; UPDATE one SET body = 'two'; INSERT INTO one VALUES (2, 'new')"
    )
    rig.execute("ALTER TABLE articles ATTACH PARTITION one FOR VALUES FROM (1) TO (9)")
    rig.once()
    assert rig.drift()[1] == {"missing": 1, "stale": 0, "orphaned": 0}
    assert rig.server.texts == ["one", "two"]


@pytest.mark.parametrize("kin", ["partition of another table", "parent of other tables"])
def test_table_that_becomes_kin_of_others_is_reported(rig: Rig, kin: str) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    if "partition" in kin:
        rig.execute("CREATE TABLE parent (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
        rig.execute("ALTER TABLE parent ATTACH PARTITION articles DEFAULT")
    else:
        rig.execute("CREATE TABLE child () INHERITS (articles)")
    assert f"public.articles has become a {kin}" in rig.ok("status").replace("the parent", "a parent")
    rig.once()
    rig.ok("detach", "articles", "--yes")


def test_partition_that_is_attached_is_not_embedded_where_no_backfill_was_asked_for(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    rig.execute("CREATE TABLE one (id int PRIMARY KEY, body text); INSERT INTO one VALUES (1, 'old')")
    rig.ok("attach", "articles", "--text", "body", "--no-backfill")
    rig.execute("ALTER TABLE articles ATTACH PARTITION one FOR VALUES FROM (1) TO (9)")
    rig.once()
    rig.execute("INSERT INTO articles VALUES (2, 'new')")
    rig.once()
    assert rig.server.texts == ["new"]


@both_versions
def test_many_changes_of_a_row_cost_one_embedding(rig: Rig) -> None:
    rig.articles(*["start"] * 10)
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.server.texts.clear()
    for n in range(200):
        rig.execute("UPDATE articles SET body = id || ' ' || %s", n)
    rig.once()
    assert sorted(rig.server.texts) == sorted(f"{n} 199" for n in range(1, 11))
    rig.assert_in_step()


@both_versions
def test_the_applications_role_needs_nothing_but_its_own_table(rig: Rig) -> None:
    role = f"app_{rig.url.rpartition('test_')[2].split()[0].strip(chr(39))}"
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body")
    rig.execute(f"CREATE ROLE {role}")
    try:
        rig.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON articles TO {role}")
        application = rig.connect()
        application.execute(f"SET ROLE {role}")
        application.execute("INSERT INTO articles VALUES (2, 'two'), (3, 'three')")
        application.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
        application.execute("UPDATE articles SET id = 30 WHERE id = 3")
        application.execute("DELETE FROM articles WHERE id = 2")
        for forbidden in (
            "TABLE _qwen_embed.embedding",
            f"TABLE {rig.machinery('outbox')}",
            "TABLE qwen_embed.articles",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute(forbidden)
        assert len(appended(rig)) == 6
        rig.once()
        rig.assert_in_step()
        application.execute("TRUNCATE articles")
        rig.once()
        assert rig.count("store") == 0
        application.close()
    finally:
        rig.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_trigger_function_cannot_be_put_on_another_table_by_anyone(rig: Rig) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body")
    granted = (
        "SELECT proname FROM pg_proc WHERE proname LIKE 'follow%%' AND has_function_privilege('pg_monitor', oid, %s)"
    )
    assert rig.rows(granted, "execute") == []


def test_the_settings_of_the_writers_session_do_not_change_the_document(rig: Rig) -> None:
    rig.execute("CREATE TABLE articles (id int PRIMARY KEY, body float8)")
    rig.ok("attach", "articles", "--text", "body")
    rig.execute("SET extra_float_digits = 0")
    rig.execute("INSERT INTO articles VALUES (1, 0.1::float8 + 0.2::float8)")
    rig.once()
    assert rig.drift()[0] == 0
    rig.execute("RESET extra_float_digits")
    assert eventually(lambda: rig.rows("SELECT stale FROM qwen_embed.articles")) == [(False,)]
