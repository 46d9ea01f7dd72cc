"""`mcp`: parses; integrations/mcp.py answers an agent until its input ends."""

import click

from pg_qwen_embed.cli._declaration import names
from pg_qwen_embed.cli._options import with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.integrations.reading import Limits, Reading
from pg_qwen_embed.search.client import Client
from pg_qwen_embed.settings import Settings


@click.command()
@click.option("--embedding", "embeddings", multiple=True, metavar="NAME", help="An embedding to serve.  [default: all]")
@click.option(
    "--columns",
    "columns",
    multiple=True,
    metavar="NAME=COLS",
    help="Columns of the table of NAME that results show in addition to the key and the text, and by which an agent may filter: "
    "articles=lang,likes.",
)
@click.option("--max-rows", default=20, show_default=True, type=click.IntRange(1, 1000), help="Rows of an answer.")
@click.option("--max-bytes", default=50_000, show_default=True, type=click.IntRange(1000), help="Size of an answer.")
@click.option("--timeout", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for a statement.")
@with_settings("database_url", "server_url", "ca_file")
def mcp(
    settings: Settings,
    embeddings: tuple[str, ...],
    columns: tuple[str, ...],
    max_rows: int,
    max_bytes: int,
    timeout: float,
) -> None:
    """Serve searches to an agent, by the Model Context Protocol on standard input and output.

    It only reads. Connect as a role that may read what the agent may see: pg-qwen-embed sql grants prints its rights.
    """
    try:
        from pg_qwen_embed.integrations.mcp import server
    except ModuleNotFoundError:
        raise UsageError("mcp needs a package that is not installed; run: pip install 'pg-qwen-embed[mcp]'") from None
    reading = Reading(
        settings.database_url, dict(map(_columns, columns)), embeddings, Limits(max_rows, max_bytes, timeout)
    )
    reading.embeddings()  # what is wrong with the database or the columns is said now
    with Client(settings.database_url, server_url=settings.server_list, ca_file=settings.ca_file) as client:
        server(reading, client, settings.secrets).run()


def _columns(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, listed = text.rpartition("=")
    if not name or not names(listed):
        raise UsageError(f"--columns {text}: write it like articles=lang,likes")
    return name, names(listed)
