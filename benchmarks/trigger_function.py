"""What it costs the application that a trigger function finds out whether the key was renamed.

    python benchmarks/trigger_function.py [--changes 4000] [--rounds 5]

Single-row INSERTs and UPDATEs, each its own transaction, in turn on a table with attach's triggers and on one whose trigger
functions append without the probe. Prints one line of JSON: the median CPU seconds of the server process for each, and their
ratio. A shared machine gives a process less time at some moments than at others; its CPU time depends on that less."""

import argparse
import re
import statistics
from pathlib import Path

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


PROBE = re.compile(r"    BEGIN\n.*?\n    END;\n(?=    IF by_name)", re.DOTALL)


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


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
                bare = PROBE.sub("", definition)
                assert bare != definition
                connection.execute(bare)
            for number in range(wanted.rounds):
                for table, times in taken.items():
                    began = cpu(connection.info.backend_pid)
                    connection.execute("CALL change(%s, %s, %s)", (table, number * 100_000, wanted.changes))
                    times.append(cpu(connection.info.backend_pid) - began)
    median = {table: statistics.median(times) for table, times in taken.items()}
    harness.report(
        "probe of the key", changes=wanted.changes, probe_s=round(median["ours"], 3), bare_s=round(median["named"], 3),
        ratio=round(median["ours"] / median["named"], 3),
    )  # fmt: skip


if __name__ == "__main__":
    main()
