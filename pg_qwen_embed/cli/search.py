"""`search`: prints the hits; search/client.py embeds the query and runs the search."""

import click

from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.search.client import Client
from pg_qwen_embed.settings import Settings

SNIPPET = 100  # characters of a value shown in a terminal


@click.command()
@click.argument("name")
@click.argument("text")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Number of rows.")
@json_option
@with_settings("database_url", "server_url", "ca_file")
def search(settings: Settings, name: str, text: str, limit: int, as_json: bool) -> None:
    """Find the rows of NAME nearest to TEXT, nearest first."""
    with Client(settings.database_url, server_url=settings.server_list, ca_file=settings.ca_file) as client:
        hits = client.search(name, text, limit)
    if as_json:
        print_json([{"distance": hit.distance, "row": hit.row} for hit in hits])
        return
    for hit in hits:
        say(_line(hit))
    if not hits:
        say(f"{name} holds no vectors yet; is a worker running? See: pg-qwen-embed status {name}", err=True)


def _line(hit: Hit) -> str:
    values = "  ".join(f"{shown(name)}={shown(value, SNIPPET)}" for name, value in hit.row.items())
    return f"{hit.distance:.4f}  {values}"
