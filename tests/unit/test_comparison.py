"""What a sample says of a difference: how often it is right, on made-up samples of which the truth is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pg_qwen_embed.domain import comparison
from pg_qwen_embed.domain.comparison import Difference, compare, estimate, halves, randomised, smallest_shown

DRAWS = 100


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SAMPLES", 500)


def answers(rng: np.random.Generator, questions: int, *rates: float) -> list[NDArray[np.float64]]:
    """Top-1 of configurations on the same questions: a question is as hard for one as for the other, mostly."""
    hard = rng.random(questions)
    noise = [rng.normal(0, 0.08, questions) for _ in rates]
    return [(hard + own < rate).astype(float) for own, rate in zip(noise, rates, strict=True)]


def drawn(seed: int, questions: int, before: float, after: float) -> Difference:
    rng = np.random.default_rng(seed)
    return compare(*answers(rng, questions, before, after), rng)


def test_an_interval_of_95_percent_holds_the_truth_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(DRAWS):
        found = estimate((rng.random(150) < 0.7).astype(float), rng)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / DRAWS <= 0.99


def test_equal_configurations_show_no_difference_in_19_of_20_draws() -> None:
    assert sum(drawn(seed, 200, 0.6, 0.6).is_seen for seed in range(DRAWS)) <= 0.05 * DRAWS


def test_a_planted_difference_is_seen_on_the_right_side_in_19_of_20_draws() -> None:
    found = [drawn(seed, 400, 0.60, 0.68) for seed in range(40)]
    assert sum(one.is_better for one in found) >= 38
    assert not any(one.is_seen and one.estimate.mean < 0 for one in found)


def test_bootstrap_and_randomisation_agree() -> None:
    agreed = 0
    for seed in range(DRAWS):
        one = drawn(seed, 200, 0.60, 0.60 + 0.002 * seed)
        agreed += one.estimate.holds_zero == (one.p >= 0.05)
    assert agreed >= 0.95 * DRAWS


def test_randomisation_of_signs_is_exact_where_it_can_be_counted() -> None:
    """Five differences of one sign: of 32 orders of signs two are as far from 0."""
    p = randomised(np.ones(5), np.random.default_rng(1))
    assert p == pytest.approx(2 / 32, abs=0.02)


def test_a_few_questions_of_one_mind_are_no_difference_yet() -> None:
    """The bootstrap of five equal differences has no width at all; chance makes such five often enough."""
    found = compare(np.zeros(5), np.ones(5), np.random.default_rng(1))
    assert not found.estimate.holds_zero
    assert not found.is_seen


@pytest.mark.long
def test_four_of_five_samples_show_the_smallest_difference() -> None:
    rng = np.random.default_rng(3)
    before, after = answers(rng, 20_000, 0.60, 0.63)
    deviation = float((after - before).std(ddof=1))
    questions = round((2.8 * deviation / float((after - before).mean())) ** 2)
    seen = sum(drawn(seed, questions, 0.60, 0.63).is_seen for seed in range(DRAWS))
    assert 0.7 <= seen / DRAWS <= 0.9


def test_the_questions_that_are_needed_show_the_difference_that_was_found() -> None:
    found = drawn(4, 300, 0.60, 0.63)
    assert found.needed == pytest.approx(300 * (found.smallest / found.estimate.mean) ** 2, abs=1)


def test_the_smallest_difference_shrinks_with_the_root_of_the_questions() -> None:
    rng = np.random.default_rng(2)
    before, after = answers(rng, 40_000, 0.6, 0.6)
    few, many = smallest_shown((after - before)[:400]), smallest_shown(after - before)
    assert few / many == pytest.approx(10, rel=0.25)


def test_configurations_that_answer_alike_have_no_difference() -> None:
    found = compare(np.ones(50), np.ones(50), np.random.default_rng(1))
    assert (found.estimate.mean, found.p, found.smallest, found.needed) == (0, 1, 0, None)
    assert not found.is_seen


def test_the_same_seed_gives_the_same_figures() -> None:
    assert drawn(9, 100, 0.5, 0.6) == drawn(9, 100, 0.5, 0.6)


@pytest.mark.parametrize("questions", [2, 7, 100])
def test_a_question_is_in_one_half_alone(questions: int) -> None:
    chosen, held_out = halves(questions, np.random.default_rng(1))
    assert sorted([*chosen, *held_out]) == list(range(questions))
    assert abs(len(chosen) - len(held_out)) <= 1


@pytest.mark.long
def test_memory_stays_bounded_for_many_questions() -> None:
    found = estimate(np.random.default_rng(1).random(30_000), np.random.default_rng(2))
    assert found.low < 0.5 < found.high
