"""`doctor`: prints findings and sets the exit status; admin/doctor/ examines."""

import dataclasses
import sys

import click

from pg_qwen_embed.admin import doctor as examining
from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.foreign import LINE, shown
from pg_qwen_embed.settings import Settings


@click.command()
@click.option("--query", metavar="SQL", help="Say whether this SELECT uses the index of an embedding, and if not, why.")
@click.option("--vectors", "name", metavar="NAME", help="List rows of this embedding whose vector or document is odd.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="N",
    help="With --vectors: how long to look.",
)
@json_option
@with_settings("database_url", "server_url", "ca_file")
def doctor(settings: Settings, query: str | None, name: str | None, seconds: float, as_json: bool) -> None:
    """Check settings, database, embeddings and servers, and say what to do about each fault.

    The exit status is 1 if something is wrong, and 0 if there are only warnings. Nothing is changed. Each server gets
    about 270 short texts, and two more for each embedding.

    With --query nothing else is checked. The query is planned as the settings of this role and database are, and not run.
    Parameters may be written $1, $2.

    With --vectors nothing else is checked either. Rows are read in the order of their key: blank and very short documents,
    vectors whose numbers are all alike, or whose length is not 1, and vectors that many rows have.
    """
    if query is not None and name is not None:
        raise UsageError("--query and --vectors are two checks; give one of them")
    if name is not None:
        found = examining.diagnose_vectors(settings.database_url, name, seconds)
    elif query is not None:
        found = examining.diagnose_query(settings.database_url, query)
    else:
        found = examining.diagnose(settings)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
    for finding in () if as_json else found:
        advice = f"; {finding.advice}" if finding.advice else ""
        say(f"{finding.state.value:<8} {shown(f'{finding.area}: {finding.text}{advice}', LINE)}")
    if any(finding.state is examining.State.WRONG for finding in found):
        sys.exit(1)
