"""`detach`: asks for confirmation; admin/attach.py removes the embedding."""

import click

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_settings("database_url")
def detach(settings: Settings, name: str, yes: bool) -> None:
    """Remove the embedding NAME: its vectors, triggers and view. The source stays as it was."""
    with connect(settings.database_url, "pg_qwen_embed detach") as connection:
        catalog.find(connection, name)
        if not yes:
            click.confirm(f"Remove the embedding {name} with all its vectors (--yes does not ask)?", abort=True)
        attaching.detach(connection, name)
    say(f"detached {name}")
