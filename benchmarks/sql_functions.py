"""The cost of the function qwen_embed.NAME, against the SELECT that a person writes on the view.

    python benchmarks/sql_functions.py [--rows 10000] [--dimensions 512] [--queries 100] [--rounds 5]

Vectors in clusters are written into the store, and the index is built. On one warm connection each query runs through all
variants, in a new random order, with hnsw.ef_search = 100 and iterative scans for all of them. "times the SELECT" is the median,
over the queries, of a query's time divided by that of the SELECT which returns the same columns. `among`: the keys of one row
in a hundred; it is compared with the SELECT that has the same filter. Statements are prepared (psycopg's default)."""

import random
import statistics
import time
from dataclasses import dataclass
from typing import LiteralString

import harness
import psycopg
import record
from clusters import clustered
from record import Findings, Goal

from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import embedded
from pg_qwen_embed.postgres.binary import halfvec
from pg_qwen_embed.postgres.connection import BinaryValue, Connection, connect

AS_FAST = Goal("<=", 1.1)
CATEGORIES = 100
KEYS: LiteralString = """SELECT e.id, e.embedding <=> %(vector)s::halfvec AS distance FROM qwen_embed.documents e
ORDER BY distance LIMIT 10"""
ROWS: LiteralString = """SELECT d.id, d.body, e.embedding <=> %(vector)s::halfvec AS distance
FROM documents d JOIN qwen_embed.documents e USING (id) ORDER BY distance LIMIT 10"""
FILTERED: LiteralString = """SELECT e.id, e.embedding <=> %(vector)s::halfvec AS distance
FROM documents d JOIN qwen_embed.documents e USING (id) WHERE d.category = %(category)s ORDER BY distance LIMIT 10"""
FUNCTION: LiteralString = "SELECT id, distance FROM qwen_embed.documents(%(vector)s::halfvec, 10)"
FUNCTION_ROWS: LiteralString = """SELECT d.id, d.body, h.distance
FROM documents d JOIN qwen_embed.documents(%(vector)s::halfvec, 10) h USING (id) ORDER BY h.distance"""
FUNCTION_AMONG: LiteralString = """SELECT id, distance FROM qwen_embed.documents(%(vector)s::halfvec, 10,
    ARRAY(SELECT id FROM documents WHERE category = %(category)s))"""


@dataclass(frozen=True)
class Variant:
    name: str
    statement: LiteralString
    plain: "Variant | None" = None
    goal: Goal | None = None
    prepare: bool | None = None


def variants() -> list[Variant]:
    keys, rows, filtered = Variant("keys", KEYS), Variant("rows", ROWS), Variant("filter", FILTERED)
    planned = Variant("rows, planned each time", ROWS, prepare=False)
    return [
        keys, Variant("keys, function", FUNCTION, keys, AS_FAST),
        rows, Variant("rows, function", FUNCTION_ROWS, rows, AS_FAST),
        planned, Variant("rows, function, planned each time", FUNCTION_ROWS, planned, AS_FAST, prepare=False),
        filtered, Variant("filter, function with among", FUNCTION_AMONG, filtered),
    ]  # fmt: skip


def load(connection: Connection, vectors: Vectors) -> None:
    connection.execute("SET session_replication_role = replica")
    with connection.cursor() as cursor:
        with cursor.copy("COPY documents FROM STDIN") as copy:
            for number in range(len(vectors)):
                copy.write_row((number, f"text {number}", number % CATEGORIES))
        with cursor.copy("COPY _qwen_embed.store_1 (k1, version, fingerprint, embedding) FROM STDIN") as copy:
            for number, vector in enumerate(vectors):
                copy.write_row((number, 1, b"x", str(vector.tolist())))
    connection.execute(
        "CREATE INDEX store_1_hnsw ON _qwen_embed.store_1 USING hnsw (embedding public.halfvec_cosine_ops)"
    )
    connection.execute("CREATE INDEX ON public.documents (category)")
    connection.execute("VACUUM ANALYZE public.documents, _qwen_embed.store_1")


def ask(connection: Connection, variant: Variant, vector: BinaryValue, category: int) -> float:
    began = time.perf_counter()
    rows = connection.execute(
        variant.statement, {"vector": vector, "category": category}, prepare=variant.prepare
    ).fetchall()
    assert len(rows) == 10
    return 1000 * (time.perf_counter() - began)


def measure(connection: Connection, queries: Vectors, rounds: int, found: Findings) -> None:
    rng, asked = random.Random(record.SEED), variants()
    for round_ in range(rounds + 1):
        took: dict[str, list[float]] = {variant.name: [] for variant in asked}
        for number, query in enumerate(queries):
            vector = BinaryValue(halfvec(query))
            for variant in rng.sample(asked, len(asked)):
                took[variant.name].append(ask(connection, variant, vector, number % CATEGORIES))
        for variant in asked if round_ else ():  # the first is to warm up
            found.add("ms, median", statistics.median(took[variant.name]), {"query": variant.name})
            if variant.plain:
                ratios = [a / b for a, b in zip(took[variant.name], took[variant.plain.name], strict=True)]
                found.add("times the SELECT", statistics.median(ratios), {"query": variant.name}, variant.goal)


def main() -> None:
    parser = record.parser(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    wanted = parser.parse_args()
    vectors = clustered(wanted.rows + wanted.queries, wanted.dimensions)
    found = Findings()
    with (
        embedded.postgres(settings={"shared_buffers": "512MB"}) as url,
        harness.gpu(64, 0, 0, wanted.dimensions) as server,
    ):
        environment = harness.environment(url, server)
        with psycopg.connect(url, autocommit=True) as plain:
            plain.execute("CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL, category int NOT NULL)")
        assert harness.run(["init"], environment).status == 0
        attach = ["attach", "documents", "--text", "body", "--dimensions", str(wanted.dimensions), "--no-backfill"]
        assert harness.run(attach, environment).status == 0
        with connect(url, "benchmark") as connection:
            connection.execute("SET search_path = public")
            load(connection, vectors[: wanted.rows])
            connection.execute("SET hnsw.ef_search = 100; SET hnsw.iterative_scan = 'strict_order'")
            measure(connection, vectors[wanted.rows :], wanted.rounds, found)
        record.report("sql_functions", wanted, url, found.figures())


if __name__ == "__main__":
    main()
