"""status, search, verify, doctor."""

import dataclasses
import sys

import click

from pg_qwen_embed import doctor as examining
from pg_qwen_embed import status as reporting
from pg_qwen_embed import verify as verifying
from pg_qwen_embed.cli.options import json_option, print_json, with_settings
from pg_qwen_embed.client import Client
from pg_qwen_embed.database import connect
from pg_qwen_embed.errors import UsageError
from pg_qwen_embed.model import Hit, Status
from pg_qwen_embed.settings import Settings

SNIPPET = 100  # characters of a value shown in a terminal


@click.command()
@click.argument("name", required=False)
@json_option
@with_settings("database_url")
def status(settings: Settings, name: str | None, as_json: bool) -> None:
    """How every embedding is doing, or the one called NAME."""
    with connect(settings.database_url, "pg_qwen_embed status") as connection:
        found = reporting.status(connection, name)
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
    elif not found:
        click.echo("no embedding yet; attach a table: pg-qwen-embed attach TABLE --text COLUMN")
    for one in () if as_json else found:
        click.echo(_report(one))


@click.command()
@click.argument("name")
@click.argument("text")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1))
@json_option
@with_settings("database_url", "server_url", "ca_file")
def search(settings: Settings, name: str, text: str, limit: int, as_json: bool) -> None:
    """The rows of NAME nearest to TEXT, nearest first."""
    with Client(settings.database_url, server_url=settings.server_list, ca_file=settings.ca_file) as client:
        hits = client.search(name, text, limit)
    if as_json:
        print_json([{"distance": hit.distance, "row": hit.row} for hit in hits])
        return
    for hit in hits:
        click.echo(_line(hit))
    if not hits:
        click.echo(f"{name} holds no vectors yet; is a worker running? See: pg-qwen-embed status {name}", err=True)


@click.command()
@click.argument("name")
@click.option("--repair", is_flag=True, help="Enqueue them for the worker; make missing triggers anew.")
@json_option
@with_settings("database_url")
def verify(settings: Settings, name: str, repair: bool, as_json: bool) -> None:
    """Count the rows of NAME whose vector is missing, stale or orphaned; exit status 1 if there are any.

    Changes that the worker has not come to yet count: see `status` for those. With --repair the exit status is 0 when
    all that was found is enqueued, and 1 when rows were locked; documents the server refuses stay failures.
    """
    verified = verifying.verify(settings.database_url, name, mend=repair)
    found, done = verified.drift, verified.enqueued
    if as_json:
        print_json(dataclasses.asdict(found) | ({"enqueued": dataclasses.asdict(done)} if done else {}))
    else:
        click.echo(f"{name}: {found.missing} missing, {found.stale} stale, {found.orphaned} orphaned")
    if done and not as_json:
        click.echo(f"enqueued: {done.missing_or_stale} missing or stale, {done.orphaned} orphaned")
    if done and done.locked:
        raise UsageError(f"{name}: {done.locked} rows are locked by the application; run it again when they are not")
    if found.total and not repair:
        sys.exit(1)


@click.command()
@json_option
@with_settings("database_url", "server_url", "ca_file")
def doctor(settings: Settings, as_json: bool) -> None:
    """Look at settings, database, embeddings and server; say what to do about each thing that is not right.

    The exit status is 1 if something is wrong, and 0 if there are only warnings. Nothing is changed; each server gets
    about 270 short texts.
    """
    found = examining.diagnose(settings)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
    for finding in () if as_json else found:
        advice = f"; {finding.advice}" if finding.advice else ""
        click.echo(f"{finding.state.value:<8} {finding.area}: {finding.text}{advice}")
    if any(finding.state is examining.State.WRONG for finding in found):
        sys.exit(1)


def _report(one: Status) -> str:
    if one.problem:
        return f"{one.name}  is not followed: {one.problem}; run: pg-qwen-embed detach {one.name}, and attach again"
    backfill = one.backfill.state
    if backfill == "running":
        backfill += f" {one.backfill.rows_done:,} of {one.backfill.rows_total:,}"
    cut = f" ({one.cut:,} of documents that were cut)" if one.cut else ""
    chunks = "" if one.chunks is None else f" in {one.chunks:,} chunks"
    return (
        f"{one.name}  {one.source}, {one.model}, {one.dimensions} dimensions\n"
        f"  rows {one.rows:,}  vectors {one.vectors:,}{chunks}{cut}  pending {one.pending:,}  lag {one.lag_seconds:.1f} s  "
        f"failures {one.failures:,}\n"
        f"{_warnings(one)}"
        f"  backfill {backfill}  index {one.index}  leader {one.leader or 'none: start one with pg-qwen-embed worker'}"
    )


def _warnings(one: Status) -> str:
    found = ""
    if one.triggers_amiss:
        found += f"  warning: {one.triggers_amiss} of its 5 triggers are missing, disabled or out of date; "
        found += f"run: pg-qwen-embed verify {one.name} --repair\n"
    if one.another_model:
        found += "  warning: the embedding server serves another model, or other weights, than it was attached with, and gets "
        found += "no documents; see: pg-qwen-embed doctor\n"
    if one.held_back_by:
        found += f"  warning: {one.held_back_by}, keeps vacuum from the outbox and slows the worker down\n"
    return found


def _line(hit: Hit) -> str:
    values = "  ".join(f"{name}={_snippet(value)}" for name, value in hit.row.items())
    return f"{hit.distance:.4f}  {values}"


def _snippet(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= SNIPPET else text[: SNIPPET - 3] + "..."
