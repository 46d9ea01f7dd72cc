"""`attach`: parses a declaration; admin/attach.py does the work."""

from dataclasses import replace

import click

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.cli._declaration import DeclarationOptions, declaration_options, names
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.domain.prompt import PromptStyle, without_instruction
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings


@click.command()
@click.argument("table")
@declaration_options
@click.option(
    "--key",
    default="",
    metavar="COLS",
    help="The columns that identify a row, 'tenant,id': NOT NULL, with a unique index.  [default: the primary key]",
)
@click.option("--no-backfill", is_flag=True, help="Embed only rows that change from now on.")
@click.option("--dry-run", is_flag=True, help="Print the SQL, its locks and grants. Nothing is created.")
@with_settings("database_url", "server_url", "ca_file")
def attach(
    settings: Settings, table: str, options: DeclarationOptions, key: str, no_backfill: bool, dry_run: bool
) -> None:
    """Declare an embedding on TABLE, written as in SQL: articles, public.articles, app."Odd Name".

    A running worker fills it and keeps it in step; no further command is needed.
    """
    declaration = replace(options.resolved(settings, table, backfill=not no_backfill), key=names(key))
    with connect(settings.database_url, "pg_qwen_embed attach") as connection:
        if dry_run:
            click.echo(attaching.dry_run(connection, declaration))
            return
        embedding = attaching.attach(connection, declaration)
    spec = embedding.live.spec
    say(
        f"attached {embedding.source.table} as {embedding.name}: {spec.model}, {spec.dimensions} dimensions\n"
        f'query it with: pg-qwen-embed search {embedding.name} "..."   or SQL on the view qwen_embed.{embedding.name}'
    )
    if spec.prompt_style is PromptStyle.PLAIN and options.properties["prompt_style"] is None:
        say(f"note: {without_instruction(spec.model)}", err=True)
