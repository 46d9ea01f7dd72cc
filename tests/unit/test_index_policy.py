"""When an index is built, when it waits, and when it gives way."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.index import HNSW, Index, parse
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.worker.index_policy import DROP_BACKLOG, DROP_VECTORS, SMALL_BACKLOG, Action, Seen, decide

NONE, BUILDING, INVALID, VALID = IndexState.NONE, IndexState.BUILDING, IndexState.INVALID, IndexState.VALID
SEEN = Seen(NONE, ours=True, needed=True, vectors=40_000, backlog=0)


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        (SEEN, Action.BUILD),
        (replace(SEEN, needed=False, vectors=10), Action.NONE),
        (replace(SEEN, backlog=SMALL_BACKLOG), Action.BUILD),
        (replace(SEEN, backlog=SMALL_BACKLOG + 1), Action.WAIT_FOR_BACKLOG),
        (replace(SEEN, vectors=10**8, backlog=40_000), Action.BUILD),
        (replace(SEEN, state=BUILDING), Action.WAIT_FOR_BUILD),
        (replace(SEEN, state=INVALID), Action.BUILD),
        (replace(SEEN, state=INVALID, needed=False), Action.DROP),
        (replace(SEEN, state=INVALID, ours=False, backlog=10_000), Action.DROP),
        (replace(SEEN, state=VALID), Action.NONE),
        (replace(SEEN, state=VALID, needed=False), Action.NONE),
        (replace(SEEN, state=VALID, backlog=39_999), Action.NONE),
        (replace(SEEN, state=VALID, backlog=40_000), Action.DROP),
        (replace(SEEN, state=VALID, vectors=10, backlog=DROP_BACKLOG - 1), Action.NONE),
        (replace(SEEN, state=VALID, vectors=10, backlog=DROP_BACKLOG), Action.DROP),
        (replace(SEEN, state=VALID, ours=False, backlog=10**6), Action.NONE),
        (replace(SEEN, state=VALID, vectors=10**8, backlog=40_000), Action.NONE),
    ],
)
def test_an_index_is_built_waits_or_gives_way(seen: Seen, action: Action) -> None:
    assert decide(seen) is action


seen = st.builds(Seen, st.sampled_from(IndexState), st.booleans(), st.booleans(), st.integers(0, 10**9),
                 st.integers(0, DROP_VECTORS + 1))  # fmt: skip


@given(seen)
def test_a_valid_index_of_many_vectors_or_of_somebody_else_is_never_dropped(seen: Seen) -> None:
    if seen.state is VALID and decide(seen) is Action.DROP:
        assert seen.ours
        assert seen.vectors <= min(seen.backlog, DROP_VECTORS)


@given(seen)
def test_an_index_that_was_dropped_is_not_built_for_the_same_backlog(seen: Seen) -> None:
    if decide(seen) is Action.DROP:
        assert decide(replace(seen, state=NONE)) is not Action.BUILD


IVFFLAT = parse("ivfflat")


@pytest.mark.parametrize(
    ("seen", "index", "action"),
    [
        (replace(SEEN, wanted=False), HNSW, Action.NONE),
        (replace(SEEN, wanted=False, state=INVALID), HNSW, Action.DROP),
        (replace(SEEN, wanted=False, state=VALID), HNSW, Action.DROP),
        (replace(SEEN, wanted=False, state=VALID, ours=False), HNSW, Action.NONE),
        (replace(SEEN, state=VALID, leftover=True), HNSW, Action.DROP_LEFTOVER),
        (replace(SEEN, state=VALID, analysed=40_001, lists=10), IVFFLAT, Action.NONE),
        (replace(SEEN, state=VALID, analysed=41_000, lists=10), IVFFLAT, Action.REBUILD),
        (replace(SEEN, state=VALID, analysed=41_000, lists=10, ours=False), IVFFLAT, Action.NONE),
        (replace(SEEN, state=VALID, analysed=41_000, lists=10, backlog=2_000), IVFFLAT, Action.NONE),
        (replace(SEEN, state=VALID, analysed=41_000, lists=10), parse("ivfflat:lists=10"), Action.NONE),
        (replace(SEEN, state=VALID, analysed=41_000), HNSW, Action.NONE),
    ],
)
def test_an_index_is_as_it_is_wanted_and_as_large_as_its_table(seen: Seen, index: Index, action: Action) -> None:
    assert decide(seen, index) is action
