"""worker, backfill."""

import asyncio
import logging
import sys
import time

import click

from pg_qwen_embed import backfill as backfilling
from pg_qwen_embed import worker as working
from pg_qwen_embed.cli import progress
from pg_qwen_embed.cli.options import with_settings
from pg_qwen_embed.database import connect
from pg_qwen_embed.options import MOST_REQUESTS, Options
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.sglang import READ_TIMEOUT

LOOK_EVERY = 0.25  # seconds
ONCE_PATIENCE = 15.0


@click.command()
@click.option("--once", is_flag=True, help="Drain everything, backfills included, and exit.")
@click.option(
    "--poll",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Look at least this often; 0 trusts NOTIFY alone.",
)
@click.option(
    "--verify-every",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Look for drift this often, gently, and repair it.  [default: never]",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=READ_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="For one request.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 1024),
    default=MOST_REQUESTS,
    show_default=True,
    metavar="N",
    help="Send a server at most so many requests at once; how many are best is found below that.",
)
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"])
)
@with_settings("database_url", "server_url", "ca_file")
def worker(
    settings: Settings,
    once: bool,
    poll: float,
    request_timeout: float,
    verify_every: float,
    max_requests: int,
    log_level: str,
) -> None:
    """Follow every embedding: backfill it, then keep its vectors in step with the text.

    Run as many as you like: one leads each embedding, the others stand by. SIGTERM and SIGINT finish what is in flight;
    a second signal ends at once.
    """
    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    options = Options(
        once=once,
        poll=poll,
        patience=ONCE_PATIENCE if once else None,
        request_timeout=request_timeout,
        verify_every=verify_every,
        most_requests=max_requests,
    )
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
        last = progress.show(name, snapshots)
    click.echo(f"{name}: {last.vectors:,} vectors of {last.rows:,} rows, index {last.index}")
