"""`verify`: prints the drift and sets the exit status; admin/verify.py finds and repairs it."""

import dataclasses
import sys

import click

from pg_qwen_embed.admin import verify as verifying
from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.settings import Settings


@click.command()
@click.argument("name")
@click.option(
    "--repair",
    is_flag=True,
    help="Create again what was dropped or altered by hand, and enqueue these rows for the worker.",
)
@json_option
@with_settings("database_url")
def verify(settings: Settings, name: str, repair: bool, as_json: bool) -> None:
    """Count the rows of NAME whose vector is missing, stale or orphaned; exit status 1 if there are any.

    Changes that the worker has not reached yet count too; `status` shows them. With --repair the exit status is 0 if all
    rows found are enqueued, and 1 if rows were locked. Documents that the server rejects stay failures.
    """
    verified = verifying.verify(settings.database_url, name, repair=repair)
    found, done = verified.drift, verified.enqueued
    if as_json:
        unreadable = {"unreadable": verified.unreadable} if verified.unreadable else {}
        repaired = {"enqueued": dataclasses.asdict(done), "restored": verified.restored} if done else {}
        print_json(dataclasses.asdict(found) | unreadable | repaired)
    else:
        _print(name, verified)
    if done and done.locked:
        raise UsageError(f"{name}: other sessions have {done.locked} rows locked; run it again when they are free")
    if (found.total or verified.unreadable) and not repair:
        sys.exit(1)


def _print(name: str, verified: verifying.Verified) -> None:
    found, done = verified.drift, verified.enqueued
    for part in verified.restored:
        say(f"restored: {part}")
    say(f"{name}: {found.missing} missing, {found.stale} stale, {found.orphaned} orphaned")
    if verified.unreadable:
        advice = (
            "the worker records why" if done else f"run: {command('verify {} --repair', name)}, then see failures list"
        )
        say(f"not counted: PostgreSQL cannot read the documents of {verified.unreadable} rows; {advice}")
    if done:
        say(f"enqueued: {done.missing_or_stale} missing or stale, {done.orphaned} orphaned")
