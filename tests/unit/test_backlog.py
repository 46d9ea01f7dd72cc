"""When the outbox is compacted: never for little, and never so often that it costs more than a bounded share."""

from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.worker.backlog import LEAST, MOST_PARTS, PART, Backlog, parts


def test_a_short_outbox_is_not_compacted() -> None:
    assert not Backlog().due(LEAST - 1, 0)
    assert not Backlog().due(10 * LEAST, 10 * LEAST - 5)
    assert Backlog().due(LEAST, 0)


@given(st.lists(st.tuples(st.integers(1, 50_000), st.floats(0, 1)), min_size=1, max_size=60))
def test_what_compactions_read_is_bounded_by_what_was_appended(bursts: list[tuple[int, float]]) -> None:
    """Each burst is appended to an outbox that nobody reads meanwhile; of its entries this share is repeated."""
    backlog, newest, entries, read = Backlog(), 0, 0, 0
    for appended, repeated in bursts:
        newest, entries = newest + appended, entries + appended
        if backlog.due(newest, 0):
            read += entries
            removed = round(entries * repeated)
            entries -= removed
            backlog.compacted(newest, removed, entries)
    assert read <= 3 * newest


def test_compactions_that_remove_nothing_become_rarer_until_the_outbox_was_read_to_its_end() -> None:
    backlog = Backlog()
    backlog.compacted(10_000, 0, 100)
    assert not backlog.due(10_000 + LEAST, 10_000)
    assert backlog.due(10_000 + 2 * LEAST, 10_000)
    backlog.emptied()
    assert backlog.due(10_000 + LEAST, 10_000)


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_part_has_a_bounded_share_of_the_entries(oldest: int, span: int) -> None:
    found = parts(oldest + span, oldest)
    assert 1 <= found <= MOST_PARTS
    assert span / found <= PART or found == MOST_PARTS
