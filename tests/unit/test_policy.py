"""What to do after an error: the decisions of docs/decisions/0005, for every kind of error."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.domain.errors import (
    DocumentRejected,
    Error,
    ModelMismatch,
    ProtocolError,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from pg_qwen_embed.worker import policy
from pg_qwen_embed.worker.policy import Attempts, Decision, Fail, OtherServer, Park, Retry, Split

RNG = random.Random(1)


def after(error: Error, times: int, size: int, *, others: bool = False) -> Decision:
    """The decision when the same error occurs for the `times`-th time."""
    attempts = Attempts()
    for _ in range(times):
        attempts = attempts.counted(error, came_further=False)
    return policy.after(error, attempts, size, others=others, rng=RNG)


def kind(decision: object) -> type:
    return type(decision)


def test_a_rejected_request_is_split_until_the_document_stands_alone() -> None:
    assert after(DocumentRejected("too long"), 0, 64) == Split()
    assert after(DocumentRejected("too long"), 0, 2, others=True) == Split()
    assert after(DocumentRejected("too long"), 0, 1) == Fail("too long")


def test_a_rejected_document_is_taken_to_the_servers_that_have_not_rejected_it() -> None:
    assert after(DocumentRejected("too long"), 0, 1, others=True) == OtherServer()


@pytest.mark.parametrize("error", [ServerUnavailable("away"), ModelMismatch("another")])
@pytest.mark.parametrize("size", [1, 64])
def test_a_server_that_is_away_is_waited_for_without_end(error: Error, size: int) -> None:
    assert {kind(after(error, times, size)) for times in range(1, 100)} == {Retry}


@pytest.mark.parametrize("error", [ServerFault("NaN"), ProtocolError("404")])
def test_a_request_that_a_server_answers_wrongly_three_times_is_the_cause_itself(error: Error) -> None:
    assert [kind(after(error, times, 64)) for times in (1, 2, 3)] == [Retry, Retry, Split]
    assert [kind(after(error, times, 1)) for times in (1, 2, 3)] == [Retry, Retry, Fail]


def test_a_request_that_came_too_early_is_not_made_smaller_before_it_was_sent_away_very_often() -> None:
    early = ServerOverloaded("slow down", retry_after=8.0)
    assert {kind(after(early, times, 64)) for times in range(1, policy.SENT_AWAY)} == {Retry}
    assert after(early, policy.SENT_AWAY, 64) == Split(remember=True)
    assert after(early, policy.SENT_AWAY, 1) == Fail("slow down")


def test_an_overloaded_server_gets_smaller_requests_and_then_smaller_parts() -> None:
    overloaded = ServerOverloaded("full")
    assert [kind(after(overloaded, times, 64)) for times in (1, 2, 3)] == [Retry, Retry, Split]
    assert after(overloaded, 3, 64) == Split(remember=True)
    alone = [after(overloaded, times, 1) for times in range(1, 9)]
    assert [one.fewer_chunks for one in alone if isinstance(one, Retry)] == [False, False, True, True, True, True, True]
    assert alone[-1] == Fail("full")


def test_attempts_count_from_the_beginning_when_some_of_the_request_was_embedded() -> None:
    attempts = Attempts()
    for _ in range(2):
        attempts = attempts.counted(ServerFault("NaN"), came_further=False)
    assert attempts == Attempts(number=2, faults=2)
    assert attempts.counted(ServerFault("NaN"), came_further=True) == Attempts(number=1, faults=1)


@given(st.integers(1, 50), st.integers(1, 64), st.randoms(use_true_random=False))
def test_a_pause_before_a_retry_is_at_most_five_seconds(times: int, size: int, rng: random.Random) -> None:
    decision = policy.after(ServerUnavailable("away"), Attempts(number=times), size, others=False, rng=rng)
    assert isinstance(decision, Retry)
    assert 0 <= decision.seconds <= 5.0


@pytest.mark.parametrize("sqlstate", ["22P02", "23505", "P0001", "44000", "54000", "53200", "XX000", "42883", "0A000"])
def test_an_error_that_is_not_understood_may_be_a_rows_fault(sqlstate: str) -> None:
    assert policy.may_be_a_rows_fault(sqlstate)


@pytest.mark.parametrize("sqlstate", ["57014", "57P01", "40P01", "40001", "53100", "53300", "55P03", "08006", None])
def test_a_lost_connection_a_lock_and_an_administrator_are_no_rows_fault(sqlstate: str | None) -> None:
    assert not policy.may_be_a_rows_fault(sqlstate)


def test_an_error_of_a_row_splits_its_group_until_the_row_stands_alone() -> None:
    assert policy.after_write("bad", 1, 12, by_a_row=True, rng=RNG) == Split()
    assert policy.after_write("bad", 1, 1, by_a_row=True, rng=RNG) == Fail("PostgreSQL: bad")
    assert (
        policy.after_write("bad", 1, 0, by_a_row=True, rng=RNG) == Split()
    )  # the rows are written; what follows them is not


def test_every_other_error_of_a_write_is_waited_out() -> None:
    for attempt in range(1, 50):
        decision = policy.after_write("busy", attempt, 12, by_a_row=False, rng=RNG)
        assert isinstance(decision, Retry)
        assert 0 <= decision.seconds <= 5.0


def test_a_rejected_document_is_tried_less_and_less_often_and_parked_at_last() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    decisions = [policy.after_rejection(n, rng=Highest()) for n in range(1, policy.REJECTIONS + 1)]
    assert [one.seconds for one in decisions if isinstance(one, Retry)] == [20, 30, 50, 90, 170, 330, 650]
    assert decisions[-1] == Park()
