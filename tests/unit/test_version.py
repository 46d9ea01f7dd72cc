"""Versions: they rise with the reads of a leader, and from leader to leader."""

from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.version import READS, Versions

LAST_TERM = (1 << 42) - 1  # a millisecond of the year 2109


@given(st.integers(0, LAST_TERM - 1), st.integers(0, 20))
def test_every_version_of_a_term_is_below_those_of_the_next(term: int, reads: int) -> None:
    one, next_one = Versions(term), Versions(term + 1)
    found = [one.current]
    for _ in range(reads):
        one.advance()
        found.append(one.current)
    assert found == sorted(set(found))
    assert found[-1] < next_one.current < 1 << 63


def test_term_that_has_given_all_its_versions_is_exhausted() -> None:
    versions = Versions(3)
    versions.current += READS - 1
    assert not versions.exhausted
    versions.advance()
    assert versions.exhausted
    assert versions.current == Versions(4).current
