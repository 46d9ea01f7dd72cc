"""`init`: prints what was done; admin/init.py does the work."""

import click

from pg_qwen_embed.admin import init as initialising
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.settings import Settings


@click.command()
@click.option("--database-defaults", is_flag=True, help="Set hnsw.iterative_scan = strict_order for the database.")
@with_settings("database_url")
def init(settings: Settings, database_defaults: bool) -> None:
    """Set up the database: the schemas qwen_embed and _qwen_embed, and pgvector if this role may create it.

    It is safe to run again. After an upgrade of this package it runs the new migrations, and creates triggers, functions and
    views as this release needs them. In a database that was made from a dump of the schema alone it removes what is left of
    embeddings.

    With --database-defaults, a SELECT on a view that has a filter, or a LIMIT above 40, returns as many rows as there are.
    Only the owner of the database may set it; sessions that are open keep what they have.
    """
    for line in initialising.init(settings.database_url, database_defaults=database_defaults):
        say(line, err=line.startswith("warning"))
