"""Request packing, templates, prompts and pauses: what holds for every input."""

import json
import random
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain import retry, template
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION, PromptStyle, query_prompt, style_of
from pg_qwen_embed.domain.template import Part, Placeholder, Template
from pg_qwen_embed.inference.batching import Limits, TokenRatio, pack
from pg_qwen_embed.worker.batch_sizer import SMALLEST_BATCH, WRITE_TIME, BatchSizer

limits = st.builds(Limits, documents=st.integers(1, 10), tokens=st.integers(1, 500))
token_ratios = st.floats(1, 16)


@given(st.lists(st.integers(0, 2000), max_size=60), limits, token_ratios)
def test_every_document_is_in_one_request_once_and_requests_keep_their_limits(
    lengths: list[int], limits: Limits, token_ratio: float
) -> None:
    requests = list(pack(lengths, limits, token_ratio))
    assert sorted(position for request in requests for position in request) == list(range(len(lengths)))
    for request in requests:
        tokens = sum(lengths[position] / token_ratio + 1 for position in request)
        assert 1 <= len(request) <= limits.documents
        assert tokens <= limits.tokens + 1e-6 or len(request) == 1


@given(st.lists(st.integers(0, 2000), max_size=60), limits, token_ratios)
def test_a_request_never_holds_a_shorter_document_than_the_one_before(
    lengths: list[int], limits: Limits, token_ratio: float
) -> None:
    packed = [lengths[position] for request in pack(lengths, limits, token_ratio) for position in request]
    assert packed == sorted(packed)


def test_token_ratio_follows_what_the_server_counts_and_believes_no_nonsense() -> None:
    token_ratio = TokenRatio()
    for _ in range(100):
        token_ratio.counted(6400, 64, 1664)  # four bytes a token, and one token more for each document
    assert token_ratio.bytes_per_token == pytest.approx(4, abs=0.01)
    for tokens in (0, 64, 10**9, 65):
        token_ratio.counted(6400, 64, tokens)
    assert 1 <= token_ratio.bytes_per_token <= 16


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}\\!:[].\0"), min_size=1).filter(
    lambda name: not name.isdigit()
)
literals = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\\0"), min_size=1)


def merged(parts: Iterable[Part]) -> list[Part]:
    """Neighbouring literals joined: a doubled brace may divide them."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


@given(st.lists(st.one_of(names.map(Placeholder), literals)), names)
def test_a_template_that_is_written_out_is_read_back(parts: list[Part], name: str) -> None:
    parts = [*parts, Placeholder(name)]
    written = "".join(
        "{" + part.column + "}" if isinstance(part, Placeholder) else part.replace("{", "{{").replace("}", "}}")
        for part in parts
    )
    assert merged(template.parse(written).parts) == merged(parts)


@given(st.lists(st.one_of(names.map(Placeholder), literals)), st.none() | st.text())
def test_the_registry_keeps_a_template_as_it_is(parts: list[Placeholder | str], separator: str | None) -> None:
    whole = Template(tuple(parts), separator)
    assert template.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@given(st.text())
def test_any_text_is_a_template_or_rejected_with_a_sentence(text: str) -> None:
    with suppress(UsageError):
        assert template.parse(text).columns


@pytest.mark.parametrize("text", ["{a!r}", "{a:>3}", "{a!r:x}", "{}", "{", "}", "{a", "no column", "", "{{a}}", "{a}}"])
def test_what_is_not_a_template_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="template"):
        template.parse(text)


def test_escapes_in_a_template_are_those_of_the_documentation() -> None:
    assert merged(template.parse(r"{title}\n\n{body}\t\\n {{x}}").parts) == [
        Placeholder("title"), "\n\n", Placeholder("body"), "\t\\n {x}"
    ]  # fmt: skip


def test_the_columns_of_a_template_come_once_in_order() -> None:
    assert template.parse("{b} {a} {b}").columns == ("b", "a")
    assert template.from_columns(("a", "b", "a")).columns == ("a", "b")


def test_the_prompt_of_qwen3_is_that_of_its_model_card() -> None:
    assert query_prompt(PromptStyle.QWEN3, "Find", "it") == "Instruct: Find\nQuery:it"
    assert query_prompt(PromptStyle.PLAIN, "Find", "it") == "it"
    assert DEFAULT_INSTRUCTION == "Given a web search query, retrieve relevant passages that answer the query"


@pytest.mark.parametrize(
    ("model", "style"),
    [("Qwen/Qwen3-Embedding-0.6B", "qwen3"), ("/models/qwen3-embedding-8b-awq", "qwen3"), ("Qwen/Qwen3-8B", "plain"),
     ("all-MiniLM-L6-v2", "plain")],
)  # fmt: skip
def test_the_style_of_a_prompt_follows_the_models_name(model: str, style: str) -> None:
    assert style_of(model) == style


@given(st.integers(1, 10_000), st.floats(0.001, 10), st.floats(0.001, 100), st.randoms(use_true_random=False))
def test_a_pause_is_between_nothing_and_its_cap(attempt: int, base: float, cap: float, rng: random.Random) -> None:
    assert 0 <= retry.backoff(attempt, base=base, cap=cap, rng=rng) <= min(cap, base * 2.0 ** min(attempt - 1, 32))


def test_pauses_grow_until_their_cap() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    assert [retry.backoff(n, base=0.5, cap=3, rng=Highest()) for n in range(1, 6)] == [0.5, 1, 2, 3, 3]


@given(st.floats(1e-6, 0.05), st.integers(1, 1000))
def test_writes_come_to_take_the_time_they_may_whatever_a_row_costs(seconds_a_row: float, most: int) -> None:
    sizer = BatchSizer(most)
    for _ in range(4):
        sizer.written(sizer.rows, sizer.rows * seconds_a_row)
    fewest = min(most, SMALLEST_BATCH)
    assert fewest <= sizer.rows <= most
    assert sizer.rows == fewest or sizer.rows * seconds_a_row <= WRITE_TIME * 1.001
    assert sizer.rows == most or (sizer.rows + 1) * seconds_a_row >= WRITE_TIME * 0.999


@given(st.floats(0, 10))
def test_writes_that_take_long_whatever_their_size_are_not_made_small(fixed: float) -> None:
    sizer = BatchSizer(512)
    for rows in (1, 0, 1, 1):
        sizer.written(rows, fixed)
    assert sizer.rows >= SMALLEST_BATCH
