"""What a newcomer meets in the first hour: declarations that are repeated, rights, health checks, and wrong connections."""

import psycopg
import pytest
from harness import Harness, both_versions

DECLARED = ("attach", "articles", "--text", "body", "--name", "art", "--if-not-exists")


@pytest.fixture
def attached(harness: Harness) -> Harness:
    harness.articles("one", "two")
    harness.ok(*DECLARED)
    return harness


def test_a_declaration_that_is_repeated_changes_nothing_and_needs_no_server(attached: Harness) -> None:
    before = attached.catalog()
    assert "attached already, as declared" in attached.ok(
        *DECLARED, env={"PG_QWEN_EMBED_SERVER_URL": "http://127.0.0.1:1/v1"}
    )
    assert attached.catalog() == before


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--dimensions", "8"], "dimensions is 16, and was declared as 8"),
        (["--distance", "l2"], "distance is 'cosine', and was declared as 'l2'"),
        (["--model", "x/y"], "model is 'stand-in', and was declared as 'x/y'"),
        (["--chunk-tokens", "64"], "chunking is None"),
        (["--store", "column"], "store is 'table'"),
        (["--column", "vec"], "column is 'embedding', and was declared as 'vec'"),
        (["--view-columns", "body"], "view columns is"),
        (["--text", "id"], "template is"),
        (["--comment", "x"], "comment is ''"),
    ],
)
def test_another_declaration_of_that_name_says_what_differs(attached: Harness, added: list[str], said: str) -> None:
    before = attached.catalog()
    refusal = attached.refused(*DECLARED, *added)
    assert said in refusal
    assert "nothing was changed" in refusal
    assert attached.catalog() == before


def test_another_table_under_that_name_says_so(attached: Harness) -> None:
    attached.execute("CREATE TABLE others (id bigint PRIMARY KEY, body text)")
    assert "table is 'public.articles', and was declared as 'public.others'" in attached.refused(
        "attach", "others", "--text", "body", "--name", "art", "--if-not-exists"
    )


def unhealthy(harness: Harness, *arguments: str) -> str:
    """What a command that has printed its report says on stderr, with exit status 1."""
    result = harness.cli(*arguments)
    assert (result.exit_code, "Traceback" in result.stderr) == (1, False)
    assert result.stdout
    return result.stderr


@both_versions
def test_a_role_that_attach_grants_to_searches_with_sql_and_with_the_client(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.execute('CREATE ROLE "odd reader" LOGIN')
    harness.ok("attach", "articles", "--text", "body", "--grant-to", "odd reader")
    harness.once()
    with psycopg.connect(harness.url) as connection:
        connection.execute('SET ROLE "odd reader"')
        rows = connection.execute(
            "SELECT id FROM qwen_embed.articles JOIN articles USING (id) ORDER BY embedding <=> embedding LIMIT 5"
        ).fetchall()
        registry = connection.execute("SELECT name FROM _qwen_embed.embedding").fetchall()
    assert sorted(rows) == [(1,), (2,)]
    assert registry == [("articles",)]


def test_a_role_that_is_not_there_leaves_nothing_created(harness: Harness) -> None:
    harness.articles("one")
    before = harness.catalog()
    refusal = harness.refused("attach", "articles", "--text", "body", "--grant-to", "nobody_here")
    assert 'role "nobody_here" does not exist; nothing was created' in refusal
    assert harness.catalog() == before


def test_status_is_a_health_check(attached: Harness) -> None:
    attached.once()
    attached.ok("status", "--max-lag", "60", "--max-pending", "0")
    attached.execute("UPDATE articles SET body = body || ' changed'")
    assert "art: 2 changes pending, above 1" in unhealthy(attached, "status", "--max-pending", "1")
    assert "above 0 s" in unhealthy(attached, "status", "art", "--max-lag", "0")
    attached.once()
    attached.ok("status", "--max-lag", "0", "--max-pending", "0")


def test_a_health_check_fails_for_what_is_not_followed(attached: Harness) -> None:
    attached.execute("DROP TABLE articles CASCADE")
    assert "art: " in unhealthy(attached, "status", "--max-pending", "1000")


def test_backfill_says_at_once_that_no_worker_follows(attached: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_qwen_embed.admin.backfill.NO_WORKER_TIMEOUT", 0.0)
    said = unhealthy(attached, "backfill", "art")
    assert said.index("no worker follows it yet; if none is starting, start one: pg-qwen-embed worker") < said.index(
        "no worker has been"
    )


def test_a_database_that_does_not_exist_is_not_a_server_that_does_not_answer(harness: Harness) -> None:
    url = psycopg.conninfo.make_conninfo(harness.url, dbname="no_such_database")
    said = harness.refused("status", env={"PG_QWEN_EMBED_DATABASE_URL": url})
    assert 'PostgreSQL rejects the connection: database "no_such_database" does not exist; check the name' in said
    assert "does not answer" not in said


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("jdbc:postgresql://localhost/app", "starts with jdbc:"),
        ("postgresql://u:p4ssw0rd-long@localhost/app?pgbouncer=true", "the parameter pgbouncer"),
        ("postgresql://localhost/app?sslmode=disable&schema=public", "the parameter schema"),
    ],
)
def test_a_url_of_another_library_is_named_where_it_is_wrong(harness: Harness, url: str, named: str) -> None:
    said = harness.refused("status", env={"PG_QWEN_EMBED_DATABASE_URL": url})
    assert named in said
    assert "p4ssw0rd" not in said
