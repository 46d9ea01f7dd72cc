"""Nothing that `attach` creates depends on search_path, nor on the name of a schema."""

import subprocess
from pathlib import Path

import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed import Client

LAYOUTS = {"articles": (), "in_column": ("--store", "column"), "chunked": ("--chunk-tokens", "64")}

# A type as an extension brings it (ltree, citext): its operators are in its own schema.
OWN_TYPE = """
CREATE SCHEMA kinds;
CREATE TYPE kinds.path;
CREATE FUNCTION kinds.path_in(cstring) RETURNS kinds.path IMMUTABLE STRICT LANGUAGE internal AS 'textin';
CREATE FUNCTION kinds.path_out(kinds.path) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'textout';
CREATE TYPE kinds.path (input = kinds.path_in, output = kinds.path_out, like = text);
CREATE FUNCTION kinds.lt(kinds.path, kinds.path) RETURNS bool IMMUTABLE STRICT LANGUAGE sql AS
    'SELECT ($1::text COLLATE "C") OPERATOR(pg_catalog.<) ($2::text COLLATE "C")';
CREATE FUNCTION kinds.eq(kinds.path, kinds.path) RETURNS bool IMMUTABLE STRICT LANGUAGE sql AS
    'SELECT ($1::text COLLATE "C") OPERATOR(pg_catalog.=) ($2::text COLLATE "C")';
CREATE FUNCTION kinds.gt(kinds.path, kinds.path) RETURNS bool IMMUTABLE STRICT LANGUAGE sql AS
    'SELECT ($1::text COLLATE "C") OPERATOR(pg_catalog.>) ($2::text COLLATE "C")';
CREATE FUNCTION kinds.le(kinds.path, kinds.path) RETURNS bool IMMUTABLE STRICT LANGUAGE sql AS
    'SELECT ($1::text COLLATE "C") OPERATOR(pg_catalog.<=) ($2::text COLLATE "C")';
CREATE FUNCTION kinds.ge(kinds.path, kinds.path) RETURNS bool IMMUTABLE STRICT LANGUAGE sql AS
    'SELECT ($1::text COLLATE "C") OPERATOR(pg_catalog.>=) ($2::text COLLATE "C")';
CREATE FUNCTION kinds.cmp(kinds.path, kinds.path) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS
    'SELECT pg_catalog.bttextcmp($1::text COLLATE "C", $2::text COLLATE "C")';
CREATE OPERATOR kinds.< (leftarg = kinds.path, rightarg = kinds.path, function = kinds.lt);
CREATE OPERATOR kinds.<= (leftarg = kinds.path, rightarg = kinds.path, function = kinds.le);
CREATE OPERATOR kinds.= (leftarg = kinds.path, rightarg = kinds.path, function = kinds.eq, hashes, merges);
CREATE OPERATOR kinds.>= (leftarg = kinds.path, rightarg = kinds.path, function = kinds.ge);
CREATE OPERATOR kinds.> (leftarg = kinds.path, rightarg = kinds.path, function = kinds.gt);
CREATE OPERATOR CLASS kinds.path_ops DEFAULT FOR TYPE kinds.path USING btree AS
    OPERATOR 1 kinds.<, OPERATOR 2 kinds.<=, OPERATOR 3 kinds.=, OPERATOR 4 kinds.>=, OPERATOR 5 kinds.>,
    FUNCTION 1 kinds.cmp(kinds.path, kinds.path);
"""


@both_versions
@pytest.mark.long
def test_pgvector_may_move_to_another_schema_while_all_runs(harness: Harness) -> None:
    harness.articles("one", "two")
    for name, options in LAYOUTS.items():
        harness.ok("attach", "articles", "--text", "body", "--name", name, "--column", name, *options)
    worker = harness.worker("--poll", "1")
    eventually(lambda: all(harness.settled(name) for name in LAYOUTS))
    with Client(harness.url, server_url=harness.server.url) as client:
        for name in LAYOUTS:
            assert client.search(name, "two", limit=1)[0].row["body"] == "two"
        harness.execute("CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
        harness.execute("UPDATE articles SET body = 'three' WHERE id = 1")
        for name in LAYOUTS:
            assert client.search(name, "two", limit=1)[0].row["body"] == "two"
            eventually(lambda name=name: client.search(name, "three", limit=1)[0].row["body"] == "three")  # type: ignore[misc]
    for name in LAYOUTS:
        eventually(lambda name=name: harness.settled(name))  # type: ignore[misc]
        assert harness.drift(name)[0] == 0
        assert harness.count("failure", name) == 0
    harness.connection.execute("SET search_path = pg_catalog")  # nobody names the schema of pgvector
    ((found, *_),) = harness.rows(
        "SELECT chunk_text FROM qwen_embed.chunked((SELECT chunked FROM qwen_embed.chunked WHERE id = 1), 1)"
    )
    assert found == "three"
    assert worker.end() == 0


def test_distance_function_that_was_dropped_is_reported_and_created_again(harness: Harness) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS["chunked"])
    harness.once()
    harness.execute("DROP FUNCTION qwen_embed.distance_1")
    assert "qwen_embed.distance_1" in harness.ok("status")
    harness.ok("verify", "articles", "--repair")
    assert "two" in harness.ok("search", "articles", "two", "--limit", "1")


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.long
def test_dump_of_a_key_whose_operators_are_in_a_schema_of_their_own_is_restored(
    harness: Harness, bare: Harness, options: tuple[str, ...]
) -> None:
    harness.execute(OWN_TYPE)
    harness.execute("CREATE TABLE articles (path kinds.path PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles VALUES ('a.b', 'one'), ('a.c', 'two')")
    harness.execute("SET search_path = public, kinds")
    database = harness.connection.info.dbname
    harness.execute(f"ALTER DATABASE {database} SET search_path = public, kinds")
    harness.ok("attach", "articles", "--text", "body", *options)
    harness.once()
    tools = Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    dump = subprocess.run([tools / "pg_dump", harness.url], capture_output=True, check=True).stdout
    psql = [tools / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", bare.url]
    made = subprocess.run(psql, input=dump, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()

    bare.execute(f"ALTER DATABASE {bare.connection.info.dbname} SET search_path = public, kinds")
    bare.execute("SET search_path = public, kinds")
    bare.execute("UPDATE articles SET path = 'a.d' WHERE body = 'one'; DELETE FROM articles WHERE path::text = 'a.c'")
    bare.execute("INSERT INTO articles VALUES ('a.e', 'three')")
    bare.once()
    bare.assert_in_step()


@pytest.mark.parametrize(
    ("layout", "key"),
    [("articles", "path"), ("articles", "path, tenant"), ("in_column", "tenant, path"), ("chunked", "tenant, path")],
)
@pytest.mark.long
def test_keys_of_types_whose_schema_no_path_has_are_followed(harness: Harness, layout: str, key: str) -> None:
    """As citext and ltree are. The scans have several pages; the key of one row differs in its last column only."""
    harness.execute(OWN_TYPE)
    harness.execute("CREATE DOMAIN kinds.short AS kinds.path CHECK (length(value::text) < 9)")
    kind = "kinds.short" if key == "path, tenant" else "kinds.path"
    harness.execute(f"CREATE TABLE articles (tenant int, path {kind}, body text, PRIMARY KEY ({key}))")
    harness.execute(
        "INSERT INTO articles SELECT n % 3, ('a.' || n)::kinds.path, 'text ' || n FROM generate_series(1, 600) n"
    )
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()
    assert harness.drift()[0] == 0
    assert harness.value("SELECT count(*) FROM qwen_embed.articles WHERE NOT stale") == 600
    harness.execute("UPDATE articles SET body = 'changed' WHERE tenant = 1 AND path::text = 'a.4'")
    harness.execute("UPDATE articles SET path = 'b.5' WHERE path::text = 'a.5'")
    harness.execute(
        "DELETE FROM articles WHERE path::text = 'a.6'; UPDATE articles SET body = '' WHERE path::text = 'a.7'"
    )
    harness.once()
    assert harness.drift() == (0, {"missing": 0, "stale": 0, "orphaned": 0})
    assert harness.value("SELECT count(*) FROM qwen_embed.articles WHERE NOT stale") == 598
    harness.bypass(
        "UPDATE articles SET body = 'x' WHERE path::text IN ('a.9', 'a.599')",
        "DELETE FROM articles WHERE path::text = 'a.10'",
    )
    assert harness.drift() == (1, {"missing": 0, "stale": 2, "orphaned": 1})
    assert "enqueued: 2 missing or stale, 1 orphaned" in harness.ok("verify", "articles", "--repair")
    harness.once()
    assert harness.drift()[0] == 0
    assert "changed" in harness.ok("search", "articles", "changed", "--limit", "1")
