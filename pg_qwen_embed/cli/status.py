"""`status`: formats the figures for a terminal or as JSON; admin/status.py reads them."""

import shlex

import click

from pg_qwen_embed.admin import status as reporting
from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain.embedding import GenerationState
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import BackfillState, Status
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings


@click.command()
@click.argument("name", required=False)
@click.option(
    "--max-lag", type=click.FloatRange(min=0), metavar="SECONDS", help="Fail if a change has waited for longer."
)
@click.option("--max-pending", type=click.IntRange(min=0), metavar="N", help="Fail if more changes are pending.")
@json_option
@with_settings("database_url")
def status(settings: Settings, name: str | None, max_lag: float | None, max_pending: int | None, as_json: bool) -> None:
    """Report the status of every embedding, or of NAME.

    With --max-lag or --max-pending it is a health check: the exit status is 1 if an embedding is above a limit, is not
    followed, or cannot be seen.
    """
    with connect(settings.database_url, "pg_qwen_embed status", tables_only=True) as connection:
        found = reporting.status(connection, name)
    if as_json:
        print_json([one.to_json() for one in found])
    elif not found:
        say("no embedding yet; attach a table: pg-qwen-embed attach TABLE --text COLUMN")
    for one in () if as_json else found:
        say(_report(one))
    if max_lag is not None or max_pending is not None:
        unhealthy = [reason for one in found for reason in one.above(max_lag, max_pending)]
        if unhealthy:
            raise click.ClickException("; ".join(unhealthy))


def _report(one: Status) -> str:
    if one.problem:
        return f"{one.name}  is not followed: {one.problem}; {one.remedy}"
    if one.unreadable:
        return f"{one.name}  {one.source}: its figures cannot be seen: {one.unreadable}"
    backfill = one.backfill.state.value
    if one.backfill.state is BackfillState.RUNNING:
        backfill += f" {one.backfill.rows_done:,} of {one.backfill.rows_total:,}"
    truncated = f" ({one.truncated:,} truncated)" if one.truncated else ""
    chunks = "" if one.chunks is None else f" in {one.chunks:,} chunks"
    post = f"  post-processing {one.post_report}\n" if one.post_report else ""
    return (
        f"{one.name}  {one.source}, {one.spec.model}, {one.spec.dimensions} dimensions\n"
        f"  rows {one.rows:,}  vectors {one.vectors:,}{chunks}{truncated}  pending {one.pending:,}  lag {one.lag_seconds:.1f} s  "
        f"failures {one.failures:,}\n"
        f"{post}{_warnings(one)}"
        f"  backfill {backfill}  index {one.index_report}  leader {one.leader or 'none: start one with pg-qwen-embed worker'}"
        f"{_others(one)}"
    )


def _others(one: Status) -> str:
    """The generations that are kept next to the live one, and what they cost."""
    found = ""
    for other in one.others:
        found += f"\n  generation {other.id} {other.state}, {other.model}, {other.dimensions} dimensions: "
        if other.problem:
            found += f"it is not followed: {other.problem}; run: {command('verify {} --repair', one.name)}"
            continue
        found += f"vectors {other.vectors:,}  pending {other.pending:,}  failures {other.failures:,}  {other.size / 1e6:,.1f} MB; "
        found += "each change is embedded for it too, until generation "
        found += "drop" if other.state == GenerationState.RETIRED else "complete and drop"
    return found


def _warnings(one: Status) -> str:
    found = ""
    for stranger in one.strangers:
        found += f"  warning: {stranger}\n"
    if one.broken_triggers:
        found += f"  warning: {one.broken_triggers} of its 5 triggers are missing, disabled or out of date; "
        found += f"run: {command('verify {} --repair', one.name)}\n"
    if one.namesake:
        found += (
            f"  warning: it follows {one.source}, and there is another table {one.namesake}; if that took its place, "
        )
        found += f"run: {command(f'alter {{}} --table {shlex.quote(one.namesake)}', one.name)}\n"
    if one.missing:
        found += f"  warning: {' and '.join(one.missing)} missing or not as created; "
        found += f"run: {command('verify {} --repair', one.name)}\n"
    if one.model_mismatch:
        found += "  warning: the embedding server's model identity is not the one recorded at attach, so it receives "
        found += "no documents; see: pg-qwen-embed doctor\n"
    if one.vacuum_blocked_by:
        found += f"  warning: {one.vacuum_blocked_by}, keeps vacuum from the outbox and slows the worker down\n"
    return found
