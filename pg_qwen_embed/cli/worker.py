"""`worker`: parses options and sets up the log; worker/process.py runs the worker."""

import asyncio
import logging
import sys

import click

from pg_qwen_embed.cli._options import with_settings
from pg_qwen_embed.domain.foreign import escaped
from pg_qwen_embed.domain.report import INDEX_FROM
from pg_qwen_embed.domain.secrets import Secrets
from pg_qwen_embed.inference.sglang import READ_TIMEOUT
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker import process as working
from pg_qwen_embed.worker.options import MOST_REQUESTS, Options

ONCE_OUTAGE_TIMEOUT = 15.0  # seconds


class LogFormatter(logging.Formatter):
    """Also for what libraries log: without secrets, and in one line unless it is a traceback."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        traceback = "\n" if record.exc_info or record.stack_info else ""
        return escaped(self._secrets.hidden(super().format(record)), keep=traceback)


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
) -> None:
    """Follow every embedding: backfill it, then keep its vectors in step with the text.

    Run as many workers as you like: one leads each embedding, the others stand by. On SIGTERM or SIGINT a worker finishes
    what is in flight; a second signal ends it at once.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(settings.secrets))
    logging.basicConfig(handlers=[handler], level=log_level.upper())
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
