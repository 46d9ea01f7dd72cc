"""A line of the worker's log is one event, in either format, whatever its values are."""

import json
import logging
import re
from datetime import datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_qwen_embed.cli._log import Json, Logfmt
from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.index_events import IndexWaits
from pg_qwen_embed.domain.secrets import Secrets
from pg_qwen_embed.worker.process import log_event

SECRETS = Secrets(["s3cret-pass"])


def record(event: events.Event, caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    caplog.clear()
    with caplog.at_level("DEBUG", "pg_qwen_embed.worker"):
        partial(log_event, secrets=SECRETS)(event)
    (found,) = caplog.records
    return found


def test_logfmt_has_time_with_its_zone_level_event_and_values(caplog: pytest.LogCaptureFixture) -> None:
    line = Logfmt(SECRETS).format(record(IndexWaits("articles", 7), caplog))
    values = dict(pair.split("=", 1) for pair in line.split(" "))
    assert datetime.fromisoformat(values.pop("time")).utcoffset() is not None
    assert values == {"level": "info", "event": "index_waits", "embedding": "articles", "backlog": "7"}


def test_json_keeps_numbers_as_numbers(caplog: pytest.LogCaptureFixture) -> None:
    found = json.loads(Json(SECRETS).format(record(events.BackfillDone("articles", 9, 4, 1.5), caplog)))
    assert datetime.fromisoformat(found.pop("time")).utcoffset() is not None
    assert found == {
        "level": "info", "event": "backfill_done", "embedding": "articles", "rows": 9, "embedded": 4, "seconds": 1.5
    }  # fmt: skip


@given(st.text())
def test_logfmt_is_read_back_as_it_was(value: str) -> None:
    written = events.logfmt({"reason": value, "after": 1})
    pairs = re.findall(r'(\w+)=("(?:\\.|[^"\\])*"|\S*)', written, re.DOTALL)
    read = {name: re.sub(r"\\(.)", r"\1", own[1:-1], flags=re.DOTALL) if own[:1] == '"' else own for name, own in pairs}
    assert read == {"reason": value, "after": "1"}


@pytest.mark.parametrize("form", [Logfmt, Json])
def test_a_value_can_neither_begin_a_line_nor_show_a_secret(form: type, caplog: pytest.LogCaptureFixture) -> None:
    event = events.ServerUnavailable('x\n2026-01-01 level=info event=forged s3cret-pass "q" \x1b[2J')
    line = form(SECRETS).format(record(event, caplog))
    assert len(line.splitlines()) == 1
    assert "s3cret-pass" not in line
    assert "\x1b" not in line
    if form is Json:
        assert json.loads(line)["event"] == "server_unavailable"


@pytest.mark.parametrize("form", [Logfmt, Json])
def test_what_a_library_logs_has_the_same_form(form: type) -> None:
    try:
        raise ValueError("s3cret-pass went wrong")
    except ValueError as error:
        found = logging.LogRecord("lib", 40, "f", 1, "wrong: %s", ("s3cret-pass",), (ValueError, error, None))
    line = form(SECRETS).format(found)
    assert "s3cret-pass" not in line
    assert "lib" in line.splitlines()[0]
    assert "ValueError" in line
    assert len(line.splitlines()) == (1 if form is Json else 2)
