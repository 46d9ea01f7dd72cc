"""How good ranked lists are: top-1, MRR, nDCG and recall, one number for each question. Pure.

The definitions are those of TREC's trec_eval (success_1, recip_rank, ndcg_cut, recall): a grade above 0 is relevant, the gain
is the grade itself, and a document without a grade is not relevant (Järvelin and Kekäläinen, "Cumulated gain-based evaluation
of IR techniques", 2002)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.errors import UsageError

Ranked = Sequence[int]  # documents by their numbers, the best first; each once
Grades = Mapping[int, int]  # of documents
Scores = NDArray[np.float64]  # one for each question

MOST_RANKS = 1_000
FORMS = "top1, mrr@10, ndcg@10 or recall@10"


class Measure(StrEnum):
    TOP = "top1"  # whether the first document is relevant
    MRR = "mrr"  # 1 by the rank of the first relevant document
    NDCG = "ndcg"  # gains discounted by rank, as a share of the best order
    RECALL = "recall"  # the share of the relevant documents that is found


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of the first `k` documents of a list."""

    measure: Measure
    k: int

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return str(self.measure) if self.measure is Measure.TOP else f"{self.measure}@{self.k}"

    @property
    def title(self) -> str:
        """The name that people use."""
        names = {Measure.TOP: "Top-1", Measure.MRR: "MRR", Measure.NDCG: "nDCG", Measure.RECALL: "recall"}
        return names[self.measure] if self.measure is Measure.TOP else f"{names[self.measure]}@{self.k}"

    def of(self, ranked: Ranked, grades: Grades) -> float:
        """From 0 to 1. A question without a relevant document has 0."""
        gains = [max(0, grades.get(document, 0)) for document in ranked[: self.k]]
        match self.measure:
            case Measure.TOP | Measure.MRR:
                return next((1 / rank for rank, gain in enumerate(gains, 1) if gain), 0.0)
            case Measure.NDCG:
                best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
                return _discounted(gains) / _discounted(best[: self.k]) if best else 0.0
            case Measure.RECALL:
                relevant = sum(grade > 0 for grade in grades.values())
                return sum(gain > 0 for gain in gains) / relevant if relevant else 0.0

    def each(self, lists: Sequence[Ranked], judged: Sequence[Grades]) -> Scores:
        """One number for each question."""
        return np.array([self.of(ranked, grades) for ranked, grades in zip(lists, judged, strict=True)], np.float64)


TOP_1 = Metric(Measure.TOP, 1)
SHOWN = (TOP_1, Metric(Measure.MRR, 10), Metric(Measure.NDCG, 10), Metric(Measure.RECALL, 10))
DEFAULT = SHOWN[2]


def parse(text: str) -> Metric:
    """A metric as it is written: see FORMS. Raises UsageError."""
    name, at, k = text.lower().partition("@")
    if name in ("top1", "top-1") and not at:
        return TOP_1
    known = name in set(Measure) and name != Measure.TOP
    if not known or not (k.isascii() and k.isdigit() and len(k) < 6 and 1 <= int(k) <= MOST_RANKS):
        raise UsageError(
            f"--metric {text}: there is no such metric; write {FORMS}, with 1 to {MOST_RANKS:,} after the @"
        )
    return Metric(Measure(name), int(k))


def _discounted(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1) if gain)
