"""`init`: prints what was done; admin/init.py does the work."""

import click

from pg_qwen_embed.admin import init as initialising
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.settings import Settings


@click.command()
@with_settings("database_url")
def init(settings: Settings) -> None:
    """Set up the database: the schemas qwen_embed and _qwen_embed, and pgvector if this role may create it.

    It is safe to run again. After an upgrade of this package it runs the new migrations, and creates triggers, functions and
    views as this release needs them. In a database that was made from a dump of the schema alone it removes what is left of
    embeddings.
    """
    for line in initialising.init(settings.database_url):
        say(line, err=line.startswith("warning"))
