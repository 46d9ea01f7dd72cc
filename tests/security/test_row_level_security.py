"""Readers who may see some rows of a table: no object of ours shows them another one, whatever they call."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed import Client
from pg_qwen_embed.admin import guards

ROWS = 1000
LAYOUTS = {
    "in_table": [],
    "in_column": ["--store", "column", "--column", "vector"],
    "in_chunks": ["--chunk-tokens", "16"],
}
# A function that tells what it is called with. The planner takes it for the cheapest condition of all.
LEAK = """
CREATE FUNCTION pg_temp.leak(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
$$ BEGIN INSERT INTO pg_temp.heard VALUES ($1::text); RETURN true; END $$
"""
TENANT = "tenant = current_setting('app.tenant', true)::int"
CONDITIONS = ("published", "id % 7 < 3", TENANT, "owner = current_user", "id BETWEEN 200 AND 650", "body LIKE '%1%'",
              "NOT published", "id IN (SELECT article FROM shared)", "false", "true")  # fmt: skip


@pytest.fixture
def role(harness: Harness) -> Iterator[str]:
    name = f"reader_{harness.value('SELECT current_database()')}"
    harness.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    harness.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


def as_role(harness: Harness, role: str) -> str:
    return harness.url.replace("user=postgres", f"user={role}")


def printed_grants(harness: Harness, role: str, *embeddings: str) -> None:
    """What `sql grants` prints for a reader, and nothing else."""
    for name in embeddings:
        harness.execute(harness.ok("sql", "grants", "--role-reader", role, "--embedding", name))


def connected(harness: Harness, role: str) -> psycopg.Connection[tuple[object, ...]]:
    """A session of the reader, with a table for what its function hears."""
    connection = harness.stack.enter_context(psycopg.connect(as_role(harness, role), autocommit=True))
    connection.execute("CREATE TEMPORARY TABLE heard (what text)")
    connection.execute(LEAK)
    return connection


# Random policies, in every layout


def library(harness: Harness, role: str) -> None:
    """A table with an embedding in each layout, and a failure of each row."""
    harness.execute("""CREATE TABLE articles (id bigint PRIMARY KEY, tenant int, owner name, published boolean, body text);
                       CREATE TABLE shared (article bigint)""")
    harness.execute(
        "INSERT INTO articles SELECT n, mod(n, 5), CASE WHEN mod(n, 3) = 0 THEN %s ELSE 'another' END, mod(n, 2) = 0, "
        "repeat(concat('document ', n, ' '), 8) FROM generate_series(1, %s) n",
        role, ROWS,
    )  # fmt: skip
    harness.execute(f"INSERT INTO shared SELECT n * n FROM generate_series(1, 30) n; GRANT SELECT ON shared TO {role}")
    for name, options in LAYOUTS.items():
        harness.ok("attach", "articles", "--text", "body", "--name", name, *options)
    harness.once()
    for name in LAYOUTS:
        failures = harness.internal("failure", name)
        harness.execute(f"INSERT INTO {failures} (k1, version, error) SELECT id, 1, 'rejected: ' || body FROM articles")
        harness.execute(f"GRANT SELECT ON {failures} TO {role}")


def random_policies(rng: random.Random, role: str) -> Iterator[str]:
    for number in range(rng.randint(0, 3)):
        kind = "RESTRICTIVE" if number == 2 else "PERMISSIVE"
        condition = rng.choice((" AND ", " OR ")).join(f"({one})" for one in rng.sample(CONDITIONS, rng.randint(1, 2)))
        command, to = rng.choice(("ALL", "SELECT")), rng.choice((role, "PUBLIC"))
        yield f"CREATE POLICY p{number} ON articles AS {kind} FOR {command} TO {to} USING ({condition})"


def shown(harness: Harness, reader: psycopg.Connection[tuple[object, ...]]) -> dict[str, set[object]]:
    """The ids that each object shows the reader, or tells its function."""
    found: dict[str, set[object]] = {}
    nothing = json.dumps([0.25] * 16)

    def told(what: str, relation: str) -> set[object]:
        reader.execute(f"TRUNCATE heard; SELECT FROM {relation} WHERE pg_temp.leak({what})".encode())
        return {row[0] for row in reader.execute("SELECT what FROM heard")}

    for name, options in LAYOUTS.items():
        store, failures, view = harness.internal("store", name), harness.internal("failure", name), f"qwen_embed.{name}"
        queries = {f"{name}: view": f"SELECT id FROM {view}", f"{name}: store": f"SELECT k1 FROM {store}",
                   f"{name}: failures": f"SELECT k1 FROM {failures}",
                   f"{name}: sorted by a function": f"SELECT id FROM {view} ORDER BY pg_temp.leak({view}.*)"}  # fmt: skip
        queries[f"{name}: function"] = f"SELECT id FROM qwen_embed.{name}('{nothing}'::halfvec, {2 * ROWS})"
        for what, query in queries.items():
            found[what] = {row[0] for row in reader.execute(query.encode())}
        column = "vector" if "--column" in options else "embedding"
        for what, function, relation, truth in (
            ("vectors in the view", column, view, f"SELECT {column}::text, id FROM {view}"),
            ("fingerprints", "fingerprint", store, f"SELECT fingerprint::text, k1 FROM {store}"),
            ("sentences of failures", "error", failures, f"SELECT error, k1 FROM {failures}"),
            *([("chunk texts", "chunk_text", view, f"SELECT chunk_text, id FROM {view}")] if name == "in_chunks" else []),
            *([("vectors", column, store, f"SELECT {column}::text, k1 FROM {store}")] if name != "in_column" else []),
        ):  # fmt: skip
            ids: dict[object, set[object]] = {}
            for text, key in harness.rows(truth):
                ids.setdefault(text, set()).add(key)
            found[f"{name}: {what} to a function"] = {key for text in told(function, relation) for key in ids[text]}
    return found


@both_versions
@pytest.mark.long
def test_with_random_policies_every_object_shows_the_rows_that_the_table_shows(harness: Harness, role: str) -> None:
    library(harness, role)
    printed_grants(harness, role, *LAYOUTS)
    reader = connected(harness, role)
    everything = {id_ for (id_,) in harness.rows("SELECT id FROM articles")}
    for what, ids in shown(harness, reader).items():
        assert ids == everything, what
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")  # long after attach
    for seed in range(5):
        rng = random.Random(seed)
        policies = list(random_policies(rng, role))
        for policy in policies:
            harness.execute(policy)
        reader.execute("SELECT set_config('app.tenant', %s, false)", (str(rng.randrange(5)),))
        allowed = {row[0] for row in reader.execute("SELECT id FROM articles")}
        for what, ids in shown(harness, reader).items():
            assert ids == allowed, (seed, what, policies, len(ids), len(allowed))
        for number in range(len(policies)):
            harness.execute(f"DROP POLICY p{number} ON articles")
    tables = reader.execute("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = '_qwen_embed'").fetchall()
    assert tables == [("embedding",), ("generation",)] or not tables


@pytest.mark.long
def test_search_client_and_status_show_the_rows_that_the_policies_show(harness: Harness, role: str) -> None:
    library(harness, role)
    printed_grants(harness, role, *LAYOUTS)
    internal = ", ".join(harness.internal(kind, name) for name in LAYOUTS for kind in ("outbox", "failure"))
    harness.execute(
        f"GRANT SELECT ON {internal}, _qwen_embed.backfill, _qwen_embed.ann_index, _qwen_embed.alembic_version TO {role}"
    )
    harness.execute(
        f"ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON articles USING ({CONDITIONS[3]})"
    )
    own = {id_ for (id_,) in harness.rows("SELECT id FROM articles WHERE owner = %s", role)}
    assert len(own) == ROWS // 3
    environment: dict[str, str | None] = {"PG_QWEN_EMBED_DATABASE_URL": as_role(harness, role)}
    with Client(as_role(harness, role), server_url=harness.server.url) as client:
        for name in LAYOUTS:
            found = client.search(name, "document", limit=2 * ROWS)
            assert {hit.row["id"] for hit in found} == own, name
            hit, *_ = json.loads(harness.ok("search", name, "document 2", "--json", env=environment))
            assert hit["row"]["owner"] == role
    for one in json.loads(harness.ok("status", "--json", env=environment)):
        assert (one["rows"], one["vectors"], one["failures"]) == (len(own),) * 3, one["name"]
        assert one["missing"] == []
    listed = json.loads(harness.ok("failures", "list", "in_table", "--json", env=environment))
    assert {one["key"]["id"] for one in listed} == own
    assert "row-level security" in harness.refused("verify", "in_table", env=environment)


KEYS = {
    "numeric": ("id numeric PRIMARY KEY", "n"),
    "several": ("lang text, id int, PRIMARY KEY (lang, id)", "'en', n"),
    "enum": ("mood mood, id int, PRIMARY KEY (mood, id)", "'calm', n"),
    "domain": ("id code PRIMARY KEY", "n::text"),
    "partitioned": ("id uuid PRIMARY KEY", "md5(n::text)::uuid"),
    "k1": ("k1 date PRIMARY KEY, k2 int", "date '2024-01-01' + n, n"),
}


@both_versions
def test_rows_are_hidden_whatever_their_key_is(harness: Harness, role: str) -> None:
    harness.execute("CREATE TYPE mood AS ENUM ('calm'); CREATE DOMAIN code AS varchar(9) CHECK (value <> 'none')")
    for table, (columns, values) in KEYS.items():
        parts = " PARTITION BY HASH (id)" if table == "partitioned" else ""
        harness.execute(f"CREATE TABLE of_{table} (body text, {columns}){parts}")
        if parts:
            harness.execute(f"CREATE TABLE part PARTITION OF of_{table} FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
        harness.execute(f"INSERT INTO of_{table} SELECT n::text, {values} FROM generate_series(1, 4) n")
        harness.ok("attach", f"of_{table}", "--text", "body")
        harness.execute(
            f"ALTER TABLE of_{table} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON of_{table} USING (body > '2')"
        )
    harness.once()
    printed_grants(harness, role, *(f"of_{table}" for table in KEYS))
    reader = connected(harness, role)
    for table in KEYS:
        for relation, column in (
            (f"qwen_embed.of_{table}", "embedding"),
            (harness.internal("store", f"of_{table}"), "k1"),
        ):
            rows = reader.execute(f"TRUNCATE heard; SELECT FROM {relation} WHERE pg_temp.leak({column})".encode())
            assert rows.rowcount == 0 or rows.nextset(), table
            assert rows.rowcount == 2, table
            assert reader.execute("SELECT count(*) FROM heard").fetchone() == (2,), table


# Who may see anything at all


def test_rights_to_the_table_decide_whether_anything_is_seen(harness: Harness, role: str) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    app, store = f"{role}_app", harness.internal("store")
    harness.execute(f"CREATE ROLE {app}; ALTER TABLE articles OWNER TO {app}")
    harness.stack.callback(harness.execute, f"DROP OWNED BY {app} CASCADE; DROP ROLE {app}")
    reader = connected(harness, role)

    def sees(query: str) -> list[object]:
        return [row[0] for row in reader.execute(query.encode())]

    def denied(query: str) -> str:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as error:
            reader.execute(query.encode())
        return str(error.value.diag.message_primary)

    harness.execute(
        f"GRANT USAGE ON SCHEMA qwen_embed, _qwen_embed TO {role}; GRANT SELECT ON qwen_embed.articles TO {role}"
    )
    for query in (f"SELECT k1 FROM {store}", "SELECT id FROM qwen_embed.articles"):
        assert denied(query) == "permission denied for table articles"
        harness.execute(f"GRANT SELECT (id) ON articles TO {role}")  # a vector tells about the text
        assert denied(query) == "permission denied for table articles"
        harness.execute(f"GRANT SELECT (id, body) ON articles TO {role}")
        assert sees(query) == [1, 2]
        harness.execute(f"REVOKE SELECT (id, body) ON articles FROM {role}")
    assert "permission denied" in denied(f"DELETE FROM {store}")
    assert "permission denied" in denied(f"SELECT FROM {harness.internal('failure')}")

    harness.execute(f"GRANT USAGE ON SCHEMA qwen_embed TO {app}; GRANT SELECT ON qwen_embed.articles TO {app}")
    harness.execute(f"""CREATE VIEW catalogue AS SELECT id, embedding FROM qwen_embed.articles;
                        CREATE FUNCTION ids() RETURNS SETOF bigint LANGUAGE sql SECURITY DEFINER
                        AS 'SELECT id FROM qwen_embed.articles ORDER BY id';
                        ALTER VIEW catalogue OWNER TO {app}; ALTER FUNCTION ids() OWNER TO {app};
                        GRANT SELECT ON catalogue TO {role}""")
    assert denied("SELECT id FROM catalogue") == "permission denied for table articles"
    assert sees("SELECT ids()") == [1, 2]
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON articles USING (id = 1)")
    assert sees("SELECT ids()") == [1, 2]  # as their owner does
    harness.execute(f"GRANT SELECT ON articles TO {role}")
    assert sees("SELECT id FROM catalogue") == [1]
    harness.execute("ALTER TABLE articles FORCE ROW LEVEL SECURITY")
    assert sees("SELECT ids()") == [1]


def test_policies_that_are_forced_hold_for_the_owner_of_the_table(harness: Harness, role: str) -> None:
    """An application that connects as the owner, with a tenant in a setting, while the worker has BYPASSRLS."""
    harness.articles("one", "two", "three")
    harness.execute(
        f"ALTER TABLE articles OWNER TO {role}; GRANT CREATE, USAGE ON SCHEMA _qwen_embed, qwen_embed TO {role}"
    )
    harness.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA _qwen_embed TO {role}")
    owner: dict[str, str | None] = {"PG_QWEN_EMBED_DATABASE_URL": as_role(harness, role)}
    harness.ok("attach", "articles", "--text", "body", env=owner)
    harness.execute(f"CREATE ROLE all_{role} LOGIN BYPASSRLS; GRANT {role} TO all_{role}")
    harness.stack.callback(harness.execute, f"DROP OWNED BY all_{role}; DROP ROLE all_{role}")
    harness.environment["PG_QWEN_EMBED_DATABASE_URL"] = as_role(harness, f"all_{role}")
    harness.once()
    session, store = connected(harness, role), harness.internal("store")
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY two ON articles USING (id = 2)")
    assert session.execute(f"SELECT count(*) FROM {store}".encode()).fetchone() == (3,)
    assert "row-level security" not in harness.ok("status")
    harness.execute("ALTER TABLE articles FORCE ROW LEVEL SECURITY")
    assert f"the row-level security of {store} " in harness.ok("status")
    assert f"the row-level security of {store} " in harness.cli("doctor").stdout
    harness.ok("verify", "articles", "--repair")
    assert "row-level security" not in harness.ok("status")
    assert session.execute(f"SELECT k1 FROM {store} WHERE pg_temp.leak(embedding)".encode()).fetchall() == [(2,)]
    assert session.execute("SELECT count(*) FROM heard").fetchone() == (1,)

    harness.execute(f"ALTER ROLE {role} BYPASSRLS; UPDATE articles SET body = 'changed' WHERE id = 3")
    harness.ok("worker", "--once", "--index-from", "0", env=owner)
    harness.assert_in_step()
    harness.execute(f"ALTER TABLE articles NO FORCE ROW LEVEL SECURITY; ALTER ROLE {role} NOBYPASSRLS")
    harness.execute("UPDATE articles SET body = 'changed again' WHERE id = 1")
    harness.ok("worker", "--once", "--index-from", "0", env=owner)
    harness.ok("verify", "articles", "--repair", env=owner)
    assert session.execute(f"SELECT count(*) FROM {store}".encode()).fetchone() == (3,)
    harness.assert_in_step()


# What is altered, missing or moved


UNDONE = {
    "policies": "DROP POLICY rows_of_the_source ON {store}; DROP POLICY rows_of_the_source ON {failure}",
    "row-level security": "ALTER TABLE {store} DISABLE ROW LEVEL SECURITY",
    "condition": "ALTER POLICY rows_of_the_source ON {store} USING (true)",
    "all, as an earlier release": "DROP POLICY rows_of_the_source ON {store}; DROP POLICY rows_of_the_source ON {failure}; "
    "ALTER TABLE {store} DISABLE ROW LEVEL SECURITY; ALTER TABLE {failure} DISABLE ROW LEVEL SECURITY; "
    "REVOKE SELECT ON {store} FROM PUBLIC",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_what_is_not_as_attach_makes_it_is_reported_and_made_again(harness: Harness, role: str, layout: str) -> None:
    harness.articles("one", "two")
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY two ON articles USING (id = 2)")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()
    printed_grants(harness, role, "articles")
    reader, store, failure = connected(harness, role), harness.internal("store"), harness.internal("failure")
    before = sorted(map(str, harness.catalog()))
    for undo in UNDONE.values():
        harness.execute(undo.format(store=store, failure=failure))
        assert f"the row-level security of {store}" in harness.ok("status"), undo
        assert f"the row-level security of {store}" in harness.cli("doctor").stdout, undo
        said = harness.ok("init") if "REVOKE" in undo else harness.ok("verify", "articles", "--repair")
        assert f"the row-level security of {store}" in said, undo
        assert "row-level security" not in harness.ok("status")
        for query in (f"SELECT k1 FROM {store}", "SELECT id FROM qwen_embed.articles"):
            assert reader.execute(query.encode()).fetchall() == [(2,)], undo
    assert sorted(map(str, harness.catalog())) == before
    harness.ok("detach", "articles", "--yes")
    assert harness.value("SELECT count(*) FROM pg_policy") == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.long
def test_alterations_and_a_moved_database_keep_the_policies(harness: Harness, role: str, layout: str) -> None:
    harness.execute("CREATE TABLE articles (id int PRIMARY KEY, other int, body varchar(99), tenant int DEFAULT 1)")
    harness.execute("INSERT INTO articles VALUES (1, 11, 'one'), (2, 22, 'two'), (3, 33, 'three')")
    harness.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY two ON articles USING (tenant = 2)")
    harness.execute("UPDATE articles SET tenant = 2 WHERE id = 2")
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()
    harness.execute("CREATE TABLE newer (LIKE articles INCLUDING ALL); ALTER TABLE newer ENABLE ROW LEVEL SECURITY")
    harness.execute("INSERT INTO newer TABLE articles; CREATE POLICY three ON newer USING (id = 3)")
    printed_grants(harness, role, "articles")
    harness.execute(f"GRANT SELECT ON newer TO {role}")
    reader, vector = connected(harness, role), "vector" if layout == "in_column" else "embedding"
    for command, key in (
        (("--sql", "ALTER TABLE articles ALTER body TYPE text, ALTER tenant SET DEFAULT 2"), 2),
        (("--sql", "ALTER TABLE articles ALTER id TYPE bigint"), 2),
        (("--sql", "ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (other)"), 22),
        (("--table", "newer"), 3),
    ):  # fmt: skip
        harness.ok("alter", "articles", *command)
        harness.once()
        harness.assert_in_step()
        assert "row-level security" not in harness.ok("status"), command
        reader.execute("TRUNCATE heard")
        told = f"SELECT k1 FROM {harness.internal('store')} WHERE pg_temp.leak(fingerprint)"
        assert reader.execute(told.encode()).fetchall() == [(key,)], command
        column = "other" if "DROP" in command[1] else "id"
        assert reader.execute(
            f"SELECT {column} FROM qwen_embed.articles WHERE pg_temp.leak({vector})".encode()
        ).fetchall() == [(key,)]
        assert reader.execute("SELECT count(*) FROM heard").fetchone() == (2,), command
    _moved(harness, role, 3)


def _moved(harness: Harness, role: str, id_: int) -> None:
    """The same in a database that was restored from a dump."""
    tools = Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    dump = harness.folder / "dump"
    subprocess.run([tools / "pg_dump", "-Fc", harness.url, "-f", dump], check=True)
    database = f"moved_{os.getpid()}"
    harness.execute(f"CREATE DATABASE {database}")
    url = harness.url.replace(harness.value("SELECT current_database()"), database)
    subprocess.run([tools / "pg_restore", "-d", url, dump], check=True)
    moved = Harness(url, harness.server, harness.folder, harness.stack)
    assert "row-level security" not in moved.ok("status")
    reader = connected(moved, role)
    assert reader.execute(
        f"SELECT k1 FROM {moved.internal('store')} WHERE pg_temp.leak(fingerprint)".encode()
    ).fetchall() == [(id_,)]
    reader.close()
    moved.connection.close()
    harness.execute(f"DROP DATABASE {database} WITH (FORCE)")


def test_columns_are_altered_while_the_index_is_built(harness: Harness) -> None:
    """The store is locked then, and so its policy stays: a statement that it does not depend on goes on all the same."""
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    target, store = harness.embedding().target, harness.internal("store")
    builder, other = harness.connect(), harness.connect(autocommit=False)
    other.execute(f"LOCK TABLE {store} IN SHARE UPDATE EXCLUSIVE MODE".encode())
    with harness.connect(autocommit=False) as connection:
        connection.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            guards.suspend(connection, target)
    other.rollback()
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("SELECT 1")  # CONCURRENTLY waits for its snapshot
    index = f"CREATE INDEX CONCURRENTLY store_1_hnsw ON {store} USING hnsw (embedding halfvec_cosine_ops)"
    builder.pgconn.send_query(index.encode())
    eventually(lambda: harness.value("SELECT count(*) FROM pg_stat_progress_create_index"))
    harness.ok("alter", "articles", "--sql", "ALTER TABLE articles ALTER views TYPE bigint")
    assert "policy" in harness.refused("alter", "articles", "--sql", "ALTER TABLE articles ALTER body TYPE varchar")
    assert guards.unguarded(harness.connection, target) == []
    other.rollback()
    while builder.pgconn.get_result():
        pass


# The worker


def test_worker_that_is_no_member_of_the_owner_takes_hidden_rows_for_no_deleted_ones(
    harness: Harness, role: str
) -> None:
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute(f"GRANT USAGE ON SCHEMA _qwen_embed, qwen_embed TO {role}; GRANT SELECT ON articles TO {role}")
    harness.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA _qwen_embed TO {role}")
    environment: dict[str, str | None] = {"PG_QWEN_EMBED_DATABASE_URL": as_role(harness, role)}
    harness.ok("worker", "--once", env=environment)
    harness.assert_in_step()
    harness.ok("verify", "articles", env=environment)
    harness.execute("UPDATE articles SET body = 'changed'; ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    worker = Harness(as_role(harness, role), harness.server, harness.folder, harness.stack).worker("--poll", "0.2")
    eventually(lambda: f"row-level security hides rows of public.articles from {role}" in worker.said)
    assert (harness.count("store"), harness.count("outbox")) == (2, 2)
    harness.execute(f"ALTER ROLE {role} BYPASSRLS")
    eventually(lambda: not harness.count("outbox"))
    harness.assert_in_step()


def test_worker_follows_the_store_of_an_owner_that_it_is_no_member_of(harness: Harness, role: str) -> None:
    """It was started before that store was there: row-level security of the store would fail each of its statements."""
    harness.execute(f"GRANT USAGE ON SCHEMA _qwen_embed, qwen_embed TO {role}")
    harness.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA _qwen_embed TO {role}")
    harness.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA _qwen_embed GRANT ALL ON TABLES TO {role}")
    worker = Harness(as_role(harness, role), harness.server, harness.folder, harness.stack).worker("--poll", "0.2")
    eventually(lambda: "connected" in worker.said)
    harness.articles("one")
    harness.execute(f"GRANT SELECT ON articles TO {role}")
    harness.ok("attach", "articles", "--text", "body")
    eventually(lambda: harness.rows("SELECT id FROM qwen_embed.articles"))
    assert "whose owner this role is no member of" in worker.said


# Speed


@pytest.mark.parametrize(
    ("postgres_version", "layout"),
    [(16, "in_table"), (18, "in_column"), (18, "in_chunks")],
    indirect=["postgres_version"],
)
def test_index_is_used_with_policies_and_without_and_no_query_reads_the_whole_table(
    harness: Harness, role: str, layout: str
) -> None:
    rows, dimensions = 4000, 16
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--no-backfill", *LAYOUTS[layout])
    harness.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    harness.execute(f"INSERT INTO articles (id, body) SELECT n, repeat('words ', 50) FROM generate_series(1, {rows}) n")
    vectors = np.random.default_rng(1).normal(size=(rows, dimensions)).astype(np.float16)
    texts = [(json.dumps([float(x) for x in row]), n) for n, row in enumerate(vectors, 1)]
    store, column = harness.internal("store"), "vector" if layout == "in_column" else "embedding"
    if layout == "in_column":
        harness.execute(f"INSERT INTO {store} (k1, version, fingerprint) SELECT id, 1, 'x' FROM articles")
        harness.many("UPDATE articles SET vector = %s WHERE id = %s", texts)
        harness.execute("CREATE INDEX ON articles USING hnsw (vector halfvec_cosine_ops)")
    else:
        keys, more = ("k1, chunk", ", 1") if layout == "in_chunks" else ("k1", "")
        harness.many(
            f"INSERT INTO {store} (embedding, {keys}, version, fingerprint) VALUES (%s, %s{more}, 1, 'x')", texts
        )
        harness.execute(f"CREATE INDEX ON {store} USING hnsw (embedding halfvec_cosine_ops)")
    harness.execute(f"VACUUM ANALYZE articles, {store}")
    printed_grants(harness, role, "articles")
    reader = connected(harness, role)
    query = (
        f"SELECT id FROM articles JOIN qwen_embed.articles e USING (id) ORDER BY e.{column} <=> '{texts[0][0]}' LIMIT 5"
    )
    for policies in (
        "",
        "ALTER TABLE articles ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON articles USING (views = 0)",
    ):
        if policies:
            harness.execute(policies)
        plan = "\n".join(str(line) for (line,) in reader.execute(f"EXPLAIN {query}".encode()))
        assert "_idx" in plan, plan
        assert "Order By: " in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "hashed" not in plan, plan
        assert reader.execute(query.encode()).fetchone() == (1,)
