"""The cost of a search through the view and the function, against hand-written SQL on the same tables; recall@10 of the index.

    python benchmarks/queries.py [--rows 100000] [--queries 200] [--rounds 15]

The vectors are made by numpy, seeded. In 32 latent dimensions, every 100 vectors have a normally distributed centre, and as
much noise around it. They are projected into all dimensions, with a little noise there, and normalised. The queries are
further vectors of the same kind. The server answers each document with the document's own vector, so the worker fills the
store and builds the index as usual. Exact results are computed from the vectors as they are stored (16 bits); for three of
the queries they are compared with what PostgreSQL finds without the index.

On one warm connection, with the vector as a binary parameter, the ids and texts of ten rows are fetched. Each query runs
through all variants before the next query, in a new random order, because the first variant finds the index's pages colder.
"times by hand" is the median, over the queries, of a query's time divided by that of its hand-written SQL. Statements are
prepared (psycopg's default: after five executions), except those that are planned each time.

Filter: one row in a hundred, with hnsw.iterative_scan = strict_order. Chunks: a tenth of the rows, in two chunks each. The
hand-written SQL takes the best chunk of each row among the nearest 40 chunks, and of these the first ten, with their texts
and whether they are stale. The function returns the same, and always ten.

Then filters.py measures searches with a condition."""

import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import LiteralString

import filters
import harness
import numpy as np
import psycopg
import record
import texts
from clusters import clustered, saved
from record import Findings, Goal, Label

from pg_qwen_embed.domain.vectors import Vectors, normalise
from pg_qwen_embed.postgres import embedded
from pg_qwen_embed.postgres.binary import halfvec
from pg_qwen_embed.postgres.connection import BinaryValue, Connection, connect

LIMIT = 10
CATEGORIES = 100
LIKES = 7919  # a prime, so that each row has another number of likes
PARAGRAPH, CHUNK_TOKENS = 600, 256  # characters; the worker counts three as a token, so two paragraphs do not fit
CHECKED = 3  # queries
INDEX = "hnsw"
PLANS = {"_hnsw": "index", "Function Scan": "function"}
AS_FAST = Goal("<=", 1.03)

PLAIN_SQL: LiteralString = """SELECT t.id, t.body FROM documents t JOIN _qwen_embed.store_1 s ON s.k1 = t.id
ORDER BY s.embedding <=> %(vector)s::halfvec LIMIT 10"""
PLAIN_SQL_FILTERED: LiteralString = PLAIN_SQL.replace("ORDER", "WHERE t.category = %(category)s ORDER")
VIEW: LiteralString = "SELECT id, body FROM qwen_embed.documents ORDER BY embedding <=> %(vector)s::halfvec LIMIT 10"
VIEW_FILTERED: LiteralString = VIEW.replace("ORDER", "WHERE category = %(category)s ORDER")
VIEW_STALE: LiteralString = VIEW.replace("body", "body, stale")
PLAIN_SQL_CHUNKS: LiteralString = """SELECT a.id, a.body, a.chunk, a.chunk_text, a.stale FROM (
    SELECT k1, chunk, distance FROM (
        SELECT DISTINCT ON (k1) k1, chunk, distance FROM (
            SELECT k1, chunk, embedding <=> %(vector)s::halfvec AS distance
            FROM _qwen_embed.store_2 ORDER BY embedding <=> %(vector)s::halfvec LIMIT 40
        ) nearest ORDER BY k1, distance
    ) best ORDER BY distance LIMIT 10
) ten JOIN qwen_embed.articles a ON a.id = ten.k1 AND a.chunk = ten.chunk ORDER BY ten.distance"""
FUNCTION: LiteralString = "SELECT id, body, chunk, chunk_text, stale FROM qwen_embed.articles(%(vector)s::halfvec, 10)"


@dataclass(frozen=True)
class Variant:
    """exact: the exact answers that its recall is measured by. by_hand: the variant that its time is compared with."""

    name: str
    statement: LiteralString
    exact: str = "documents"
    ef_search: int = 40
    iterative_scan: str = "off"
    prepare: bool | None = None  # None: after five executions
    plain_sql: "Variant | None" = None
    goal: Goal | None = None

    @property
    def labels(self) -> dict[str, Label]:
        return {"index": INDEX, "query": self.name, "ef_search": self.ef_search}

    @property
    def own_statement(self) -> bytes:
        """A text of its own, which PostgreSQL plans separately: a plan's cost depends on the ef_search of its planning."""
        return f"/* {self.name}, {self.ef_search} */ {self.statement}".encode()


def variants() -> list[Variant]:
    hand = Variant("by hand", PLAIN_SQL)
    anew = Variant("by hand, planned each time", PLAIN_SQL, prepare=False)
    filtered = Variant("by hand, filter", PLAIN_SQL_FILTERED, "filtered", iterative_scan="strict_order")
    chunks = Variant("by hand, chunks", PLAIN_SQL_CHUNKS, "articles")
    return [
        hand,
        Variant("by hand", PLAIN_SQL, ef_search=100),
        Variant("by hand", PLAIN_SQL, ef_search=200),
        Variant("view", VIEW, plain_sql=hand, goal=AS_FAST),
        Variant("view with stale", VIEW_STALE, plain_sql=hand),
        anew,
        Variant("view, planned each time", VIEW, prepare=False, plain_sql=anew, goal=AS_FAST),
        filtered,
        Variant("by hand, filter, no iterative scan", PLAIN_SQL_FILTERED, "filtered"),
        Variant("view, filter", VIEW_FILTERED, "filtered", iterative_scan="strict_order", plain_sql=filtered, goal=AS_FAST),
        chunks,
        Variant("function, chunks", FUNCTION, "articles", plain_sql=chunks, goal=AS_FAST),
    ]  # fmt: skip


# The vectors, and what is exact.


def exact(similarities: Vectors) -> list[set[int]]:
    """The rows nearest to each query. similarities: shape (queries, rows)."""
    return [set(row[:LIMIT].tolist()) for row in np.argsort(-similarities, axis=1)]


def exact_answers(rows: Vectors, queries: Vectors, articles: int) -> dict[str, list[set[int]]]:
    found = normalise(_as_stored(queries)) @ normalise(_as_stored(rows)).T
    chosen = np.arange(len(rows)) % CATEGORIES == np.arange(len(queries))[:, None] % CATEGORIES
    of_articles = found[:, : 2 * articles].reshape(len(queries), articles, 2).max(axis=2)
    return {
        "documents": exact(found),
        "filtered": exact(np.where(chosen, found, -1)),
        "articles": exact(of_articles),
    }


def _as_stored(vectors: Vectors) -> Vectors:
    return vectors.astype(np.float16).astype(np.float32)


# The tables, and their indexes.


def load(url: str, rows: int, articles: int) -> None:
    """Documents begin with the number of their vector, and so does each paragraph of an article."""
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL, category int NOT NULL, likes int NOT NULL)"
        )
        with cursor.copy("COPY documents FROM STDIN") as copy:
            for number, text in enumerate(texts.documents(rows)):
                copy.write_row((number, f"{number} {text}", number % CATEGORIES, number * LIKES % rows))
        cursor.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text NOT NULL)")
        with cursor.copy("COPY articles FROM STDIN") as copy:
            paragraphs = [
                f"{number} {text} {text}"[:PARAGRAPH] for number, text in enumerate(texts.documents(2 * articles))
            ]
            for number in range(articles):
                copy.write_row((number, "\n\n".join(paragraphs[2 * number : 2 * number + 2])))
        cursor.execute("VACUUM ANALYZE documents, articles")


def fill(environment: dict[str, str], *attach: str) -> float:
    """Seconds in which the worker built the index, after the vectors were written."""
    assert harness.run(["attach", *attach], environment).status == 0
    with (
        psycopg.connect(environment["PG_QWEN_EMBED_DATABASE_URL"], autocommit=True) as connection,
        ThreadPoolExecutor() as threads,
    ):
        running = threads.submit(harness.run, ["worker", "--once", "--log-level", "warning"], environment)
        while (
            connection.execute(harness.BACKFILL_STATE).fetchone() in (("pending",), ("running",)) and not running.done()
        ):
            time.sleep(0.01)
        began = time.perf_counter()
        assert running.result().status == 0
    return time.perf_counter() - began


# The queries.


@dataclass(frozen=True)
class Bench:
    connection: Connection
    queries: Vectors
    answers: dict[str, list[set[int]]]
    found: Findings

    def ask(self, variant: Variant, number: int) -> tuple[float, set[int]]:
        """Milliseconds of a query, and its rows."""
        for name in ("ef_search", "iterative_scan"):
            self.connection.execute("SELECT set_config(%s, %s, false)", (f"hnsw.{name}", str(getattr(variant, name))))
        values = self.values(number)
        began = time.perf_counter()
        rows = self.connection.execute(variant.own_statement, values, prepare=variant.prepare).fetchall()
        return 1000 * (time.perf_counter() - began), {row[0] for row in rows}

    def values(self, number: int) -> dict[str, object]:
        return {"vector": BinaryValue(halfvec(self.queries[number])), "category": number % CATEGORIES}

    def plan(self, variant: Variant) -> str:
        self.ask(variant, 0)
        lines = self.connection.execute(b"EXPLAIN " + variant.own_statement, self.values(0)).fetchall()
        text = " ".join(line for (line,) in lines)
        return next((plan for sign, plan in PLANS.items() if sign in text), "without index")

    def check(self) -> None:
        """Check that PostgreSQL finds the same without the index."""
        self.connection.execute("SET enable_indexscan = off")
        for variant in (Variant("", PLAIN_SQL), Variant("", PLAIN_SQL_FILTERED, "filtered")):
            for number in range(CHECKED):
                assert self.ask(variant, number)[1] == self.answers[variant.exact][number]
        self.connection.execute("RESET enable_indexscan")

    def round(
        self, asked: Sequence[Variant], rng: random.Random
    ) -> tuple[dict[Variant, list[float]], dict[Variant, float]]:
        """For each variant, the milliseconds of each query, and the recall."""
        took: dict[Variant, list[float]] = {variant: [] for variant in asked}
        recalled = dict.fromkeys(asked, 0)
        for number in range(len(self.queries)):
            for variant in rng.sample(asked, len(asked)):
                milliseconds, rows = self.ask(variant, number)
                took[variant].append(milliseconds)
                recalled[variant] += len(rows & self.answers[variant.exact][number])
        return took, {variant: count / LIMIT / len(self.queries) for variant, count in recalled.items()}

    def measure(self, asked: Sequence[Variant], rounds: int) -> None:
        rng = random.Random(record.SEED)
        self.round(asked, rng)  # to warm up
        labels = {variant: {**variant.labels, "plan": self.plan(variant)} for variant in asked}
        for _ in range(rounds):
            took, recalled = self.round(asked, rng)
            for variant, times in took.items():
                self.found.add("recall@10", recalled[variant], labels[variant])
                self.found.add("ms, median", statistics.median(times), labels[variant])
                self.found.add("ms, p95", statistics.quantiles(times, n=20)[-1], labels[variant])
                if variant.plain_sql:
                    ratio = statistics.median(a / b for a, b in zip(times, took[variant.plain_sql], strict=True))
                    self.found.add("times by hand", ratio, labels[variant], variant.goal)


def main() -> None:
    parser = record.parser(__doc__, rounds=15)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--filtered", type=int, default=32, help="queries of each selectivity (filters.py)")
    wanted = parser.parse_args()
    articles = wanted.rows // 10
    vectors = clustered(wanted.rows + wanted.queries, wanted.dimensions)
    rows, queries = vectors[: wanted.rows], vectors[wanted.rows :]
    found = Findings()
    with (
        saved(rows) as file,
        embedded.postgres(settings={"max_wal_size": "8GB", "shared_buffers": "2GB"}) as url,
        harness.gpu(64, 0, 0, wanted.dimensions, file) as server_url,
    ):
        environment = harness.environment(url, server_url)
        load(url, wanted.rows, articles)
        assert harness.run(["init"], environment).status == 0
        common = ("--text", "body", "--dimensions", str(wanted.dimensions), "--view-columns", "all")
        seconds = fill(environment, "documents", *common)
        fill(environment, "articles", *common, "--chunk-tokens", str(CHUNK_TOKENS))
        with connect(url, "benchmark") as connection:
            connection.execute("SET search_path = public")  # for SQL as an application writes it
            _index(connection, seconds, wanted.rows, found)
            assert connection.execute("SELECT count(*) FROM _qwen_embed.store_2").fetchone() == (2 * articles,)
            bench = Bench(connection, queries, exact_answers(rows, queries, articles), found)
            bench.check()
            bench.measure(variants(), wanted.rounds)
        filters.measure(url, server_url, queries[: wanted.filtered], wanted.rows, found)
        record.report("queries", wanted, url, found.figures())


def _index(connection: Connection, seconds: float, rows: int, found: Findings) -> None:
    (size,) = connection.execute("SELECT pg_relation_size('_qwen_embed.store_1_hnsw') / 1e6").fetchone() or (0,)
    labels: dict[str, Label] = {"index": INDEX, "rows": rows}
    found.add("build, s", seconds, labels)
    found.add("index MB", float(size), labels)


if __name__ == "__main__":
    main()
