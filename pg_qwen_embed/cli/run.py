"""worker, backfill."""

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from pg_qwen_embed import backfill as backfilling
from pg_qwen_embed import worker as working
from pg_qwen_embed.cli.options import with_settings
from pg_qwen_embed.database import connect
from pg_qwen_embed.model import Status
from pg_qwen_embed.settings import Settings

PLAIN_LINE_EVERY = 3.0  # seconds, when there is no terminal
LOOK_EVERY = 0.25
ONCE_PATIENCE = 15.0


@click.command()
@click.option("--once", is_flag=True, help="Drain everything, backfills included, and exit.")
@click.option(
    "--poll", default=5.0, show_default=True, metavar="SECONDS", help="Look at least this often; 0 trusts NOTIFY alone."
)
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"])
)
@with_settings("database_url", "server_url")
def worker(settings: Settings, once: bool, poll: float, log_level: str) -> None:
    """Follow every embedding: backfill it, then keep its vectors in step with the text.

    Run as many as you like: one leads each embedding, the others stand by. SIGTERM and SIGINT finish what is in flight;
    a second signal ends at once.
    """
    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    options = working.Options(once=once, poll=poll, patience=ONCE_PATIENCE if once else None)
    asyncio.run(working.run(settings, options))


@click.command()
@click.argument("name")
@with_settings("database_url")
def backfill(settings: Settings, name: str) -> None:
    """Show the backfill of NAME until it is done; start it if it never ran, or walk again over one that did.

    The worker does the work. Rows that have their vector are not embedded again. Ctrl-C stops the showing only.
    """
    with connect(settings.database_url, "pg_qwen_embed backfill") as connection:
        backfilling.restart(connection, name)
        snapshots = backfilling.watch(connection, name, time.monotonic, time.sleep, LOOK_EVERY)
        last = _bar(name, snapshots) if sys.stdout.isatty() else _lines(name, snapshots)
    click.echo(f"{name}: {last.vectors:,} vectors of {last.rows:,} rows, index {last.index}")


def _bar(name: str, snapshots: Iterator[backfilling.Snapshot]) -> Status:
    first = next(snapshots)
    label = {"phase": "", "rate": ""}
    bar: Any
    with click.progressbar(
        length=max(1, first.status.backfill.rows_total),
        label=name,
        show_eta=True,
        item_show_func=lambda _: f"{label['rate']}{label['phase']}",
    ) as bar:
        seen = first
        for seen in snapshots:
            label["rate"] = f"{seen.rate:,.0f} rows/s"
            label["phase"] = " building the index" if seen.status.backfill.state == "indexing" else ""
            bar.length = max(1, seen.status.backfill.rows_total)
            bar.update(seen.status.backfill.rows_done - bar.pos)
            bar.render_progress()
    return seen.status


def _lines(name: str, snapshots: Iterator[backfilling.Snapshot]) -> Status:
    spoke = 0.0
    for seen in snapshots:
        if seen.at - spoke >= PLAIN_LINE_EVERY:
            spoke = seen.at
            progress = seen.status.backfill
            eta = f", {seen.eta:.0f} s left" if seen.eta is not None else ""
            click.echo(f"{name}: {progress.state}, {progress.rows_done:,} of {progress.rows_total:,} rows, "
                       f"{seen.rate:,.0f} rows/s{eta}")  # fmt: skip
    return seen.status
