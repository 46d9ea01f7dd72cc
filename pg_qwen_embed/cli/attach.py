"""attach."""

import asyncio

import click

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.cli._options import with_settings
from pg_qwen_embed.domain import template
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.prompt import PromptStyle
from pg_qwen_embed.domain.spec import Chunking, Distance, StoreKind, TooLong
from pg_qwen_embed.domain.template import Template
from pg_qwen_embed.inference import resolve_model
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings


@click.command()
@click.argument("table")
@click.option(
    "--text", "columns", multiple=True, metavar="COL", help="A column to embed; several are joined by blank lines."
)
@click.option(
    "--template", "template_text", metavar="TEXT", help=r"Or a text with columns in braces: '{title}\n\n{body}'."
)
@click.option("--name", help="The embedding's name, and its view's in qwen_embed.  [default: the table's]")
@click.option("--dimensions", type=int, help="Length of the vectors.  [default: the model's]")
@click.option("--model", help="The model.  [env: PG_QWEN_EMBED_MODEL; default: the one the server serves]")
@click.option("--instruction", help="What a query is for, in English; put in front of queries, not of documents.")
@click.option(
    "--prompt-style",
    type=click.Choice([style.value for style in PromptStyle]),
    help="How queries are put.  [default: by the model's name]",
)
@click.option(
    "--distance",
    type=click.Choice([distance.value for distance in Distance]),
    default="cosine",
    show_default=True,
)
@click.option("--store", type=click.Choice([kind.value for kind in StoreKind]), default="table", show_default=True,
              help="Keep vectors in a table of their own, or in a column of TABLE (see the README for its costs).")  # fmt: skip
@click.option(
    "--column",
    default="embedding",
    show_default=True,
    help="The vector's column in the view (and in TABLE with --store column).",
)
@click.option("--too-long", type=click.Choice([policy.value for policy in TooLong]), default="truncate", show_default=True,
              help="A document longer than the model takes: embed its beginning, or make it a failure.")  # fmt: skip
@click.option("--chunk-tokens", type=click.IntRange(max=1_000_000), metavar="N",
              help="Divide documents into chunks of at most N tokens, each with a vector of its own.")  # fmt: skip
@click.option("--chunk-overlap", type=int, metavar="M",
              help="Tokens, about, of the chunk before that a chunk repeats.  [default: 0]")  # fmt: skip
@click.option("--comment", default="", metavar="TEXT", help="A note for administrators; `status --json` shows it.")
@click.option("--no-backfill", is_flag=True, help="Embed only what changes from now on.")
@click.option("--dry-run", is_flag=True, help="Print the SQL, its locks and the grants; create nothing.")
@with_settings("database_url", "server_url", "ca_file")
def attach(
    settings: Settings,
    table: str,
    columns: tuple[str, ...],
    template_text: str | None,
    name: str | None,
    dimensions: int | None,
    model: str | None,
    instruction: str | None,
    prompt_style: str | None,
    distance: str,
    store: str,
    column: str,
    too_long: str,
    chunk_tokens: int | None,
    chunk_overlap: int | None,
    comment: str,
    no_backfill: bool,
    dry_run: bool,
) -> None:
    """Declare an embedding on TABLE, written as in SQL: articles, public.articles, app."Odd Name".

    The running worker fills it, and keeps it, without another command.
    """
    chosen = asyncio.run(resolve_model.resolve_model(settings, model, dimensions))
    if chosen.warning:
        click.echo(f"warning: {chosen.warning}", err=True)
    declaration = attaching.Declaration(
        table=table,
        spec=chosen.spec(
            _template(columns, template_text),
            prompt_style=PromptStyle(prompt_style) if prompt_style else None,
            distance=Distance(distance),
            store=StoreKind(store),
            too_long=TooLong(too_long),
            chunking=_chunking(chunk_tokens, chunk_overlap),
            comment=comment,
        ),
        name=name,
        instruction=instruction,
        column=column,
        backfill=not no_backfill,
    )
    with connect(settings.database_url, "pg_qwen_embed attach") as connection:
        if dry_run:
            click.echo(attaching.dry_run(connection, declaration))
            return
        embedding = attaching.attach(connection, declaration)
    spec = embedding.live.spec
    click.echo(
        f"attached {embedding.source.table} as {embedding.name}: {spec.model}, {spec.dimensions} dimensions\n"
        f'query it with: pg-qwen-embed search {embedding.name} "..."   or SQL on the view qwen_embed.{embedding.name}'
    )


def _template(columns: tuple[str, ...], text: str | None) -> Template:
    if bool(columns) == (text is not None):
        raise UsageError("say what to embed: either --text COL (once or more) or --template '{title}\\n\\n{body}'")
    return template.parse(text) if text is not None else template.from_columns(columns)


def _chunking(tokens: int | None, overlap: int | None) -> Chunking | None:
    if tokens is None and overlap is not None:
        raise UsageError("--chunk-overlap is for chunks: add --chunk-tokens, or leave it out")
    return None if tokens is None else Chunking(tokens, overlap or 0)
