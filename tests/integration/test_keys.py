"""Keys whose text depends on a setting, and keys that are rows: each row has its own vector."""

from collections.abc import Callable

import pytest
from harness import Cluster, Harness

from pg_qwen_embed.postgres.connection import connect

STORES = {"table": (), "column": ("--store", "column"), "chunked": ("--chunk-tokens", "40")}


# What a setting of the database would make of keys that differ: the same text, or one that cannot be read.
SETTINGS = ("extra_float_digits = -3", "array_nulls = off", "DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Kolkata'",
            "IntervalStyle = sql_standard", "bytea_output = escape")  # fmt: skip
KEYS = {
    "float8": ["0.3", "0.30000000000000004"],
    "float4": ["16777216", "16777218"],
    "text[]": ["{NULL}", '{"NULL"}'],
    "date": ["2020-01-02", "2020-02-01"],
    "timestamptz": ["2020-01-01 00:00+00", "2020-01-01 00:00+05:30"],
    "interval": ["1 year -1 day", "-1 month +1 day -00:00:01"],
    "bytea": [r"\x5c00", r"\xff"],
}


@pytest.mark.superuser
@pytest.mark.long
def test_keys_are_told_apart_whatever_the_database_is_set_to(harness: Harness) -> None:
    tables = {f"articles{n}": (kind, keys) for n, (kind, keys) in enumerate(KEYS.items())}
    for setting in SETTINGS:
        harness.execute(f"ALTER DATABASE {harness.value('SELECT current_database()')} SET {setting}")
    for table, (kind, keys) in tables.items():
        harness.execute(f"CREATE TABLE {table} (id {kind} PRIMARY KEY, body text)")
        harness.many(f"INSERT INTO {table} VALUES (%s::text::{kind}, %s)", [(key, f"text of {key}") for key in keys])
        harness.ok("attach", table, "--text", "body")

    def followed() -> None:
        harness.once()
        for table in tables:
            harness.assert_in_step(name=table)

    followed()
    for n in range(2):
        for table, (kind, keys) in tables.items():
            harness.execute(f"UPDATE {table} SET body = 'changed ' || body WHERE id = %s::text::{kind}", keys[n])
        followed()
    for table, (_, keys) in tables.items():
        harness.execute(f"DELETE FROM {harness.internal('store', table)}")
        repair = harness.process("verify", table, "--repair")
        assert repair.popen.wait(20) == 0, repair.said
        assert harness.count("outbox", table) == len(keys)
    followed()


@pytest.mark.parametrize("arguments", STORES.values(), ids=STORES.keys())
@pytest.mark.long
def test_keys_that_are_rows_with_nulls_are_keys(harness: Harness, arguments: tuple[str, ...]) -> None:
    """(,) IS NULL, and (1,) is neither NULL nor NOT NULL."""
    harness.execute("CREATE TYPE pair AS (a int, b text)")
    harness.execute("CREATE TABLE articles (id pair PRIMARY KEY, body text)")
    harness.execute("INSERT INTO articles VALUES ('(,)', 'one'), ('(1,)', 'two'), ('(1,x)', 'three')")
    harness.ok("attach", "articles", "--text", "body", *arguments)
    worker = harness.process("worker", "--once")
    assert worker.popen.wait(20) == 0, worker.said
    assert harness.drift()[0] == 0
    assert harness.value("SELECT count(*) FROM qwen_embed.articles WHERE NOT stale") == 3
    harness.execute("UPDATE articles SET body = ''")
    harness.once()
    assert harness.rows("SELECT id FROM qwen_embed.articles") == []
    assert harness.count("outbox") == 0
    assert harness.drift()[0] == 0


@pytest.mark.parametrize("version", [16, 18])
def test_timeouts_and_read_only_defaults_of_the_database_do_not_hold_for_our_sessions(
    clusters: Callable[[int], Cluster], version: int
) -> None:
    settings = {"default_transaction_read_only": "on", "statement_timeout": "1h"}
    settings |= {"transaction_timeout": "1h"} if version > 16 else {}
    with clusters(version).database() as url:
        with connect(url, "test") as connection:
            (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
            for setting, value in settings.items():
                connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
        for autocommit in (True, False):
            with connect(url, "test", autocommit=autocommit) as connection:
                found = {one: connection.execute(f"SHOW {one}").fetchone() for one in settings}
                assert set(found.values()) == {("off",), ("0",)}
                connection.execute("CREATE TEMPORARY TABLE writes (a int)")


# Keys that are not the primary key


def keyless(harness: Harness, *, primary: bool = False) -> None:
    """A table whose rows are identified by (tenant, number)."""
    harness.execute(f"""
        CREATE TABLE articles (number bigint NOT NULL, tenant text NOT NULL, body text,
                               code uuid {"PRIMARY KEY" if primary else ""} DEFAULT gen_random_uuid())""")
    harness.execute("CREATE UNIQUE INDEX own_key ON articles (tenant, number)")
    harness.execute("INSERT INTO articles SELECT n, 't' || n % 3, 'text ' || n FROM generate_series(1, 9) n")


@pytest.mark.parametrize("options", [[], ["--store", "column"], ["--chunk-tokens", "64"]])
@pytest.mark.parametrize("primary", [False, True])
def test_unique_columns_that_are_not_null_are_followed_as_a_key(
    harness: Harness, options: list[str], primary: bool
) -> None:
    keyless(harness, primary=primary)
    if not primary:
        assert "add --key tenant,number" in harness.refused("attach", "articles", "--text", "body")
    harness.ok("attach", "articles", "--text", "body", "--key", "number,tenant", *options)
    assert [column.name for column in harness.embedding().source.key] == ["tenant", "number"]
    harness.once()
    harness.execute("UPDATE articles SET body = 'changed' WHERE number = 1")
    harness.execute("UPDATE articles SET tenant = 'moved' WHERE number = 2")
    harness.execute("DELETE FROM articles WHERE number = 3")
    harness.execute("INSERT INTO articles VALUES (10, 't1', 'new')")
    harness.once()
    harness.assert_in_step()
    assert harness.value("SELECT count(*) FROM qwen_embed.articles JOIN articles USING (tenant, number)") == 9
    assert harness.cli("doctor").exit_code == 0


def test_a_key_that_is_none_any_more_is_reported_and_another_is_followed(harness: Harness) -> None:
    keyless(harness)
    harness.ok("attach", "articles", "--text", "body", "--key", "tenant,number")
    harness.once()
    sent = len(harness.server.texts)
    harness.execute("ALTER TABLE articles ALTER COLUMN tenant DROP NOT NULL; CREATE UNIQUE INDEX ON articles (number)")
    assert "--rekey --key COLS" in harness.cli("status", "articles").output
    assert "add --key number" in harness.refused("alter", "articles", "--rekey")
    assert "9 rows keep their vectors" in harness.ok("alter", "articles", "--rekey", "--key", "number")
    harness.once()
    harness.assert_in_step()
    assert len(harness.server.texts) == sent
    assert "follows (number) already" in harness.refused("alter", "articles", "--rekey", "--key", "number")
    harness.execute("ALTER TABLE articles ADD PRIMARY KEY (code)")
    assert "add --key code" in harness.refused("alter", "articles", "--rekey")
    harness.ok("alter", "articles", "--rekey", "--key", "code")
    harness.once()
    harness.assert_in_step()
    assert len(harness.server.texts) == sent


@pytest.mark.parametrize(
    "index",
    ["CREATE UNIQUE INDEX ON articles (tenant, number) WHERE number > 0", "CREATE INDEX ON articles (tenant, number)",
     "CREATE UNIQUE INDEX ON articles (tenant, (number + 1))",
     "ALTER TABLE articles ADD UNIQUE (tenant, number) DEFERRABLE",
     "ALTER TABLE articles ALTER number DROP NOT NULL; CREATE UNIQUE INDEX ON articles (tenant, number)"],
)  # fmt: skip
def test_an_index_that_does_not_identify_every_row_is_no_key(harness: Harness, index: str) -> None:
    harness.execute("CREATE TABLE articles (tenant text NOT NULL, number bigint NOT NULL, body text)")
    harness.execute(index)
    assert "do not identify a row" in harness.refused("attach", "articles", "--text", "body", "--key", "tenant,number")


def test_a_not_null_that_is_not_validated_makes_no_key(harness: Harness) -> None:
    """From PostgreSQL 18 on; rows that were there before may have NULL."""
    harness.execute("CREATE TABLE articles (number bigint, body text)")
    harness.execute("INSERT INTO articles VALUES (NULL, 'x')")
    harness.execute("CREATE UNIQUE INDEX ON articles (number)")
    harness.execute("ALTER TABLE articles ADD CONSTRAINT there NOT NULL number NOT VALID")
    assert "do not identify a row" in harness.refused("attach", "articles", "--text", "body", "--key", "number")
    harness.execute("UPDATE articles SET number = 1; ALTER TABLE articles VALIDATE CONSTRAINT there")
    harness.ok("attach", "articles", "--text", "body", "--key", "number")
