"""The low watermark: nothing below it is unread or can still appear.

tests/integration/test_simulated_outbox.py looks for counterexamples at length."""

from hypothesis import given, settings
from simulated_outbox import Step, World, finish, play, steps

from pg_qwen_embed.worker.watermark import Watermark


@settings(max_examples=50)
@given(steps)
def test_nothing_below_the_low_watermark_is_unread_or_can_still_appear(steps: list[Step]) -> None:
    finish(play(steps))


def test_the_low_watermark_follows_when_nothing_is_in_flight() -> None:
    world = World()
    for _ in range(3):
        world.write()
        world.end(0, commits=True)
        world.look(10)
        world.sweep(10, 0)
        world.sweep(10, 0)
    assert world.low.low == world.low.read_position == 3


def test_rewinding_reads_everything_again() -> None:
    low = Watermark()
    low.read(7)
    low.mark(100)
    low.swept(100)
    assert (low.read_position, low.low) == (7, 7)
    low.rewind()
    assert (low.read_position, low.low) == (0, 0)
    low.swept(1000)
    assert low.low == 0
