"""Variants, ranked lists, and what an evaluation concludes of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain import advice, comparison, template
from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.evaluation import Evaluation, Origin, evaluated
from pg_qwen_embed.domain.index import Index, IndexKind
from pg_qwen_embed.domain.metrics import DEFAULT, Ranked
from pg_qwen_embed.domain.prompt import PromptStyle
from pg_qwen_embed.domain.ranking import as_stored, fused, nearest
from pg_qwen_embed.domain.source import Column, QualifiedName, Source
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.variants import Axis, Variant, variants
from pg_qwen_embed.domain.vectors import normalise

COLUMNS = (Column("id", "bigint"), Column("body", "text"))
SOURCE = Source(QualifiedName("public", "articles"), COLUMNS[:1], COLUMNS)
SPEC = Spec("Qwen/Qwen3-Embedding-0.6B", 256, template.from_columns(("body",)), prompt_style=PromptStyle.QWEN3)
EMBEDDING = Embedding("articles", SOURCE, "Find it", Generation(1, GenerationState.LIVE, SPEC))
ORIGIN = Origin("articles", "model", ("http://here",), "title", 0, 0, 0, 0)
PRESENT = Variant("Find it", 256)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SAMPLES", 400)


def labels(*given_: str) -> list[str]:
    return [one.label for one in variants(EMBEDDING, given_)]


def test_the_present_embedding_is_the_baseline_and_variants_differ_along_one_axis() -> None:
    found = variants(
        EMBEDDING, ["dimensions=64,128", "instruction=Say, what = this", "mode=words", "index=hnsw-binary"]
    )
    assert found[0] == PRESENT
    assert found[1:] == [
        replace(PRESENT, dimensions=64, axis=Axis.DIMENSIONS),
        replace(PRESENT, dimensions=128, axis=Axis.DIMENSIONS),
        replace(PRESENT, instruction="Say, what = this", axis=Axis.INSTRUCTION),
        replace(PRESENT, mode="words", axis=Axis.MODE),
        replace(PRESENT, index=Index(IndexKind.BINARY), axis=Axis.INDEX),
    ]


def test_what_is_the_present_embedding_or_was_named_before_is_no_variant() -> None:
    assert labels("dimensions=256,64", "dimensions=64", "mode=vector", "index=exact,none", "instruction=Find it") == [
        "present",
        "dimensions 64",
    ]


def test_parameters_of_an_index_belong_to_the_kind_before_them() -> None:
    assert labels("index=hnsw:m=8,ef_construction=32,hnsw-prefix:64,m=4,exact,ivfflat") == [
        "present", "index hnsw:m=8,ef_construction=32", "index hnsw-prefix:64,m=4", "index ivfflat",
    ]  # fmt: skip


def test_an_instruction_may_be_the_name_of_several() -> None:
    found = variants(
        EMBEDDING, ["instruction=pool"], lambda written: ["Retrieve", "Search"] if written == "pool" else []
    )
    assert [one.instruction for one in found] == ["Find it", "Retrieve", "Search"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dimensions", "write instruction=TEXT, instruction=@NAME"),
        ("size=3", "write instruction=TEXT, instruction=@NAME"),
        ("mode=", "write instruction=TEXT, instruction=@NAME"),
        ("dimensions=64,many", "many is no number of dimensions"),
        ("dimensions=0", "0 is no number of dimensions"),
        ("mode=best", "there is no search mode best; there are: vector, words, hybrid"),
        ("index=tree", "there is no such kind"),
        ("post=blacken", "there is no post-processing 'blacken'; there are: none, center"),
        ("post=pca:512", "pca:512 keeps 512 dimensions, and the server's vectors have 256"),
    ],
)
def test_what_cannot_be_tried_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        variants(EMBEDDING, [text])
    assert sentence in str(raised.value)


def test_a_model_without_instructions_has_none_to_try() -> None:
    plain = replace(EMBEDDING, live=replace(EMBEDDING.live, spec=replace(SPEC, prompt_style=PromptStyle.PLAIN)))
    with pytest.raises(UsageError, match="go without an instruction"):
        variants(plain, ["instruction=Try this"])


@pytest.mark.parametrize(
    ("variant", "command"),
    [
        (
            replace(PRESENT, instruction="it's", axis=Axis.INSTRUCTION),
            "pg-qwen-embed alter articles --instruction 'it'\"'\"'s'",
        ),
        (replace(PRESENT, dimensions=64, axis=Axis.DIMENSIONS), "generation start articles --dimensions 64"),
        (replace(PRESENT, post="pca:64", axis=Axis.POST), "generation start articles --post pca:64"),
        (
            replace(PRESENT, index=Index(IndexKind.BINARY), axis=Axis.INDEX),
            "index rebuild articles --index hnsw-binary",
        ),
        (replace(PRESENT, mode="hybrid", axis=Axis.MODE), 'attach again with --words; then search with mode="hybrid"'),
    ],
)
def test_each_variant_has_the_command_that_applies_it(variant: Variant, command: str) -> None:
    assert command in advice.command("articles", SPEC, variant)


# Lists


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_nearest_documents_come_nearest_first(count: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = (normalise(rng.standard_normal((n, 4), dtype=np.float32)) for n in (count, 3))
    owners = np.sort(rng.integers(0, count, count))
    best = {n: [max(float(q @ v) for v in vectors[owners == n]) for q in queries] for n in set(owners.tolist())}
    for position, found in enumerate(nearest(queries, vectors, owners, k)):
        assert found == sorted(best, key=lambda n: (-round(best[n][position], 6), n))[:k]


def test_of_documents_at_one_distance_the_first_comes_first() -> None:
    vectors = np.ones((5, 2), np.float32) / np.float32(2**0.5)
    assert nearest(vectors[:1], vectors, np.arange(5), 3) == [[0, 1, 2]]


def test_fewer_dimensions_are_a_prefix_of_length_1_with_the_precision_of_the_store() -> None:
    vectors = normalise(np.random.default_rng(1).standard_normal((3, 8), dtype=np.float32))
    short = as_stored(vectors, 4)
    np.testing.assert_allclose(short, normalise(vectors[:, :4]), atol=1e-3)
    assert (short == short.astype(np.float16)).all()


def test_two_lists_are_joined_by_reciprocal_ranks() -> None:
    assert fused([1, 2, 3], [3, 4], 4, rrf_k=5, text_weight=1.5) == [3, 4, 1, 2]
    assert fused([1, 2], [], 1, rrf_k=5, text_weight=1.5) == [1]


# Conclusions


def lists(rng: np.random.Generator, rates: list[float], questions: int = 300) -> list[tuple[Variant, list[Ranked]]]:
    """A baseline and variants that find the right document first at these rates, on the same questions."""
    hard = rng.random(questions)
    found = []
    for n, rate in enumerate(rates):
        right = hard + rng.normal(0, 0.08, questions) < rate
        own = [[position, questions] if one else [questions, position] for position, one in enumerate(right)]
        found.append((replace(PRESENT, dimensions=256 + n, axis=Axis.DIMENSIONS if n else None), own))
    return found


def conclude(seed: int, *rates: float) -> Evaluation:
    rng = np.random.default_rng(seed)
    drawn = lists(rng, list(rates))
    return evaluated(ORIGIN, DEFAULT, [{n: 1} for n in range(len(drawn[0][1]))], drawn, rng)


@pytest.mark.long
def test_nothing_is_recommended_between_equal_configurations_in_19_of_20_draws() -> None:
    for rates in ((0.6, 0.6), (0.6,) * 4):
        found = [conclude(seed, *rates) for seed in range(20)]
        assert sum(one.winner is not None and one.winner.is_recommended for one in found) <= 1


@pytest.mark.long
def test_the_right_one_of_two_planted_configurations_is_recommended_in_19_of_20_draws() -> None:
    found = [conclude(seed, 0.5, 0.5, 0.65) for seed in range(20)]
    right = [
        one.winner for one in found if one.winner and one.winner.is_recommended and one.winner.variant.dimensions == 258
    ]
    assert len(right) >= 19
    assert all(one.held_out and one.difference.questions == 150 for one in right)


@pytest.mark.long
def test_the_best_of_many_equal_ones_is_no_better_on_the_questions_that_judge_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On those that chose it, it is 0.011 better in the mean of these draws."""
    monkeypatch.setattr(comparison, "SAMPLES", 50)
    winners = [conclude(seed, *(0.6,) * 9).winner for seed in range(15)]
    differences = [one.difference.estimate.mean for one in winners if one is not None]
    assert len(differences) == 15
    assert abs(float(np.mean(differences))) < 0.005


def test_a_variant_that_is_alone_is_judged_by_all_questions() -> None:
    winner = conclude(1, 0.5, 0.65).winner
    assert winner is not None
    assert (winner.held_out, winner.difference.questions) == (False, 300)


def test_what_is_worse_is_not_recommended() -> None:
    winner = conclude(1, 0.6, 0.4).winner
    assert winner is not None
    assert winner.difference.is_seen
    assert not winner.is_recommended


def test_too_few_questions_recommend_nothing() -> None:
    drawn = lists(np.random.default_rng(1), [0.0, 2.0], questions=8)
    found = evaluated(ORIGIN, DEFAULT, [{n: 1} for n in range(8)], drawn, np.random.default_rng(1))
    assert found.winner is not None
    assert found.winner.difference.is_better
    assert not found.winner.is_recommended


def test_a_baseline_alone_has_figures_and_no_winner() -> None:
    found = conclude(1, 0.6)
    assert found.winner is None
    assert found.smallest is None
    assert set(found.found[0].figures) == {"top1", "mrr@10", "ndcg@10", "recall@10"}


def test_the_result_can_be_kept_as_json() -> None:
    one = conclude(1, 0.5, 0.65).to_json()
    assert one["model"] == "model"
    assert one["recommendation"] == "dimensions 257"
    assert one["variants"][1]["difference"]["seen"] is True
