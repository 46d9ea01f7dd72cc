"""What it costs the application that a function takes the key out of a row, instead of the column's name.

    python benchmarks/trigger_function.py [--changes 4000] [--rounds 5]

Single-row INSERTs and UPDATEs, each its own transaction, in turn on a table with attach's triggers and on one whose
triggers name the column. Prints one line of JSON: the median seconds of each, and their ratio."""

import argparse
import statistics
import time

import harness
import psycopg

from pg_qwen_embed.admin.attach import Declaration, attach
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import from_columns
from pg_qwen_embed.postgres import embedded, migrate
from pg_qwen_embed.postgres.connection import connect

SETUP = """
CREATE TABLE ours (id bigint PRIMARY KEY, body text);
CREATE TABLE named (id bigint PRIMARY KEY, body text);
CREATE PROCEDURE change(t text, first int, count int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN first .. first + count LOOP EXECUTE format('INSERT INTO %I VALUES (%s, md5(%L))', t, i, i); COMMIT; END LOOP;
    FOR i IN first .. first + count LOOP EXECUTE format('UPDATE %I SET body = body || 1 WHERE id = %s', t, i); COMMIT; END LOOP;
END $$;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    taken: dict[str, list[float]] = {"ours": [], "named": []}
    with embedded.postgres(settings={"synchronous_commit": "off"}) as url:
        migrate.init(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SETUP)
            with connect(url, "benchmark") as ours:
                for table in taken:
                    attach(ours, Declaration(table, Spec("m", 8, from_columns(("body",)))))
            for (definition,) in connection.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname IN ('follow_insert_2', 'follow_update_2')"
            ).fetchall():
                named = definition.replace('"_qwen_embed"."key_2_1"(ROW(r.*))', "r.id")
                named = named.replace('"_qwen_embed"."key_2_1"(new)', "new.id")
                assert named != definition
                connection.execute(named)
            for number in range(wanted.rounds):
                for table, times in taken.items():
                    began = time.perf_counter()
                    connection.execute("CALL change(%s, %s, %s)", (table, number * 100_000, wanted.changes))
                    times.append(time.perf_counter() - began)
    median = {table: statistics.median(times) for table, times in taken.items()}
    harness.report(
        "key by function", changes=wanted.changes, function_s=round(median["ours"], 3), named_s=round(median["named"], 3),
        ratio=round(median["ours"] / median["named"], 3),
    )  # fmt: skip


if __name__ == "__main__":
    main()
