"""Searches with a condition, at each selectivity, against comparing all rows that meet it, and against the index alone.

`make bench-queries` measures it on the documents of benchmarks/queries.py. `likes` is independent of the vectors, with an
index of the application's on it and without one. "exact" is `exact=True`, "index" is the index whatever it costs, and "ours"
is what search decides. Each query goes through the three in a new random order; "times the better" is the median, over the
queries, of ours by the better of the other two. Recall is against exact. Every search returns min(k, matching) rows."""

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from record import SEED, Findings, Goal, Label

from pg_qwen_embed import Client
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres.nearest import Nearest

SHARES = (0.5, 0.1, 0.01, 0.001, 0.0)
LIMITS = (10, 100)
FOR_NOTHING = 1e-6  # what the index costs, so that it is always taken
TWICE, RECALLED = Goal("<=", 2.0), Goal(">=", 0.98)


@dataclass(frozen=True)
class Case:
    share: float
    limit: int
    most: int  # likes of the rows that meet the condition are below
    indexed: bool

    @property
    def labels(self) -> dict[str, Label]:
        return {"share": f"{self.share:.1%}", "k": self.limit, "index on likes": "yes" if self.indexed else "no"}


@dataclass(frozen=True)
class Asked:
    client: Client
    costs: float  # as it is in the package

    def ask(self, way: str, case: Case, vector: Vectors) -> tuple[float, set[object]]:
        """Milliseconds of a search, and its rows."""
        Nearest.costs = FOR_NOTHING if way == "index" else self.costs
        values = {"most": case.most}
        began = time.perf_counter()
        hits = self.client.search(
            "documents", vector, case.limit, where="likes < %(most)s", params=values, exact=way == "exact"
        )
        took = 1000 * (time.perf_counter() - began)
        Nearest.costs = self.costs
        assert len(hits) == min(case.limit, case.most), (way, case, len(hits))
        return took, {hit.row["id"] for hit in hits}


def measure(url: str, server_url: str, queries: Vectors, rows: int, found: Findings) -> None:
    """queries: how many are enough, at a second each for the index that finds nothing."""
    rng = random.Random(SEED)
    with Client(url, server_url=server_url) as client:
        asked = Asked(client, Nearest.costs)
        for indexed in (False, True):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP INDEX IF EXISTS documents_likes")
                if indexed:
                    connection.execute("CREATE INDEX documents_likes ON documents (likes)")
                connection.execute("ANALYZE documents")
            for share in SHARES:
                for limit in LIMITS:
                    _case(asked, Case(share, limit, int(rows * share), indexed), queries, rng, found)


def _case(asked: Asked, case: Case, queries: Sequence[Vectors] | Vectors, rng: random.Random, found: Findings) -> None:
    took: dict[str, list[float]] = {"exact": [], "index": [], "ours": []}
    recalled = []
    for number, vector in enumerate(queries):
        rows = {}
        for way in rng.sample(list(took), len(took)):
            milliseconds, rows[way] = asked.ask(way, case, vector)
            if number:  # the first one warms up
                took[way].append(milliseconds)
        if rows["exact"]:
            recalled.append(len(rows["exact"] & rows["ours"]) / len(rows["exact"]))
    for way, times in took.items():
        found.add(f"ms, {way}", statistics.median(times), case.labels)
    better = [min(both) for both in zip(took["exact"], took["index"], strict=True)]
    ratio = statistics.median(ours / other for ours, other in zip(took["ours"], better, strict=True))
    found.add("times the better", ratio, case.labels, TWICE)
    if recalled:
        found.add("recall", statistics.mean(recalled), case.labels, RECALLED)
