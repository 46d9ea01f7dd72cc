"""`demo`: tells the story of the demo, step by step; demo/ has the stage and the documents."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from pg_qwen_embed.admin import attach, backfill
from pg_qwen_embed.cli import _progress
from pg_qwen_embed.demo import corpus, stage
from pg_qwen_embed.domain import template
from pg_qwen_embed.inference import resolve_model
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.search.client import Client
from pg_qwen_embed.settings import Settings, resolve

INSTRUCTION = "Given a task in plain words, find the part of Python's standard library that does it"
# Questions, each with what should be among the first three hits.
QUESTIONS = {
    "read a csv file as dictionaries": "csv",
    "run something later in another thread": "threading.Thread.start",
    "compare two lists of lines and show the differences": "difflib.Differ",
    "pick a random element from a list": "random.Random.choice",
    "the median of a list of numbers": "statistics.median",
}
UPDATE = {
    "name": "csv.Sniffer",
    "doc": "Guess which delimiter and quotes a spreadsheet export uses by looking at a sample of it.",
}
INSERT = {
    "name": "teapot.brew",
    "kind": "function",
    "doc": "Boil water, warm the pot, and steep tea leaves for four minutes before pouring a cup.",
}
CHANGES = (
    ("UPDATE", "demo_update", UPDATE, "which delimiter does this spreadsheet export use?"),
    ("INSERT", "demo_insert", INSERT, "boil water for a pot of tea"),
)


@click.command()
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
def demo(keep: bool) -> None:
    """Watch vectors follow the docstrings of Python's standard library.

    Starts a PostgreSQL in a folder of its own, the local embedding server and a worker, and removes them at the end.

    With PG_QWEN_EMBED_SERVER_URL it uses that server instead. With PG_QWEN_EMBED_DATABASE_URL it uses that database, in
    the schema qwen_embed_demo, which it removes. If it had to create the extension vector, that stays.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is stopped
    with stage.database() as database, stage.server() as server_url:
        settings = resolve(os.environ, database_url=database.owner, server_url=server_url)
        documents = list(corpus.documents())
        click.echo(f"database  {_shown(stage.DATABASE_VARIABLE, database.owner)}")
        click.echo(f"server    {_shown(stage.SERVER_VARIABLE, server_url)}")
        with stage.schema(database.owner, documents) as connection:
            click.echo(f"\nLoaded {len(documents):,} docstrings into the table {stage.TABLE}.")
            _attach(settings, connection)
            stage.let_read(connection, database)
            with stage.worker(database, settings), Client(database.reader, server_url=server_url) as client:
                _fill(connection)
                _ask(client)
                _change(connection, client)
                _farewell(database.owner, server_url, keep)


def _attach(settings: Settings, connection: Connection) -> None:
    chosen = asyncio.run(resolve_model.resolve_model(settings, None, None))
    embedding = attach.attach(
        connection,
        attach.Declaration(
            table=stage.TABLE,
            spec=chosen.spec(template.parse("{name}\n\n{doc}")),
            name=stage.NAME,
        ),
    )  # fmt: skip
    click.echo(
        f"$ pg-qwen-embed attach {stage.TABLE} --template '{{name}}\\n\\n{{doc}}' --name {stage.NAME}\n"
        f"attached with {chosen.model}, {embedding.live.spec.dimensions} dimensions; the worker fills it:\n"
    )


def _fill(connection: Connection) -> None:
    began = time.perf_counter()
    done = _progress.show(stage.NAME, backfill.watch(connection, stage.NAME, time.monotonic, time.sleep, 0.1))
    click.echo(f"{done.vectors:,} vectors and their {done.index} index in {time.perf_counter() - began:.1f} s\n")


def _ask(client: Client) -> None:
    for question in QUESTIONS:
        click.echo(f'$ pg-qwen-embed search {stage.NAME} "{question}" --limit 3')
        for hit in client.search(stage.NAME, question, 3):
            click.echo(
                f"  {hit.distance:.3f}  {hit.row['name']:<45} {str(hit.row['doc']).strip().splitlines()[0][:70]}"
            )
        click.echo()


def _change(connection: Connection, client: Client) -> None:
    for verb, change, values, question in CHANGES:
        milliseconds = stage.followed_after(connection, change, values)
        (hit,) = client.search(stage.NAME, question, 1)
        click.echo(
            f"{verb} of {values['name']}: its vector followed {milliseconds:.1f} ms after the commit\n"
            f'  asked "{question}": {hit.row["name"]}'
        )
    click.echo()


def _shown(variable: str, url: str) -> str:
    """A URL to print. One that the user gave may hold a password, and is not printed."""
    return f"the one of {variable}" if os.environ.get(variable) else url


def _farewell(database_url: str, server_url: str, keep: bool) -> None:
    if not keep:
        click.echo("All of it is removed now. To keep it running and try it yourself: make demo KEEP=1")
        return
    ours = {stage.DATABASE_VARIABLE: database_url, stage.SERVER_VARIABLE: server_url}
    exports = [f"  export {variable}='{url}'" for variable, url in ours.items() if not os.environ.get(variable)]
    program = Path(sys.executable).with_name("pg-qwen-embed")
    commands = ("status", f'search {stage.NAME} "parse command line arguments"', f"verify {stage.NAME}")
    click.echo("\n".join(["Running until Ctrl-C. Try:", *exports, *(f"  {program} {command}" for command in commands)]))
    with suppress(KeyboardInterrupt):
        signal.pause()
    click.echo("\nstopped, and everything removed")
