"""`generation start`, `list`, `status`, `complete`, `rollback`, `drop`: parses and prints; admin/generations.py does the work."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from pg_qwen_embed.admin import generations
from pg_qwen_embed.cli._declaration import MOST_REDUCED
from pg_qwen_embed.cli._options import InOrder, json_option, print_json, say, with_settings
from pg_qwen_embed.domain import index as kinds
from pg_qwen_embed.domain import template
from pg_qwen_embed.domain.embedding import GenerationState
from pg_qwen_embed.domain.errors import ModelMismatch, UsageError
from pg_qwen_embed.domain.generations import Figures
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.post import post_of
from pg_qwen_embed.domain.prompt import style_of
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.domain.spec import Chunking, Distance, Spec, StoreKind, TooLong
from pg_qwen_embed.inference.resolve_model import resolve_model
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings

PURPOSE = "pg_qwen_embed generation"

_force: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--force", is_flag=True, help="Also if it is not ready: queries find fewer rows until it is."
)
_number: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--generation", "number", type=int, metavar="N", help="The number of the generation, if several could be meant."
)


@click.group(cls=InOrder)
def generation() -> None:
    """Another model, other dimensions, another template or chunking, while queries go on.

    `start` another generation, which the worker fills next to the live one; `complete` makes it live in a moment, `rollback`
    goes back, and `drop` removes the one that is not live.
    """


@generation.command(short_help="Start another generation, which the worker fills.")
@click.argument("name")
@click.option("--model", help="Name of the model.  [default: the present one]")
@click.option("--dimensions", type=int, help="Length of the vectors.  [default: as now; of another model, the model's]")
@click.option(
    "--text", "columns", multiple=True, metavar="COL", help="A column to embed; several are joined by blank lines."
)
@click.option(
    "--template", "template_text", metavar="TEXT", help=r"Or a text with columns in braces: '{title}\n\n{body}'."
)
@click.option("--chunk-tokens", type=click.IntRange(0, 1_000_000), metavar="N",
              help="Divide documents into chunks of at most N tokens; 0: do not divide them.")  # fmt: skip
@click.option(
    "--chunk-overlap", type=int, metavar="M", help="About how many tokens of the previous chunk a chunk repeats."
)
@click.option(
    "--distance",
    type=click.Choice([distance.value for distance in Distance]),
    help="Distance of the index and of searches.",
)
@click.option(
    "--post", "post_form", metavar="METHOD", help="Post-processing of the vectors, written as in attach; none: without."
)
@click.option("--index", "index_text", metavar="KIND", help="Kind of the index, written as in attach.")
@click.option("--dry-run", is_flag=True, help="Say what would be started. Nothing is changed.")
@with_settings("database_url", "server_url", "ca_file")
def start(
    settings: Settings,
    name: str,
    model: str | None,
    dimensions: int | None,
    columns: tuple[str, ...],
    template_text: str | None,
    chunk_tokens: int | None,
    chunk_overlap: int | None,
    distance: str | None,
    post_form: str | None,
    index_text: str | None,
    dry_run: bool,
) -> None:
    """Start another generation of NAME, with what is given; the rest is as in the live one.

    The worker fills it, and keeps both in step. Fewer dimensions of the same model are taken from the present vectors, without
    the server. Queries see it when it is completed.
    """
    with connect(settings.database_url, PURPOSE) as connection:
        live = catalog.find(connection, name).embedding.live.spec
        spec = _template(live, columns, template_text)
        spec = _chunked(spec, chunk_tokens, chunk_overlap)
        spec = replace(
            spec,
            distance=Distance(distance) if distance else spec.distance,
            index=kinds.parse(index_text) if index_text else spec.index,
        )
        spec = _with_model(settings, spec, model, dimensions, post_form)
        if dry_run:
            spec = generations.planned(connection, name, spec)
            say(f"{name}: would start a generation with {_described(spec)}; nothing was changed")
            return
        target = generations.start(connection, name, spec)
    say(
        f"{name}: generation {target.id} is being built with {_described(target.spec)}\n"
        f"watch it with: {command('generation status {}', name)}   then: {command('generation complete {}', name)}"
    )


def _template(live: Spec, columns: tuple[str, ...], text: str | None) -> Spec:
    if columns and text is not None:
        raise UsageError("say what to embed: either --text COL (once or more) or --template '{title}\\n\\n{body}'")
    if text is not None:
        return replace(live, template=template.parse(text))
    return replace(live, template=template.from_columns(columns)) if columns else live


def _chunked(spec: Spec, tokens: int | None, overlap: int | None) -> Spec:
    if tokens is None and overlap is None:
        return spec
    size = spec.chunking.tokens if tokens is None and spec.chunking else tokens
    if not size:
        if overlap is not None:
            raise UsageError("--chunk-overlap is for chunks: add --chunk-tokens, or leave it out")
        return replace(spec, chunking=None)
    return replace(
        spec, chunking=Chunking(size, overlap or 0), too_long=TooLong.TRUNCATE, store=StoreKind.TABLE, column=None
    )


def _with_model(
    settings: Settings, spec: Spec, model: str | None, dimensions: int | None, post_form: str | None
) -> Spec:
    """The spec with the model and dimensions that the server confirms. Raises UsageError, ModelMismatch, ServerUnavailable."""
    wanted, same = model or spec.model, model in (None, spec.model)
    length = spec.requested_dimensions if dimensions is None and same else dimensions
    former = spec.post.form if spec.post else None
    form = former if post_form is None else post_form
    reduced = str(form).startswith("pca")  # then the index holds fewer than the server makes
    try:
        chosen = asyncio.run(
            resolve_model(settings, wanted, length, most=MOST_REDUCED if reduced else spec.index.most_dimensions)
        )
    except ModelMismatch as error:
        raise UsageError(f"{error}; choose the model with --model, and its server with --server-url") from None
    if chosen.warning:
        say(f"warning: {chosen.warning}", err=True)
    fitted = post_of(form, chosen.dimensions)
    return replace(
        spec,
        model=chosen.model,
        dimensions=fitted.outputs if fitted else chosen.dimensions,
        post=fitted,
        prompt_style=spec.prompt_style if same else style_of(chosen.model, chosen.path),
        weight_version=chosen.weight_version if chosen.full_dimensions or not same else spec.weight_version,
        full_dimensions=chosen.full_dimensions or (spec.full_dimensions if same else None),
    )


def _described(spec: Spec) -> str:
    chunks = f", chunks of {spec.chunking.tokens} tokens" if spec.chunking else ""
    return f"{spec.model}, {spec.dimensions} dimensions{chunks}, of {', '.join(spec.template.columns)}"


@generation.command("list", short_help="List the generations of NAME, with their state.")
@click.argument("name")
@json_option
@with_settings("database_url")
def list_(settings: Settings, name: str, as_json: bool) -> None:
    """List the generations of NAME: the live one, the one that is being built, and the retired one."""
    _show(settings, name, as_json=as_json, whole=False)


@generation.command(short_help="Report how far each generation of NAME is.")
@click.argument("name")
@json_option
@with_settings("database_url")
def status(settings: Settings, name: str, as_json: bool) -> None:
    """Report coverage, lag, failures, index and size of each generation of NAME."""
    _show(settings, name, as_json=as_json, whole=True)


def _show(settings: Settings, name: str, *, as_json: bool, whole: bool) -> None:
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        found = generations.listing(connection, name)
    if as_json:
        print_json([one.to_json() for one in found])
    for one in () if as_json else found:
        say(_figures(one) if whole else f"{one.id}  {one.state}  {_described(one.spec)}")


def _figures(one: Figures) -> str:
    if one.problem:
        return f"generation {one.id}  {one.state}, {_described(one.spec)}\n  it is not followed: {one.problem}"
    backfill = one.backfill.state.value
    if one.backfill.state is BackfillState.RUNNING:
        backfill += f" {one.backfill.rows_done:,} of {one.backfill.rows_total:,}"
        backfill += "" if one.seconds_left is None else f", {one.seconds_left:.0f} s left"
    kept = ""
    if one.state is GenerationState.RETIRED:
        kept = "  it is kept in step, which costs each change another request and a write; generation drop removes it\n"
    return (
        f"generation {one.id}  {one.state}, {_described(one.spec)}\n"
        f"  rows {one.rows:,}  vectors {one.vectors:,} ({one.coverage:.1%})  pending {one.pending:,}  lag {one.lag_seconds:.1f} s  "
        f"failures {one.failures:,}\n"
        f"  backfill {backfill}  index {one.index}  size {one.size / 1e6:,.1f} MB\n"
        f"{kept}"
        f"  leader {one.leader or 'none: start one with pg-qwen-embed worker'}"
    )


@generation.command(short_help="Make the generation that is being built live.")
@click.argument("name")
@_force
@with_settings("database_url")
def complete(settings: Settings, name: str, force: bool) -> None:
    """Make the generation of NAME that is being built live: from then on queries see it.

    It is rejected until every row has its vector and the index is there. The generation before is kept in step, for `rollback`.
    """
    with connect(settings.database_url, PURPOSE) as connection:
        done = generations.complete(connection, name, force=force)
    say(
        f"{name}: generation {done.id} is live; the one before is kept in step\n"
        f"go back with: {command('generation rollback {}', name)}   or remove it with: {command('generation drop {}', name)}"
    )


@generation.command()
@click.argument("name")
@_force
@with_settings("database_url")
def rollback(settings: Settings, name: str, force: bool) -> None:
    """Make the retired generation of NAME live again. The one that was live is kept in step; another rollback exchanges them."""
    with connect(settings.database_url, PURPOSE) as connection:
        done = generations.roll_back(connection, name, force=force)
    say(f"{name}: generation {done.id} is live again; remove the other one with: {command('generation drop {}', name)}")


@generation.command(short_help="Remove the generation that is not live.")
@click.argument("name")
@_number
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_settings("database_url")
def drop(settings: Settings, name: str, number: int | None, yes: bool) -> None:
    """Remove the generation of NAME that is not live, with its vectors."""
    with connect(settings.database_url, PURPOSE) as connection:
        chosen = generations.to_drop(connection, name, number)
        if not yes:
            click.confirm(f"Remove generation {chosen.id} of {name} ({chosen.state}) with all its vectors?", abort=True)
        generations.drop(connection, name, chosen.id)
    say(f"{name}: generation {chosen.id} is removed")
