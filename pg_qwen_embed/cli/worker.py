"""worker."""

import asyncio
import logging
import sys

import click

from pg_qwen_embed.cli._options import with_settings
from pg_qwen_embed.inference.sglang import READ_TIMEOUT
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker import process as working
from pg_qwen_embed.worker.options import MOST_REQUESTS, Options

ONCE_OUTAGE_TIMEOUT = 15.0


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
        outage_timeout=ONCE_OUTAGE_TIMEOUT if once else None,
        request_timeout=request_timeout,
        verify_every=verify_every,
        most_requests=max_requests,
    )
    asyncio.run(working.run(settings, options))
