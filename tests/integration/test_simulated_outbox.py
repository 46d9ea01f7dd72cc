"""The low watermark against many random histories of a simulated outbox; the unit tests try a few."""

import pytest
from hypothesis import given, settings
from simulated_outbox import Step, finish, play, steps

thoroughly = settings(max_examples=500)


@pytest.mark.long
@thoroughly
@given(steps)
def test_nothing_below_the_low_watermark_is_unread_or_can_still_appear(steps: list[Step]) -> None:
    play(steps)


@pytest.mark.long
@thoroughly
@given(steps)
def test_once_all_transactions_have_ended_sweeps_find_everything(steps: list[Step]) -> None:
    finish(play(steps))
