"""The kinds of index: recall@10, time of a query, size and build time of each, on the same vectors.

    python benchmarks/indexes.py [--rows 30000] [--dimensions 1024 2560] [--queries 100] [--rounds 1]

The vectors are those of benchmarks/queries.py, in clusters, and the queries are further vectors of the same kind, which were
never stored. They are copied into the store of an embedding without an index. `index rebuild --index KIND` then builds each
kind in its turn, and `index check` measures it: the recall and the time are those of the smallest ef_search (of an ivfflat
index: probes) at which the recall reaches 0.98. "Made-up queries" are those that the worker makes of stored vectors: their
recall at the same ef_search shows how good a measure they are. Times are those of the distances alone, on a warm connection."""

import time
from collections.abc import Sequence

import harness
import numpy as np
import psycopg
import record
from clusters import clustered
from record import Findings, Goal, Label

from pg_qwen_embed.admin import indexes
from pg_qwen_embed.domain.index import parse
from pg_qwen_embed.domain.index_check import IndexCheck
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import embedded
from pg_qwen_embed.postgres.connection import Connection, connect

WANTED = 0.98
NAME = "documents"
ENOUGH = Goal(">=", WANTED)
SMALL = Goal("<=", 0.2)


def kinds(dimensions: int) -> list[str]:
    return ["hnsw", "hnsw-binary", f"hnsw-prefix:{dimensions // 4}", "ivfflat"]


def load(url: str, environment: dict[str, str], vectors: Vectors) -> None:
    """An embedding without an index, whose store has these vectors."""
    count, dimensions = vectors.shape
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {NAME} (id bigint PRIMARY KEY, body text NOT NULL)")
        cursor.execute(f"INSERT INTO {NAME} SELECT n, 'document ' || n FROM generate_series(0, {count - 1}) n")
        declared = ("--text", "body", "--dimensions", str(dimensions), "--model", "modelled", "--index", "none")
        assert harness.run(["attach", NAME, *declared, "--no-backfill"], environment).status == 0
        (id_,) = cursor.execute("SELECT max(id) FROM _qwen_embed.generation").fetchone() or (0,)
        store = f"_qwen_embed.store_{id_}"
        with cursor.copy(f"COPY {store} (k1, version, fingerprint, embedding) FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, count, 1024):
                copy.write(page(start, vectors[start : start + 1024]))
            copy.write(b"\xff\xff")
        cursor.execute(f"VACUUM ANALYZE {store}")


def page(first: int, vectors: Vectors) -> bytes:
    """Rows of the store in the binary format of COPY."""
    count, dimensions = vectors.shape
    fields = [("columns", ">i2"), ("length", ">i4"), ("id", ">i8"), ("of_version", ">i4"), ("version", ">i8"),
              ("of_fingerprint", ">i4"), ("fingerprint", "S1"), ("width", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"),
              ("values", ">f2", (dimensions,))]  # fmt: skip
    rows = np.zeros(count, np.dtype(fields))
    rows["columns"], rows["length"], rows["of_version"], rows["of_fingerprint"] = 4, 8, 8, 1
    rows["id"] = np.arange(first, first + count)
    rows["version"], rows["fingerprint"] = 1, b"x"
    rows["width"], rows["dimensions"], rows["values"] = 4 + 2 * dimensions, dimensions, vectors
    return rows.tobytes()


def compare(url: str, name: str, queries: Vectors, wanted: Sequence[str], found: Findings) -> None:
    dimensions = queries.shape[1]
    with connect(url, "benchmark") as connection:
        sizes: dict[str, float] = {}
        for kind in wanted:
            labels: dict[str, Label] = {"index": kind, "dimensions": dimensions}
            began = time.perf_counter()
            indexes.build(connection, url, name, None, kind=parse(kind), again=True)
            found.add("build and check, s", time.perf_counter() - began, labels)
            (listed,) = indexes.listing(connection, name)
            sizes[kind] = (listed.size or 0) / 1e6
            found.add("index MB", sizes[kind], labels)
            if kind != "hnsw":
                found.add(
                    "size, of hnsw", sizes[kind] / sizes["hnsw"], labels, SMALL if kind == "hnsw-binary" else None
                )
            measured = _check(connection, url, name, queries)
            at = {**labels, "ef_search": measured.width}
            point = next(one for one in measured.points if one.width == measured.width)
            found.add("recall@10", measured.recall, at, ENOUGH)
            found.add("ms, median", point.median, at)
            found.add("ms, p95", point.p95, at)
            found.add("ms, exact", measured.exact.median, labels)
            made = indexes.check(connection, url, name, wanted=WANTED, k=10, queries=len(queries), seed=record.SEED)
            same = next(one.recall for one in made.points if one.width == measured.width)
            found.add("recall@10 of made-up queries", same, at)
            for one in measured.points:
                found.add("recall@10 by ef_search", one.recall, {**labels, "ef_search": one.width})


def _check(connection: Connection, url: str, name: str, queries: Vectors) -> IndexCheck:
    return indexes.check(connection, url, name, wanted=WANTED, k=10, queries=len(queries), vectors=queries)


def main() -> None:
    parser = record.parser(__doc__, rounds=1)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1024, 2560])
    parser.add_argument("--queries", type=int, default=100)
    wanted = parser.parse_args()
    found = Findings()
    for dimensions in wanted.dimensions:
        vectors = clustered(wanted.rows + wanted.queries, dimensions)
        rows, queries = vectors[: wanted.rows], vectors[wanted.rows :]
        settings = {"max_wal_size": "8GB", "shared_buffers": "2GB"}
        with embedded.postgres(settings=settings) as url:
            environment = harness.environment(url, "http://127.0.0.1:9/v1")
            assert harness.run(["init"], environment).status == 0
            load(url, environment, rows)
            for _ in range(wanted.rounds):
                compare(url, NAME, queries, kinds(dimensions), found)
            if dimensions == wanted.dimensions[-1]:
                record.report("indexes", wanted, url, found.figures())


if __name__ == "__main__":
    main()
