"""What an evaluation found: figures of each variant, differences to the baseline, and one recommendation. Pure.

The recommendation is judged on questions that had no part in choosing the variant, unless there was only one to choose."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from pg_qwen_embed.domain import comparison, metrics
from pg_qwen_embed.domain.comparison import Difference, Estimate
from pg_qwen_embed.domain.metrics import Grades, Metric, Ranked, Scores
from pg_qwen_embed.domain.variants import Variant

FEWEST = comparison.FEWEST
CHANCE = 0.02  # how often chance alone may make a difference as large as one that is recommended: a change has its cost


@dataclass(frozen=True, slots=True)
class Origin:
    """What the figures are of. rows: of the table. made_of: where the questions come from."""

    embedding: str
    model: str
    servers: tuple[str, ...]
    made_of: str
    questions: int
    documents: int
    rows: int
    seed: int
    left_out: int = 0  # rows or judgments that could take no part


@dataclass(frozen=True, slots=True)
class Found:
    """The figures of a variant, by the names of the metrics. difference: to the baseline; None for the baseline itself."""

    variant: Variant
    figures: Mapping[str, Estimate]
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Winner:
    """The variant that is best, and its difference to the baseline. held_out: on questions by which it was not chosen."""

    variant: Variant
    difference: Difference
    held_out: bool

    @property
    def is_recommended(self) -> bool:
        return self.difference.questions >= FEWEST and self.difference.is_better and self.difference.p < CHANCE


@dataclass(frozen=True, slots=True)
class Evaluation:
    """winner: None where there was nothing to choose from. smallest: the difference that the sample can show."""

    origin: Origin
    metric: Metric
    found: Sequence[Found]
    winner: Winner | None

    @property
    def smallest(self) -> float | None:
        """The smallest difference that four of five such samples show, of the comparison that shows the least."""
        return max((one.difference.smallest for one in self.found if one.difference), default=None)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints and the registry keeps."""
        winner = self.winner
        return {
            **asdict(self.origin),
            "metric": str(self.metric),
            "variants": [_json(one) for one in self.found],
            "smallest_difference": self.smallest,
            "winner": winner and {
                "variant": winner.variant.label, "held_out": winner.held_out, "recommended": winner.is_recommended,
                "difference": _difference(winner.difference),
            },
            "recommendation": winner.variant.label if winner and winner.is_recommended else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """An evaluation of before, as the registry has it."""

    at: datetime
    result: Mapping[str, Any]


def evaluated(
    origin: Origin, metric: Metric, judged: Sequence[Grades], lists: Sequence[tuple[Variant, Sequence[Ranked]]],
    rng: np.random.Generator,
) -> Evaluation:  # fmt: skip
    """lists: what each variant finds for each question; the first is the baseline."""
    wanted = dict.fromkeys((*metrics.SHOWN, metric))
    scores: list[Scores] = []
    found: list[Found] = []
    for variant, ranked in lists:
        own = {one: one.each(ranked, judged) for one in wanted}
        scores.append(own[metric])
        difference = comparison.compare(scores[0], own[metric], rng) if found else None
        figures = {str(one): comparison.estimate(values, rng) for one, values in own.items()}
        found.append(Found(variant, figures, difference))
    return Evaluation(origin, metric, tuple(found), _winner(found, scores, rng))


def _winner(found: Sequence[Found], scores: Sequence[Scores], rng: np.random.Generator) -> Winner | None:
    if len(found) < 2:
        return None
    if len(found) == 2 and found[1].difference:
        return Winner(found[1].variant, found[1].difference, held_out=False)
    chosen, held_out = comparison.halves(len(scores[0]), rng)
    best = max(range(1, len(found)), key=lambda n: float(scores[n][chosen].sum()))
    difference = comparison.compare(scores[0][held_out], scores[best][held_out], rng)
    return Winner(found[best].variant, difference, held_out=True)


def _json(one: Found) -> dict[str, Any]:
    variant = one.variant
    return {
        "variant": variant.label, "axis": variant.axis, "instruction": variant.instruction, "dimensions": variant.dimensions,
        "post": variant.post, "mode": variant.mode, "index": str(variant.index or "exact"),
        "figures": {name: asdict(figure) for name, figure in one.figures.items()},
        "difference": one.difference and _difference(one.difference),
    }  # fmt: skip


def _difference(found: Difference) -> dict[str, Any]:
    return {
        **asdict(found.estimate), "p": found.p, "questions": found.questions, "seen": found.is_seen,
        "smallest_difference": found.smallest, "questions_needed": found.needed,
    }  # fmt: skip
