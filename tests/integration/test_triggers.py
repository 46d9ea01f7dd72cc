"""What the triggers append to the outbox: every change of a document by any role, and nothing else."""

import psycopg
import pytest
from harness import Harness, both_versions, eventually

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
def attached(harness: Harness) -> Harness:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, body text, views int NOT NULL DEFAULT 0)")
    harness.execute("INSERT INTO articles SELECT n, 'title', 'body' FROM generate_series(1, 3) n")
    harness.ok("attach", "articles", "--text", "title", "--text", "body")
    return harness


def appended(harness: Harness) -> list[int | None]:
    """The keys in the outbox, in order."""
    return [key for (key,) in harness.rows(f"SELECT k1 FROM {harness.internal('outbox')} ORDER BY seq")]


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
    attached: Harness, change: str, keys: list[int | None]
) -> None:
    attached.execute(change)
    assert sorted(appended(attached), key=lambda key: key or 0) == keys


def test_copy_appends_the_keys_of_its_rows(attached: Harness) -> None:
    with attached.connection.cursor().copy("COPY articles (id, body) FROM STDIN") as copy:
        copy.write_row((4, "four"))
        copy.write_row((5, None))
    assert appended(attached) == [4, 5]


def test_a_change_that_is_rolled_back_appends_nothing(attached: Harness) -> None:
    with attached.connection.transaction(force_rollback=True):
        attached.execute("UPDATE articles SET body = 'other'")
    assert appended(attached) == []


@pytest.mark.superuser
def test_changes_of_replication_and_of_a_restore_are_followed(attached: Harness) -> None:
    attached.execute("SET session_replication_role = replica")
    attached.execute("UPDATE articles SET body = 'other' WHERE id = 2")
    attached.execute("INSERT INTO articles VALUES (4, 'a', 'b')")
    assert appended(attached) == [2, 4]


def test_the_writers_search_path_does_not_matter(attached: Harness) -> None:
    attached.execute("SET search_path = ''")
    attached.execute("UPDATE public.articles SET body = 'other' WHERE id = 2")
    assert appended(attached) == [2]


@pytest.mark.superuser
@both_versions
def test_a_change_of_case_alone_is_seen_where_equality_ignores_case(harness: Harness) -> None:
    harness.execute(CASELESS)
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body caseless)")
    harness.execute("INSERT INTO articles VALUES (1, 'text'::text)")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("UPDATE articles SET body = 'TEXT'::text")
    assert appended(harness) == [1]


def test_a_change_of_case_alone_is_seen_under_a_nondeterministic_collation(harness: Harness) -> None:
    try:
        harness.execute("CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL is built without ICU")
    harness.execute("CREATE TABLE articles (id text COLLATE caseless PRIMARY KEY, body text COLLATE caseless)")
    harness.execute("INSERT INTO articles VALUES ('key', 'text')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("UPDATE articles SET body = 'TEXT'")
    harness.once()
    harness.assert_in_step()


@both_versions
@pytest.mark.parametrize("kind", ["numeric", "text[]", "jsonb", "varchar(20)"])
def test_texts_are_compared_as_they_are_written(harness: Harness, kind: str) -> None:
    old, new = {"numeric": ("1.0", "1.00"), "text[]": ("{a,b}", "{a,c}"), "jsonb": ('{"a": 1.0}', '{"a": 1.00}'),
                "varchar(20)": ("a", "a ")}[kind]  # fmt: skip
    harness.execute(f"CREATE TABLE articles (id int PRIMARY KEY, body {kind})")
    harness.execute(f"INSERT INTO articles VALUES (1, '{old}')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute(f"UPDATE articles SET body = '{new}'")
    harness.once()
    harness.assert_in_step("body::text")


@both_versions
def test_what_a_before_trigger_changes_is_seen(harness: Harness) -> None:
    harness.articles("text")
    harness.execute("CREATE FUNCTION count_views() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN NEW.body := 'seen ' || NEW.views; RETURN NEW; END $$")  # fmt: skip
    harness.execute("CREATE TRIGGER t BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION count_views()")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("UPDATE articles SET views = 7")
    assert appended(harness) == [1]
    harness.once()
    assert [text for text, _ in harness.vectors()] == ["seen 7"]
    harness.assert_in_step()


def test_a_generated_column_is_followed(harness: Harness) -> None:
    harness.execute(
        "CREATE TABLE articles (id int PRIMARY KEY, a text, both_ text GENERATED ALWAYS AS (a || '!') STORED)"
    )
    harness.ok("attach", "articles", "--text", "both_")
    harness.execute("INSERT INTO articles VALUES (1, 'one')")
    harness.once()
    harness.execute("UPDATE articles SET a = 'two'")
    harness.once()
    harness.assert_in_step("both_")
    assert [text for text, _ in harness.vectors("both_")] == ["two!"]


@both_versions
def test_a_partitioned_source_is_followed_whatever_the_change_is_aimed_at(harness: Harness) -> None:
    harness.execute(
        "CREATE TABLE articles (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)"
    )
    harness.execute("CREATE TABLE one PARTITION OF articles FOR VALUES IN (1)")
    harness.execute("CREATE TABLE two PARTITION OF articles FOR VALUES IN (2)")
    harness.execute("INSERT INTO articles VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'c'), (4, 1, 'd')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("INSERT INTO two VALUES (5, 2, 'e')")
    harness.execute("UPDATE one SET body = 'changed' WHERE id = 1")
    harness.execute("DELETE FROM one WHERE id = 3")
    harness.execute("UPDATE articles SET part = 2 WHERE id = 4")
    harness.once()
    harness.assert_in_step()
    assert harness.count("store") == 4


@both_versions
@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.long
def test_partitions_that_are_attached_detached_or_dropped_are_followed(harness: Harness, alive: bool) -> None:
    harness.execute(
        "CREATE TABLE articles (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)"
    )
    harness.execute("CREATE TABLE one PARTITION OF articles FOR VALUES IN (1)")
    harness.execute("CREATE TABLE two PARTITION OF articles FOR VALUES IN (2)")
    harness.execute("CREATE TABLE three (id int, part int, body text, PRIMARY KEY (id, part))")
    harness.execute("INSERT INTO articles VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'c')")
    harness.execute("INSERT INTO three VALUES (1, 3, 'd'), (2, 3, 'e')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    if alive:
        harness.worker("--poll", "0.2")

    def followed() -> bool:
        if not alive:
            harness.once()
        return bool(
            harness.drift()[0] == 0 and harness.count("store") == harness.value("SELECT count(*) FROM articles")
        )

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
        harness.execute(change)
        eventually(followed)
        assert harness.count("store") == left
    harness.execute("INSERT INTO articles VALUES (1, 4, 'f')")
    eventually(followed)
    harness.assert_in_step()


def test_rows_of_an_attached_partition_that_are_locked_are_looked_at_again(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, views int) PARTITION BY RANGE (id)")
    harness.execute("CREATE TABLE one (LIKE articles INCLUDING ALL); INSERT INTO one VALUES (1, 'old')")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("ALTER TABLE articles ATTACH PARTITION one FOR VALUES FROM (1) TO (9)")
    with harness.connect(autocommit=False) as writer:
        writer.execute("UPDATE articles SET views = 1")
        harness.once()
        writer.commit()
    harness.once()
    harness.assert_in_step()


def test_partition_changed_while_detached_is_followed_where_no_backfill_was_asked_for(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    harness.execute("CREATE TABLE one PARTITION OF articles FOR VALUES FROM (1) TO (9)")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("INSERT INTO articles VALUES (1, 'one')")
    harness.once()
    harness.execute(
        "ALTER TABLE articles DETACH PARTITION one; UPDATE one SET body = 'two'; INSERT INTO one VALUES (2, 'new')"
    )
    harness.execute("ALTER TABLE articles ATTACH PARTITION one FOR VALUES FROM (1) TO (9)")
    harness.once()
    assert harness.drift()[1] == {"missing": 1, "stale": 0, "orphaned": 0}
    assert harness.server.texts == ["one", "two"]


@pytest.mark.parametrize("kin", ["partition of another table", "parent of other tables"])
def test_table_that_becomes_kin_of_others_is_reported(harness: Harness, kin: str) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text)")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    if "partition" in kin:
        harness.execute("CREATE TABLE parent (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
        harness.execute("ALTER TABLE parent ATTACH PARTITION articles DEFAULT")
    else:
        harness.execute("CREATE TABLE child () INHERITS (articles)")
    assert f"public.articles has become a {kin}" in harness.ok("status").replace("the parent", "a parent")
    harness.once()
    harness.ok("detach", "articles", "--yes")


def test_partition_that_is_attached_is_not_embedded_where_no_backfill_was_asked_for(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    harness.execute("CREATE TABLE one (id int PRIMARY KEY, body text); INSERT INTO one VALUES (1, 'old')")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("ALTER TABLE articles ATTACH PARTITION one FOR VALUES FROM (1) TO (9)")
    harness.once()
    harness.execute("INSERT INTO articles VALUES (2, 'new')")
    harness.once()
    assert harness.server.texts == ["new"]


@both_versions
def test_many_changes_of_a_row_cost_one_embedding(harness: Harness) -> None:
    harness.articles(*["start"] * 10)
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.server.texts.clear()
    for n in range(200):
        harness.execute("UPDATE articles SET body = id || ' ' || %s", n)
    harness.once()
    assert sorted(harness.server.texts) == sorted(f"{n} 199" for n in range(1, 11))
    harness.assert_in_step()


@pytest.mark.superuser
@both_versions
def test_the_applications_role_needs_nothing_but_its_own_table(harness: Harness) -> None:
    role = f"app_{harness.url.rpartition('test_')[2].split()[0].strip(chr(39))}"
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute(f"CREATE ROLE {role}")
    try:
        harness.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON articles TO {role}")
        application = harness.connect()
        application.execute(f"SET ROLE {role}")
        application.execute("INSERT INTO articles VALUES (2, 'two'), (3, 'three')")
        application.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
        application.execute("UPDATE articles SET id = 30 WHERE id = 3")
        application.execute("DELETE FROM articles WHERE id = 2")
        for forbidden in (
            "TABLE _qwen_embed.embedding",
            f"TABLE {harness.internal('outbox')}",
            "TABLE qwen_embed.articles",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute(forbidden)
        assert len(appended(harness)) == 6
        harness.once()
        harness.assert_in_step()
        application.execute("TRUNCATE articles")
        harness.once()
        assert harness.count("store") == 0
        application.close()
    finally:
        harness.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_trigger_function_cannot_be_put_on_another_table_by_anyone(harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    granted = (
        "SELECT proname FROM pg_proc WHERE proname LIKE 'follow%%' AND has_function_privilege('pg_monitor', oid, %s)"
    )
    assert harness.rows(granted, "execute") == []


def test_the_settings_of_the_writers_session_do_not_change_the_document(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body float8)")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("SET extra_float_digits = 0")
    harness.execute("INSERT INTO articles VALUES (1, 0.1::float8 + 0.2::float8)")
    harness.once()
    assert harness.drift()[0] == 0
    harness.execute("RESET extra_float_digits")
    assert eventually(lambda: harness.rows("SELECT stale FROM qwen_embed.articles")) == [(False,)]
