"""`search`: prints the hits; search/client.py embeds the query and runs the search."""

from math import isnan

import click

from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.query import MODES
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.search.client import Client
from pg_qwen_embed.settings import Settings

SNIPPET = 100  # characters of a value shown in a terminal


@click.command()
@click.argument("name")
@click.argument("text")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Number of rows.")
@click.option(
    "--mode", type=click.Choice(MODES), help="By vectors, by words, or by both; see attach --words.  [default: vector]"
)
@click.option("--hybrid", is_flag=True, help="The same as --mode hybrid.")
@json_option
@with_settings("database_url", "server_url", "ca_file")
def search(settings: Settings, name: str, text: str, limit: int, mode: str | None, hybrid: bool, as_json: bool) -> None:
    """Find the rows of NAME nearest to TEXT, nearest first."""
    if hybrid and mode not in (None, "hybrid"):
        raise UsageError(f"--hybrid is --mode hybrid, and --mode {mode} is another; leave one of them out")
    chosen = "hybrid" if hybrid else mode or "vector"
    with Client(settings.database_url, server_url=settings.server_list, ca_file=settings.ca_file) as client:
        hits = client.search(name, text, limit, mode=chosen)
    if as_json:
        print_json([_json(hit) for hit in hits])
        return
    for hit in hits:
        say(_line(hit))
    if not hits:
        nothing = "has no row with these words" if chosen == "words" else "holds no vectors yet; is a worker running"
        say(f"{name} {nothing}? See: pg-qwen-embed status {name}", err=True)


def _json(hit: Hit) -> dict[str, object]:
    found: dict[str, object] = {"distance": None if isnan(hit.distance) else hit.distance, "row": hit.row}
    ranks = {"score": hit.score, "vector_rank": hit.vector_rank, "text_rank": hit.text_rank}
    return found if hit.score is None else found | ranks


def _line(hit: Hit) -> str:
    values = "  ".join(f"{shown(name)}={shown(value, SNIPPET)}" for name, value in hit.row.items())
    return f"{hit.distance if hit.score is None else hit.score:.4f}  {values}"
