"""`init`: prints what was done; postgres/migrate.py runs the migrations."""

import click

from pg_qwen_embed.cli._options import with_settings
from pg_qwen_embed.postgres import migrate
from pg_qwen_embed.settings import Settings


@click.command()
@with_settings("database_url")
def init(settings: Settings) -> None:
    """Set up the database: the schemas qwen_embed and _qwen_embed, and pgvector if this role may create it.

    It is safe to run again. After an upgrade of this package it runs the new migrations.
    """
    for line in migrate.init(settings.database_url):
        click.echo(line, err=line.startswith("warning"))
