"""Keys whose text depends on a setting, and keys that are rows: each row has its own vector."""

import pytest
from harness import Rig

STORES = {"table": (), "column": ("--store", "column"), "chunked": ("--chunk-tokens", "40")}


@pytest.mark.parametrize(
    ("setting", "kind", "keys"),
    [
        ("extra_float_digits = 0", "float8", ["0.3", "0.30000000000000004"]),
        ("extra_float_digits = -3", "float4", ["16777216", "16777218"]),
        ("array_nulls = off", "text[]", ["{NULL}", '{"NULL"}']),
        ("DateStyle = 'SQL, DMY'", "date", ["2020-01-02", "2020-02-01"]),
        ("TimeZone = 'Asia/Kolkata'", "timestamptz", ["2020-01-01 00:00+00", "2020-01-01 00:00+05:30"]),
        ("IntervalStyle = sql_standard", "interval", ["1 year -1 day", "-1 month +1 day -00:00:01"]),
        ("bytea_output = escape", "bytea", [r"\x5c00", r"\xff"]),
    ],
)
def test_keys_are_told_apart_whatever_the_database_is_set_to(
    rig: Rig, setting: str, kind: str, keys: list[str]
) -> None:
    rig.execute(f"CREATE TABLE articles (id {kind} PRIMARY KEY, body text)")
    rig.execute(f"ALTER DATABASE {rig.value('SELECT current_database()')} SET {setting}")
    rig.many(f"INSERT INTO articles VALUES (%s::text::{kind}, %s)", [(key, f"text of {key}") for key in keys])
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.assert_in_step()
    for key in keys:
        rig.execute(f"UPDATE articles SET body = 'changed ' || body WHERE id = %s::text::{kind}", key)
        rig.once()
        rig.assert_in_step()
    rig.execute(f"DELETE FROM {rig.machinery('store')}")
    repair = rig.process("verify", "articles", "--repair")
    assert repair.popen.wait(20) == 0, repair.said
    assert rig.count("outbox") == len(keys)
    rig.once()
    rig.assert_in_step()


@pytest.mark.parametrize("arguments", STORES.values(), ids=STORES.keys())
def test_keys_that_are_rows_with_nulls_are_keys(rig: Rig, arguments: tuple[str, ...]) -> None:
    """(,) IS NULL, and (1,) is neither NULL nor NOT NULL."""
    rig.execute("CREATE TYPE pair AS (a int, b text)")
    rig.execute("CREATE TABLE articles (id pair PRIMARY KEY, body text)")
    rig.execute("INSERT INTO articles VALUES ('(,)', 'one'), ('(1,)', 'two'), ('(1,x)', 'three')")
    rig.ok("attach", "articles", "--text", "body", *arguments)
    worker = rig.process("worker", "--once")
    assert worker.popen.wait(20) == 0, worker.said
    assert rig.drift()[0] == 0
    assert rig.value("SELECT count(*) FROM qwen_embed.articles WHERE NOT stale") == 3
    rig.execute("UPDATE articles SET body = ''")
    rig.once()
    assert rig.rows("SELECT id FROM qwen_embed.articles") == []
    assert rig.count("outbox") == 0
    assert rig.drift()[0] == 0
