"""What a search costs a reader whose rows policies decide on.

    python benchmarks/policy.py [--rows 20000] [--queries 200] [--rounds 7]

A reader asks the view for the ten nearest rows, through the HNSW index, with row-level security of the store as `attach` makes
it and without it, in turn: once while the table has none, and once while it has a policy that shows every other row. Prints
one line of JSON: the median milliseconds of CPU that a query takes in the server, and their ratios, taken round by round. A
shared machine gives a process less time at some moments than at others; its CPU time depends on that less. iterative_scan is
strict_order, so that ten rows come. The figures of "all" are those of a query that computes something of every vector."""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import LiteralString

import harness
import numpy as np
import psycopg

from pg_qwen_embed.admin.attach import Declaration, attach
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import from_columns
from pg_qwen_embed.postgres import embedded, migrate
from pg_qwen_embed.postgres.connection import connect

DIMENSIONS = 256
NEAREST = "SELECT id FROM qwen_embed.documents ORDER BY embedding <=> %s::halfvec LIMIT 10"
ALL = "SELECT count(vector_norm(embedding::vector)) FROM qwen_embed.documents"
SETUP = """
CREATE TABLE documents (id bigint PRIMARY KEY, body text, visible boolean);
INSERT INTO documents SELECT n, 'text ' || n, n % 2 = 0 FROM generate_series(1, %(rows)s) n;
"""
ROLE = """
CREATE ROLE reader LOGIN;
GRANT USAGE ON SCHEMA qwen_embed TO reader;
GRANT SELECT ON qwen_embed.documents, documents, _qwen_embed.store_1 TO reader;
CREATE POLICY visible ON documents TO reader USING (visible);
CREATE INDEX ON _qwen_embed.store_1 USING hnsw (embedding halfvec_cosine_ops);
VACUUM ANALYZE documents, _qwen_embed.store_1;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    wanted = parser.parse_args()
    vectors = np.random.default_rng(1).normal(size=(wanted.rows + wanted.queries, DIMENSIONS)).astype(np.float32)
    taken: dict[tuple[bool, bool], list[float]] = {}
    whole: dict[tuple[bool, bool], list[float]] = {}
    with embedded.postgres(settings={"shared_buffers": "512MB", "maintenance_work_mem": "512MB"}) as url:
        migrate.init(url)
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(SETUP.replace("%(rows)s", str(wanted.rows)))
            with connect(url, "benchmark") as ours:
                attach(ours, Declaration("documents", Spec("m", DIMENSIONS, from_columns(("body",))), backfill=False))
            with owner.cursor().copy(
                "COPY _qwen_embed.store_1 (k1, version, fingerprint, embedding) FROM STDIN"
            ) as copy:
                for key, vector in enumerate(vectors[: wanted.rows].round(4).tolist(), 1):
                    copy.write_row((key, 1, b"x", str(vector)))
            for command in filter(str.strip, ROLE.split(";")):
                owner.execute(command.encode())
            with psycopg.connect(url.replace("user=postgres", "user=reader"), autocommit=True) as reader:
                reader.execute("SET hnsw.iterative_scan = strict_order")
                for _ in range(wanted.rounds):
                    for of_table in (False, True):
                        for of_store in (False, True):
                            for table, on in (("documents", of_table), ("_qwen_embed.store_1", of_store)):
                                switch = "ENABLE" if on else "DISABLE"
                                owner.execute(f"ALTER TABLE {table} {switch} ROW LEVEL SECURITY".encode())
                            found, asked = vectors[wanted.rows :].tolist(), (of_table, of_store)
                            taken.setdefault(asked, []).append(cpu(reader, NEAREST, [(str(one),) for one in found]))
                            whole.setdefault(asked, []).append(cpu(reader, ALL, [()] * 3))
    report(wanted, taken, whole)


def cpu(
    reader: psycopg.Connection[tuple[object, ...]], query: LiteralString, values: Sequence[tuple[str, ...]]
) -> float:
    """Milliseconds of CPU that the server takes for one of these queries."""
    spent = Path(f"/proc/{reader.info.backend_pid}/schedstat")
    reader.execute(query, values[0])
    before = int(spent.read_text().split()[0])
    for one in values:
        assert reader.execute(query, one).rowcount in (1, 10)
    return (int(spent.read_text().split()[0]) - before) / 1e6 / len(values)


def report(
    wanted: argparse.Namespace, taken: dict[tuple[bool, bool], list[float]], whole: dict[tuple[bool, bool], list[float]]
) -> None:
    figures: dict[str, object] = {}
    for name, found in (("search", taken), ("all", whole)):
        for of_table in (False, True):
            without, guarded = found[of_table, False], found[of_table, True]
            about = f"{name}{'_with_policy' if of_table else ''}"
            figures[f"{about}_unguarded_ms"] = round(statistics.median(without), 3)
            figures[f"{about}_ms"] = round(statistics.median(guarded), 3)
            figures[f"{about}_ratio"] = round(
                statistics.median(b / a for a, b in zip(without, guarded, strict=True)), 3
            )
    harness.report("policy of the store", rows=wanted.rows, queries=wanted.queries, rounds=wanted.rounds, **figures)


if __name__ == "__main__":
    main()
