"""`backfill`: shows the progress of a backfill; admin/backfill.py starts and observes it, the worker does the work."""

import time
from itertools import chain

import click

from pg_qwen_embed.admin import backfill as backfilling
from pg_qwen_embed.cli import _progress
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings

SNAPSHOT_INTERVAL = 0.25  # seconds


@click.command()
@click.argument("name")
@with_settings("database_url")
def backfill(settings: Settings, name: str) -> None:
    """Show the backfill of NAME until it is done. Starts one, unless one is in progress.

    The worker does the work. Rows that have their vector are not embedded again. Ctrl-C stops only the display.
    """
    with connect(settings.database_url, "pg_qwen_embed backfill", tables_only=True) as connection:
        backfilling.restart(connection, name)
        snapshots = backfilling.watch(connection, name, time.monotonic, time.sleep, SNAPSHOT_INTERVAL)
        first = next(snapshots)
        if first.status.leader is None:
            say(f"{name}: no worker follows it yet; if none is starting, start one: pg-qwen-embed worker", err=True)
        last = _progress.show(name, chain([first], snapshots))
    say(f"{name}: {last.vectors:,} vectors of {last.rows:,} rows, index {last.index_report}")
