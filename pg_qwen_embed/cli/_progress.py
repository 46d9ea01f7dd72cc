"""The progress of a backfill: a bar in a terminal, otherwise a plain line every few seconds."""

import sys
from collections.abc import Iterator
from typing import Any

import click

from pg_qwen_embed.admin.backfill import Snapshot
from pg_qwen_embed.cli._options import say
from pg_qwen_embed.domain.report import BackfillState, Status

PLAIN_LINE_EVERY = 3.0  # seconds


def show(name: str, snapshots: Iterator[Snapshot]) -> Status:
    """Show snapshots until they end. Returns the status of the last one."""
    return _bar(name, snapshots) if sys.stdout.isatty() else _lines(name, snapshots)


def _bar(name: str, snapshots: Iterator[Snapshot]) -> Status:
    seen = next(snapshots)
    bar: Any
    with click.progressbar(length=_total(seen), label=name, item_show_func=_pace) as bar:
        for seen in snapshots:
            bar.length = _total(seen)
            bar.update(seen.status.backfill.rows_done - bar.pos, seen)
    return seen.status


def _total(seen: Snapshot) -> int:
    return max(1, seen.status.backfill.rows_total)


def _pace(seen: Snapshot | None) -> str:
    if seen is None:
        return ""
    return "building the index" if seen.status.backfill.state is BackfillState.INDEXING else f"{seen.rate:,.0f} rows/s"


def _lines(name: str, snapshots: Iterator[Snapshot]) -> Status:
    spoke = float("-inf")
    for seen in snapshots:
        if seen.at - spoke >= PLAIN_LINE_EVERY:
            spoke = seen.at
            progress = seen.status.backfill
            eta = f", {seen.eta:.0f} s left" if seen.eta else ""
            say(f"{name}: {progress.state}, {progress.rows_done:,} of {progress.rows_total:,} rows, {_pace(seen)}{eta}")
    return seen.status
