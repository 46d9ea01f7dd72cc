"""A page that cannot be read is halved until its bad rows stand alone, and a page is bounded in bytes."""

import hypothesis.strategies as st
from hypothesis import given

from pg_qwen_embed.worker.page_size import PageSize

MOST = 256


def passed_over(rows: int, bad: set[int], *, too_long: bool = False) -> tuple[set[int], int]:
    """Read rows 0 to `rows`. Returns those that were passed over, and how many pages could not be read."""
    size, at, alone, failures = PageSize(MOST, 1000), 0, set(), 0
    while at < rows:
        page = range(at, min(rows, at + size.rows))
        if bad.isdisjoint(page):
            size.read(len(page), 0, ended_early=False)
            at += len(page)
        else:
            failures += 1
            if size.failed(too_long=too_long):
                alone.add(at)
                size.read(1, 0, ended_early=False)
                at += 1
    return alone, failures


@given(st.sets(st.integers(0, 999), max_size=20), st.booleans())
def test_exactly_the_rows_that_cannot_be_read_are_passed_over(bad: set[int], too_long: bool) -> None:
    assert passed_over(1000, bad, too_long=too_long)[0] == bad


def test_one_bad_row_costs_few_failed_pages() -> None:
    assert max(passed_over(MOST, {n})[1] for n in range(MOST)) <= 9


def test_rows_whose_texts_take_too_long_cost_one_failed_page_and_one_each() -> None:
    assert max(passed_over(MOST, {n}, too_long=True)[1] for n in range(MOST)) == 2
    assert passed_over(MOST, {3, 4, 250}, too_long=True)[1] == 4


def test_a_page_that_ended_early_is_followed_by_one_of_as_many_rows_and_grows_again() -> None:
    size = PageSize(MOST, 1000)
    size.read(3, 1200, ended_early=True)
    assert size.rows == 3
    size.read(3, 900, ended_early=False)  # twice as many would not fit
    assert size.rows == 3
    for _ in range(10):
        size.read(size.rows, 10, ended_early=False)
    assert size.rows == MOST
