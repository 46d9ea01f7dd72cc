"""`attach`: parses a declaration; admin/attach.py does the work."""

from dataclasses import replace

import click

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.admin import instructions
from pg_qwen_embed.admin.declared import differences
from pg_qwen_embed.cli._declaration import DeclarationOptions, declaration_options, names
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.prompt import PromptStyle, is_packaged, without_instruction
from pg_qwen_embed.postgres import catalog
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
@click.option(
    "--grant-to",
    "readers",
    multiple=True,
    metavar="ROLE",
    help="Let ROLE search: the rights of a reader (`sql grants`).",
)
@click.option(
    "--if-not-exists", is_flag=True, help="Do nothing if it is attached as declared; an error says what differs."
)
@click.option("--dry-run", is_flag=True, help="Print the SQL, its locks and grants. Nothing is created.")
@with_settings("database_url", "server_url", "ca_file")
def attach(
    settings: Settings,
    table: str,
    options: DeclarationOptions,
    key: str,
    no_backfill: bool,
    readers: tuple[str, ...],
    if_not_exists: bool,
    dry_run: bool,
) -> None:
    """Declare an embedding on TABLE, written as in SQL: articles, public.articles, app."Odd Name".

    A running worker fills it and keeps it in step; no further command is needed.
    """
    if if_not_exists and (there := _attached(settings, table, options, names(key))):
        say(f"{there} is attached already, as declared")
        return
    declaration = replace(options.resolved(settings, table, backfill=not no_backfill), key=names(key), readers=readers)
    with connect(settings.database_url, "pg_qwen_embed attach") as connection:
        if dry_run:
            click.echo(attaching.dry_run(connection, declaration))
            return
        embedding = attaching.attach(connection, declaration)
    spec = embedding.live.spec
    say(
        f"attached {embedding.source.table} as {embedding.name}: {spec.model}, {spec.dimensions} dimensions\n"
        f"a worker embeds {'changed rows' if no_backfill else 'its rows'}: pg-qwen-embed worker\n"
        f"then search it: {command('search {} TEXT', embedding.name)}, or in SQL: {command('sql query {}', embedding.name)}"
    )
    is_wanted = options.properties["prompt_style"] is not None or is_packaged(spec.model)
    if spec.prompt_style is PromptStyle.PLAIN and not is_wanted:
        say(f"note: {without_instruction(spec.model)}", err=True)


def _attached(settings: Settings, table: str, options: DeclarationOptions, key: tuple[str, ...]) -> str | None:
    """The name of the embedding if it is attached as declared. Raises UsageError if it is, and differs."""
    with connect(settings.database_url, "pg_qwen_embed attach") as connection:
        catalog.require_initialised(connection)
        _, source = catalog.find_source(connection, table, key)
        name = options.name or source.table.name
        found = catalog.registered(connection, name)
        options = replace(options, instruction=instructions.resolved(connection, options.instruction))
    if not found:
        return None
    there = found[0].embedding
    wrong = differences(there, replace(options.like(there.live.spec, settings, table), key=key), str(source.table))
    if wrong:
        raise UsageError(f"{name} is attached already, but not as declared: {'; '.join(wrong)}; nothing was changed")
    return name
