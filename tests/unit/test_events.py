"""Events: every subscriber hears each of them, and the log shows their names and values."""

import logging

import pytest

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.events import Event, Events
from pg_qwen_embed.worker.process import log_event

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]


def test_every_subscriber_hears_every_event_in_order() -> None:
    heard: list[tuple[str, Event]] = []
    bus = Events(lambda event: heard.append(("first", event)))
    bus.subscribe(lambda event: heard.append(("second", event)))
    sent = [events.Connected("shop", 1), events.Left("articles", 2)]
    for event in sent:
        bus.emit(event)
    assert heard == [(who, event) for event in sent for who in ("first", "second")]


def test_the_log_line_of_an_event_is_its_name_and_its_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pg_qwen_embed.worker"):
        log_event(events.WriteFailed("articles", 2, "the disk is full"))
        log_event(events.GroupWritten("articles", 512, 0.25))
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", 'write_failed embedding=articles attempt=2 reason="the disk is full"'),
        ("DEBUG", "group_written embedding=articles rows=512 seconds=0.25"),
    ]


def test_what_happens_for_each_batch_is_not_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pg_qwen_embed.worker"):
        for event in (
            events.GroupWritten("a", 1, 0.1),
            events.ChangesRead("a", 1),
            events.DocumentsEncoded("a", 1, 0.1),
        ):
            log_event(event)
    assert caplog.records == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_is_frozen(kind: type[Event]) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
