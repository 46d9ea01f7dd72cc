"""A database made from a dump of the schema alone: triggers without an embedding. Also one that a newer release set up."""

import subprocess
from pathlib import Path

import psycopg
import pytest
from harness import Cluster, Harness, both_versions

from pg_qwen_embed import Client
from pg_qwen_embed.postgres import leftovers, migrate

LAYOUTS = {"articles": (), "in_column": ("--store", "column"), "chunked": ("--chunk-tokens", "64")}


def copy_schema(source: Harness, target: str) -> None:
    """As a test database is made from structure.sql: no rows, no owners, no rights."""
    tools = Path(source.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    options = ["--schema-only", "--no-owner", "--no-privileges"]
    dump = subprocess.run([tools / "pg_dump", *options, source.url], capture_output=True, check=True).stdout
    psql = [tools / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", target]
    subprocess.run(psql, input=dump, capture_output=True, check=True)


@pytest.fixture
def copied(harness: Harness, bare: Harness) -> Harness:
    """A copy of the schema of a database with an embedding in each layout."""
    harness.articles()
    for name, options in LAYOUTS.items():
        harness.ok("attach", "articles", "--text", "body", "--name", name, "--column", name, *options)
    copy_schema(harness, bare.url)
    return bare


@both_versions
def test_copy_of_the_schema_takes_changes_and_init_makes_it_ready_for_attach(
    copied: Harness, postgres: Cluster
) -> None:
    copied.execute("INSERT INTO articles (id, body) VALUES (1, 'one'), (2, 'two')")
    copied.execute("UPDATE articles SET body = 'changed' WHERE id = 1; DELETE FROM articles WHERE id = 2")
    assert "objects on public.articles of generation 1" in copied.cli("doctor").stdout
    for command in (("attach", "articles", "--text", "body"), ("detach", "articles", "--yes")):
        assert "run: pg-qwen-embed init" in copied.refused(*command)
    assert copied.ok("init").count("removed") == len(LAYOUTS)
    assert "already at version" in copied.ok("init")

    with postgres.database() as url, psycopg.connect(url) as fresh:
        fresh.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text, views int NOT NULL DEFAULT 0)")
        fresh.commit()
        other = Harness(url, copied.server, copied.folder, copied.stack)
        named = [row[:4] for row in other.catalog()]
        other.connection.close()
    assert [row[:4] for row in copied.catalog()] == named

    copied.ok("attach", "articles", "--text", "body")
    copied.once()
    copied.execute("INSERT INTO articles (id, body) VALUES (3, 'three')")
    copied.once()
    copied.assert_in_step()


@pytest.mark.long
def test_init_tells_the_revision_of_a_copy_of_the_schema(bare: Harness) -> None:
    bare.execute("CREATE EXTENSION vector")
    for revision in migrate.revisions()[1:]:
        migrate.upgrade(bare.url, revision)
        bare.execute("DELETE FROM _qwen_embed.alembic_version")
        migrate.upgrade(bare.url, revision)
        assert bare.value("SELECT version_num FROM _qwen_embed.alembic_version") == revision
        bare.execute("DELETE FROM _qwen_embed.alembic_version")
        assert "installed version" in bare.ok("init")
        bare.downgrade("base")


def test_what_others_own_or_use_is_kept_with_a_sentence(copied: Harness) -> None:
    role = f"other_{copied.value('SELECT current_database()')}"
    copied.execute(f"CREATE ROLE {role} LOGIN")
    url = copied.url.replace("user=postgres", f"user={role}")
    with psycopg.connect(url) as connection:
        copied.execute(f"GRANT USAGE ON SCHEMA _qwen_embed TO {role}; GRANT SELECT ON _qwen_embed.generation TO {role}")
        owners = {name for left in leftovers.remains(connection) for name in left.foreign_owners}
    assert owners == {"postgres"}
    copied.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    chunked = "_qwen_embed.store_3"
    copied.execute(f"INSERT INTO {chunked} (k1, chunk, version) VALUES (1, 1, 1)")
    copied.execute("CREATE VIEW mine AS SELECT id FROM qwen_embed.articles")
    said = copied.cli("init").output
    assert 'run: TRUNCATE "_qwen_embed"."store_3"' in said
    assert "something of yours depends on them" in said
    assert said.count("removed") == 1
    copied.execute(f"TRUNCATE {chunked}; DROP VIEW mine")
    assert copied.ok("init").count("removed") == 2


def test_database_of_a_newer_release_is_one_sentence_from_every_command(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("UPDATE _qwen_embed.alembic_version SET version_num = '9999'")
    for command in (
        ("init",), ("attach", "articles", "--text", "body", "--name", "again"), ("detach", "articles", "--yes"), ("status",),
        ("backfill", "articles"), ("verify", "articles"), ("failures", "list", "articles"), ("failures", "retry", "articles"),
        ("worker", "--once"),
    ):  # fmt: skip
        assert "set up by a newer pg_qwen_embed" in harness.refused(*command), command
    assert "set up by a newer pg_qwen_embed" in harness.cli("doctor").stdout
    with Client(
        harness.url, server_url=harness.server.url
    ) as client:  # an application whose next release is on the way
        assert [hit.row["body"] for hit in client.search("articles", "one")] == ["one"]


def test_properties_of_a_newer_release_are_one_sentence(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute('UPDATE _qwen_embed.generation SET spec = spec || \'{"pooling": "mean"}\'')
    for command in (("status",), ("search", "articles", "one"), ("worker", "--once")):
        assert "articles was attached by a newer pg_qwen_embed" in harness.refused(*command), command
