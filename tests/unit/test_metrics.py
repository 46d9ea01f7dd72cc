"""Metrics are those of trec_eval, and are right on lists that a person can count."""

import math

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.metrics import DEFAULT, SHOWN, Measure, Metric, parse

lists = st.lists(st.integers(0, 30), unique=True, max_size=25)
grades = st.dictionaries(st.integers(0, 30), st.integers(-1, 4), max_size=20)
THEIRS = {Measure.TOP: "success_1", Measure.NDCG: "ndcg_cut_{}", Measure.RECALL: "recall_{}", Measure.MRR: "recip_rank"}


def theirs(metric: Metric, ranked: list[int], judged: dict[int, int]) -> float:
    """What trec_eval says. Its reciprocal rank has no depth, so it gets the beginning of the list."""
    name = THEIRS[metric.measure].format(metric.k)
    run = ranked[: metric.k] if metric.measure is Measure.MRR else ranked
    wanted = name if metric.measure is Measure.MRR else name.replace(f"_{metric.k}", f".{metric.k}")
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {str(one): grade for one, grade in judged.items()}}, {wanted})
    found = evaluator.evaluate({"q": {str(one): 1000.0 - rank for rank, one in enumerate(run)}})
    return float(found["q"][name]) if found else 0.0


@given(lists, grades)
@pytest.mark.parametrize(
    "metric", [*SHOWN, Metric(Measure.NDCG, 3), Metric(Measure.RECALL, 5), Metric(Measure.MRR, 2)], ids=str
)
def test_each_metric_is_that_of_trec_eval(metric: Metric, ranked: list[int], judged: dict[int, int]) -> None:
    expected = theirs(metric, ranked, judged) if ranked and judged else 0.0
    assert metric.of(ranked, judged) == pytest.approx(expected, abs=1e-9)


def test_metrics_can_be_counted_by_hand() -> None:
    ranked, judged = [7, 3, 9], {3: 1, 9: 2, 4: 1}
    top, mrr, ndcg, recall = (metric.of(ranked, judged) for metric in SHOWN)
    assert (top, mrr, recall) == (0.0, 0.5, pytest.approx(2 / 3))
    best = 2 + 1 / math.log2(3) + 1 / 2
    assert ndcg == pytest.approx((1 / math.log2(3) + 2 / 2) / best)


def test_a_question_without_a_right_document_has_zero() -> None:
    assert [metric.of([1, 2], {1: 0}) for metric in SHOWN] == [0.0] * 4


@pytest.mark.parametrize("text", ["top1", "mrr@10", "ndcg@5", "recall@100"])
def test_a_metric_is_written_as_it_is_read(text: str) -> None:
    assert str(parse(text)) == text


def test_the_default_has_the_name_that_people_use() -> None:
    assert DEFAULT.title == "nDCG@10"
    assert parse("NDCG@10") == DEFAULT


@pytest.mark.parametrize("text", ["ndcg", "map@10", "ndcg@0", "ndcg@x", "recall@1001", "top1@5", "", "ndcg@10@2"])
def test_what_is_no_metric_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="there is no such metric; write top1"):
        parse(text)
