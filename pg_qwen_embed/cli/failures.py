"""`failures list`, `retry` and `discard`: parses keys and prints; admin/failures.py reads and changes the failures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from pg_qwen_embed.admin import failures as handling
from pg_qwen_embed.cli._options import InOrder, json_option, print_json, say, with_settings
from pg_qwen_embed.domain.foreign import LINE, shown
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings

PURPOSE = "pg_qwen_embed failures"

key_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--key",
    multiple=True,
    metavar="VALUE",
    help="Only the failure of this row. Repeat it for each column of the key, in order.",
)

generation_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--generation", type=int, metavar="N", help="Those of generation N.  [default: of the live one]"
)


@click.group(cls=InOrder)
def failures() -> None:
    """Documents that the embedding server rejects: list, retry or discard them.

    A failure is tried again after 10 s, then after growing pauses, and is parked after 8 attempts. A change of the row
    supersedes it.
    """


@failures.command("list", short_help="List the failures of NAME, each with its error message.")
@click.argument("name")
@generation_option
@json_option
@with_settings("database_url")
def list_(settings: Settings, name: str, generation: int | None, as_json: bool) -> None:
    """List the failures of NAME, the latest first, each with its error message."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        found = handling.listing(connection, name, generation)
    if as_json:
        print_json([dataclasses.asdict(failure) for failure in found])
    elif not found:
        say(f"{name}: no failures")
    for failure in () if as_json else found:
        key = ", ".join(f"{column}={shown(value)}" for column, value in failure.key.items())
        again = failure.next_attempt_at
        when = f"again at {again:%H:%M:%S} UTC" if again else "parked"
        attempts = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
        say(f"{key}  {attempts}, {when}: {shown(failure.error, LINE)}")


@failures.command()
@click.argument("name")
@key_option
@generation_option
@with_settings("database_url")
def retry(settings: Settings, name: str, key: tuple[str, ...], generation: int | None) -> None:
    """Try the failures of NAME again now, parked ones too."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        say(f"{name}: {handling.retry(connection, name, key, generation)} to be tried again")


@failures.command()
@click.argument("name")
@key_option
@generation_option
@with_settings("database_url")
def discard(settings: Settings, name: str, key: tuple[str, ...], generation: int | None) -> None:
    """Delete the failures of NAME. Their rows get no new vector until they change."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        say(f"{name}: {handling.discard(connection, name, key, generation)} discarded")
