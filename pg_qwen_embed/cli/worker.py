"""`worker`: parses options and sets up the log; worker/process.py runs the worker."""

import asyncio

import click

from pg_qwen_embed.cli import _log
from pg_qwen_embed.cli._options import with_settings
from pg_qwen_embed.domain.report import INDEX_FROM
from pg_qwen_embed.inference.sglang import READ_TIMEOUT
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker import process as working
from pg_qwen_embed.worker.options import MOST_REQUESTS, Options

ONCE_OUTAGE_TIMEOUT = 15.0  # seconds


@click.command()
@click.option("--once", is_flag=True, help="Drain everything, backfills included, and exit.")
@click.option(
    "--poll",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Look for changes at least this often; 0: rely on NOTIFY alone.",
)
@click.option(
    "--verify-every",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Look for drift this often, with pauses, and repair it.  [default: never]",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=READ_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Timeout of one request to the embedding server.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 1024),
    default=MOST_REQUESTS,
    show_default=True,
    metavar="N",
    help="Most requests in flight on a server. The worker finds the best number up to N.",
)
@click.option(
    "--index-from",
    type=click.IntRange(min=0),
    default=INDEX_FROM,
    show_default=True,
    metavar="N",
    help="Build no index for fewer vectors: queries compare them all.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Lowest level that is logged.",
)
@click.option(
    "--log-format", default="logfmt", show_default=True, type=click.Choice(_log.FORMATS), help="One event a line."
)
@with_settings("database_url", "server_url", "ca_file")
def worker(
    settings: Settings,
    once: bool,
    poll: float,
    request_timeout: float,
    verify_every: float,
    max_requests: int,
    index_from: int,
    log_level: str,
    log_format: str,
) -> None:
    """Follow every embedding: backfill it, then keep its vectors in step with the text.

    Run as many workers as you like: one leads each embedding, the others stand by. On SIGTERM or SIGINT a worker finishes
    what is in flight; a second signal ends it at once.
    """
    _log.set_up(settings.secrets, log_level, log_format)
    options = Options(
        once=once,
        poll=poll,
        outage_timeout=ONCE_OUTAGE_TIMEOUT if once else None,
        request_timeout=request_timeout,
        verify_every=verify_every,
        most_requests=max_requests,
        index_from=index_from,
    )
    asyncio.run(working.run(settings, options))
