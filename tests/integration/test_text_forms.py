"""Columns of every type in a document: one text, whatever a session is set to."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from harness import Harness

PAGE = Path(__file__).parents[2] / "docs" / "querying.md"
HOSTILE = {
    "datestyle": "German", "timezone": "Asia/Kolkata", "intervalstyle": "sql_standard", "bytea_output": "escape",
    "extra_float_digits": "-15", "lc_monetary": "C", "search_path": "",
}  # fmt: skip
SETUP = """
    CREATE SCHEMA ext;
    CREATE TYPE address AS (street text, since timestamptz, size float8);
    CREATE TABLE place (name text, opened date);
    CREATE TYPE mood AS ENUM ('calm', 'angry');
    CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN late_moment AS moment; CREATE DOMAIN tags AS text[];
    CREATE DOMAIN share AS float8;
"""

# As the extensions would, which are not installed here. They are text inside.
for NAME in ("hstore", "ltree", "citext", "shape"):
    SETUP += f"""
        CREATE TYPE ext.{NAME};
        CREATE FUNCTION ext.{NAME}_in(cstring) RETURNS ext.{NAME} LANGUAGE internal IMMUTABLE STRICT AS 'textin';
        CREATE FUNCTION ext.{NAME}_out(ext.{NAME}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
        CREATE TYPE ext.{NAME} (INPUT = ext.{NAME}_in, OUTPUT = ext.{NAME}_out, LIKE = text);
    """


def forms() -> list[tuple[str, str, str]]:
    """Type, value and text of each row of the table in the documentation."""
    table = PAGE.read_text().partition("| type | value | in the document |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`` (.+?) ``|`([^`]+)`", line) for line in table.splitlines()[2:]]
    return [(one[0] or one[1], two[0] or two[1], three[0] or three[1]) for one, two, three in rows]


def hostile(harness: Harness) -> psycopg.Connection[tuple[object, ...]]:
    """A session of an application, with other settings than ours."""
    connection = harness.connect()
    for name, value in HOSTILE.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    return connection


def attach_forms(harness: Harness, *options: str) -> list[str]:
    """A table with a column for each documented type, and its row. Returns the texts in the document."""
    harness.execute(SETUP)
    known = forms()
    columns = ", ".join(f"c{n} {type_}" for n, (type_, _, _) in enumerate(known))
    harness.execute(f"CREATE TABLE articles (id bigint PRIMARY KEY, {columns})")
    harness.execute(f"INSERT INTO articles VALUES (1, {', '.join(value for _, value, _ in known)})")
    harness.execute("INSERT INTO articles (id) VALUES (2)")
    template = "\n".join(f"{{c{n}}}" for n in range(len(known)))
    for name, value in HOSTILE.items():
        harness.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {harness.connection.info.dbname} SET {name} = '{value}'")
    harness.ok("attach", "public.articles", "--template", template, *options)
    return [text for _, _, text in known]


@pytest.mark.parametrize("postgres_version", [16, 18], indirect=True)
@pytest.mark.parametrize("options", [[], ["--store", "column"], ["--chunk-tokens", "10000"]])
@pytest.mark.long
def test_each_type_has_the_documented_text_in_every_session(harness: Harness, options: list[str]) -> None:
    texts = attach_forms(harness, *options)
    harness.once()
    assert harness.server.texts[-1].split("\n") == texts
    query = "SELECT id, stale FROM qwen_embed.articles"
    assert hostile(harness).execute(query).fetchall() == harness.rows(query) == [(1, False)]
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    # An UPDATE that changes nothing appends nothing; one of any of the columns does.
    for n in range(len(texts)):
        harness.execute(f"UPDATE articles SET c{n} = c{n}")
    assert harness.count("outbox") == 0
    for n in range(len(texts)):
        harness.execute(f"UPDATE articles SET c{n} = NULL WHERE id = 1")
    assert harness.count("outbox") == len(texts)
    harness.once()
    assert harness.count("failure") == 0


@pytest.mark.long
def test_each_column_alone_has_its_text(harness: Harness) -> None:
    harness.execute(SETUP)
    for n, (type_, value, text) in enumerate(forms()):
        if type_ not in ("timestamptz", "bytea", "date", "address", "real", "date[]"):
            continue
        harness.execute(f"CREATE TABLE articles_{n} (id bigint PRIMARY KEY, body {type_})")
        harness.execute(f"INSERT INTO articles_{n} VALUES (1, {value}), (2, NULL)")
        harness.ok("attach", f"articles_{n}", "--text", "body")
        harness.once()
        assert harness.server.texts[-1] == text
        assert harness.count("failure", f"articles_{n}") == 0


@pytest.mark.parametrize("type_", ["regclass", "regrole[]"])
def test_a_name_of_another_object_is_not_accepted_with_the_reason(harness: Harness, type_: str) -> None:
    harness.execute(f"CREATE TABLE articles (id bigint PRIMARY KEY, body {type_})")
    sentence = harness.refused("attach", "articles", "--text", "body")
    assert "is of type" in sentence
    assert "name of an object of the database" in sentence


@pytest.mark.parametrize("postgres_version", [16, 18], indirect=True)
def test_an_update_never_makes_a_text_to_see_whether_it_changed(harness: Harness) -> None:
    """As text this JSON has more than 1 GB, which PostgreSQL does not make."""
    long = "[" + ",".join(["1e131071"] * 8400) + "]"
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body jsonb)")
    harness.execute("INSERT INTO articles VALUES (1, %s)", long)
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = %s", long)
    assert harness.count("outbox") == 0
    harness.execute("UPDATE articles SET body = body || '[1]'")
    assert harness.count("outbox") == 1


@pytest.mark.parametrize("postgres_version", [16, 18], indirect=True)
@pytest.mark.long
def test_triggers_on_columns_of_any_type_are_restored_from_a_dump(harness: Harness) -> None:
    harness.execute(SETUP)
    harness.execute(
        "CREATE TABLE articles (id bigint PRIMARY KEY, c0 ext.citext, c1 jsonb, c2 address, c3 ext.hstore, c4 place, c5 date, "
        "c6 char(3))"
    )
    harness.ok("attach", "articles", "--template", "{c0}{c1}{c2}{c3}{c4}{c5}{c6}")
    harness.execute(
        "INSERT INTO articles VALUES (1, 'A', '{}', ROW('x', now(), 1.5), 'a=>1', ROW('y', now()), now(), 'z')"
    )
    harness.once()
    tool = Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    dump = subprocess.run([tool / "pg_dump", harness.url], capture_output=True, check=True).stdout
    harness.execute("CREATE DATABASE copy TEMPLATE template0")
    copy = psycopg.conninfo.make_conninfo(harness.url, dbname="copy")
    try:
        subprocess.run(
            [tool / "psql", "-v", "ON_ERROR_STOP=1", "-q", copy], input=dump, capture_output=True, check=True
        )
        with psycopg.connect(copy, autocommit=True) as connection:
            connection.execute("""UPDATE public.articles SET c2 = ROW('x', now() + '1 day', 1.5)""")
            connection.execute("UPDATE public.articles SET c0 = 'a'")
            assert connection.execute("SELECT count(*) FROM _qwen_embed.outbox_1").fetchone() == (2,)
    finally:
        harness.execute("DROP DATABASE copy")


@pytest.mark.parametrize("condition", ["old.body::text IS DISTINCT FROM new.body::text", "false", None])
def test_a_trigger_with_another_condition_is_found_and_restored(harness: Harness, condition: str | None) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body jsonb, title text)")
    harness.ok("attach", "articles", "--text", "title", "--text", "body")
    assert "trigger" not in harness.ok("status", "articles")
    harness.execute("DROP TRIGGER qwen_embed_update_1 ON articles")
    when = f"WHEN ({condition})" if condition else ""
    harness.execute(f"""CREATE TRIGGER qwen_embed_update_1 AFTER UPDATE OF title, body ON articles FOR EACH ROW {when}
                        EXECUTE FUNCTION _qwen_embed.follow_update_1()""")
    harness.execute("ALTER TABLE articles ENABLE ALWAYS TRIGGER qwen_embed_update_1")
    assert "trigger" in harness.cli("status", "articles").output
    harness.ok("verify", "articles", "--repair")
    assert "record_image_ne" in harness.value(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'qwen_embed_update_1'"
    )
    assert "trigger" not in harness.ok("status", "articles")


def test_an_embedding_of_floats_from_before_is_given_the_text_that_no_session_changes(harness: Harness) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body float8)")
    harness.execute("INSERT INTO articles VALUES (1, 0.1::float8 + 0.2::float8)")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("""CREATE OR REPLACE FUNCTION _qwen_embed.document_1(body float8) RETURNS text
                       LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC SELECT body::text; END""")
    harness.once()
    assert hostile(harness).execute("SELECT stale FROM qwen_embed.articles").fetchall() == [(True,)]
    assert "the document function" in harness.ok("init")
    assert hostile(harness).execute("SELECT stale FROM qwen_embed.articles").fetchall() == [(False,)]
    assert "created again" not in harness.ok("init")
