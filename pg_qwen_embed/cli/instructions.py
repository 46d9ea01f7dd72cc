"""`instructions list`, `add` and `remove`: parses and prints; admin/instructions.py reads and changes the pool."""

import dataclasses

import click

from pg_qwen_embed.admin import instructions as pool
from pg_qwen_embed.cli._options import InOrder, json_option, print_json, say, with_settings
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings

PURPOSE = "pg_qwen_embed instructions"


@click.group(cls=InOrder)
def instructions() -> None:
    """Instructions by name, for `attach --instruction @NAME` and `alter --instruction @NAME`.

    An instruction says what a query asks for. An embedding keeps the text, so removing a name changes no embedding.
    """


@instructions.command("list")
@json_option
@with_settings("database_url")
def list_(settings: Settings, as_json: bool) -> None:
    """List the instructions that are shipped, then those that were added."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        found = pool.listing(connection)
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    width = max(len(one.name) for one in found) + 1
    for one in found:
        say(f"{'@' + one.name:<{width}}  {one.instruction}")


@instructions.command()
@click.argument("name")
@click.argument("text")
@with_settings("database_url")
def add(settings: Settings, name: str, text: str) -> None:
    """Add TEXT under NAME. Write it in English, whatever the language of the documents."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        pool.add(connection, name, text)
    say(f"added @{name}; use it with: pg-qwen-embed attach TABLE --text COLUMN --instruction @{name}")


@instructions.command()
@click.argument("name")
@with_settings("database_url")
def remove(settings: Settings, name: str) -> None:
    """Remove NAME, which was added. Embeddings keep their instruction."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        pool.remove(connection, name)
    say(f"removed @{name.removeprefix('@')}; embeddings keep their instruction")
