"""`index list`, `create`, `rebuild`, `drop` and `check`: parses and prints; admin/indexes.py does the work."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from pg_qwen_embed.admin import indexes
from pg_qwen_embed.admin.indexes import Listed
from pg_qwen_embed.cli import _plot
from pg_qwen_embed.cli._options import InOrder, json_option, print_json, say, with_settings
from pg_qwen_embed.domain import index as kinds
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.index import Index
from pg_qwen_embed.domain.index_check import DEFAULT_RECALL, IndexCheck, Point
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.postgres.index import Progress
from pg_qwen_embed.search.client import Client
from pg_qwen_embed.settings import Settings

PURPOSE = "pg_qwen_embed index"
LINE_EVERY = 1.0  # seconds between lines of progress
QUERIES = 100
MOST_QUERIES = 10_000

_kind: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--index", "index_text", metavar="KIND", help="Another kind than it was attached with, written as in attach."
)


@click.group(cls=InOrder)
def index() -> None:
    """The ANN indexes of embeddings: list, build, drop and measure them.

    A running worker builds the index of each embedding by itself, and measures it once.
    """


@index.command("list", short_help="Kind, state, size, recall and ef_search of each index.")
@click.argument("name", required=False)
@json_option
@with_settings("database_url")
def list_(settings: Settings, name: str | None, as_json: bool) -> None:
    """List the index of every embedding, or of NAME: kind, state, size, recall and ef_search."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        found = indexes.listing(connection, name)
    if as_json:
        print_json([one.to_json() for one in found])
        return
    if not found:
        say("no embedding yet; attach a table: pg-qwen-embed attach TABLE --text COLUMN")
    for one in found:
        say(_line(one))


def _line(one: Listed) -> str:
    if one.state is IndexState.NONE:
        reason = "every search is exact" if one.wanted else "none is wanted, every search is exact"
        return f"{one.embedding}  {one.kind}  {one.state}, {reason}"
    size = f"{(one.size or 0) / 1e6:,.1f} MB, {one.vectors or 0:,} vectors"
    return f"{one.embedding}  {one.kind}  {one.state}, {size}, {_recall(one)}"


def _recall(one: Listed) -> str:
    if one.recall is None:
        return f"not measured, ef_search {one.ef_search}"
    lost = f", {one.not_found:,} of {one.looked_for:,} sampled vectors unreachable" if one.not_found else ""
    return f"recall@10 {one.recall:.3f} at ef_search {one.ef_search}{lost}"


@index.command()
@click.argument("name")
@_kind
@with_settings("database_url")
def create(settings: Settings, name: str, index_text: str | None) -> None:
    """Build the index of NAME now, and let the worker keep it. Rows can be written meanwhile."""
    _build(settings, name, index_text, again=False)


@index.command()
@click.argument("name")
@_kind
@with_settings("database_url")
def rebuild(settings: Settings, name: str, index_text: str | None) -> None:
    """Build the index of NAME again. The present one serves until the next one is ready."""
    _build(settings, name, index_text, again=True)


@index.command()
@click.argument("name")
@with_settings("database_url")
def drop(settings: Settings, name: str) -> None:
    """Drop the index of NAME. Searches compare every vector, and the worker does not build it again before `index create`."""
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        indexes.drop(connection, settings.database_url, name)
    say(f"{name}: its index is dropped; every search is exact")


@index.command(short_help="Measure recall and time, and record the smallest ef_search.")
@click.argument("name")
@click.option("--queries", default=str(QUERIES), show_default=True, metavar="FILE|N",
              help="A file with a query on each line; or how many are made of stored vectors.")  # fmt: skip
@click.option("--recall", default=DEFAULT_RECALL, show_default=True, type=click.FloatRange(0, 1),
              help="The recall that searches are to have.")  # fmt: skip
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Rows of a search.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write a plot of recall and time to this SVG file.")
@json_option
@with_settings("database_url", "server_url", "ca_file")
def check(settings: Settings, name: str, queries: str, recall: float, k: int, plot: str | None, as_json: bool) -> None:
    """Measure recall and time of searches in the index of NAME, and record the smallest ef_search that is enough.

    Searches use it from then on. The recall is that of the same searches without the index.
    """
    count = _count(queries)
    vectors = None if count else _embedded(settings, name, queries)
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        tell = None if as_json else _tell
        found = indexes.check(
            connection,
            settings.database_url,
            name,
            wanted=recall,
            k=k,
            queries=count or QUERIES,
            vectors=vectors,
            tell=tell,
        )
    if plot:
        _write(plot, _plot.svg(name, found, "ef_search"))
    if as_json:
        print_json(asdict(found))
    else:
        say(_result(name, found))


def _tell(one: Point) -> None:
    say(f"ef_search {one.width:>5}  recall {one.recall:.4f}  median {one.median:8.2f} ms  p95 {one.p95:8.2f} ms")


def _result(name: str, found: IndexCheck) -> str:
    exact = f"exact            recall 1.0000  median {found.exact.median:8.2f} ms  p95 {found.exact.p95:8.2f} ms\n"
    reached = (
        ""
        if found.reached
        else f", less than {found.wanted}: no width finds more; search --exact compares every vector"
    )
    text = f"{exact}{name}: ef_search {found.width}, recall@{found.k} {found.recall:.3f} of {found.queries} queries{reached}"
    if not found.not_found:
        return f"{text}\nall {found.looked_for:,} sampled vectors are found by a search for themselves"
    return (
        f"{text}\nwarning: {found.not_found:,} of {found.looked_for:,} sampled vectors are unreachable: the index has no way "
        "to them; search --exact finds them"
    )


def _count(queries: str) -> int | None:
    """How many queries; None: they are in a file. Raises UsageError."""
    if not (queries.isascii() and queries.isdigit()):
        return None
    if not 1 <= int(queries) <= MOST_QUERIES:
        raise UsageError(f"--queries {queries}: give 1 to {MOST_QUERIES:,}, or a file")
    return int(queries)


def _embedded(settings: Settings, name: str, file: str) -> Vectors:
    """The vectors of the texts in a file. Raises UsageError."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"--queries {file}: cannot be read ({reason}); give a number, or a file with a query on each line"
        ) from None
    texts = list(dict.fromkeys(line for line in lines if line.strip()))
    if not 1 <= len(texts) <= MOST_QUERIES:
        raise UsageError(
            f"--queries {file}: it has {len(texts):,} queries; give 1 to {MOST_QUERIES:,}, one on each line"
        )
    with Client(settings.database_url, server_url=settings.server_list, ca_file=settings.ca_file) as client:
        return np.stack([client.embed_query(name, text) for text in texts])


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--plot {path}: cannot be written ({error.strerror})") from None


def _build(settings: Settings, name: str, index_text: str | None, *, again: bool) -> None:
    kind: Index | None = kinds.parse(index_text) if index_text is not None else None
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        found = indexes.build(connection, settings.database_url, name, _Lines(name), kind=kind, again=again)
        (one,) = indexes.listing(connection, name)
    say(_line(one))
    if found and found.not_found:
        say(f"warning: some vectors are unreachable in the index; see: {command('index check {}', name)}", err=True)


class _Lines:
    """Lines of progress. The rate is that since the phase began."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._phase, self._began, self._first, self._spoke = "", 0.0, 0, float("-inf")

    def __call__(self, seen: Progress) -> None:
        now = time.monotonic()
        if seen.phase != self._phase:
            self._phase, self._began, self._first = seen.phase, now, seen.done
        elif now - self._spoke < LINE_EVERY:
            return
        self._spoke = now
        counts = f", {seen.done:,} of {seen.total:,}" if seen.total else ""
        say(f"{self._name}: {seen.phase}{counts}{self._left(seen, now)}")

    def _left(self, seen: Progress, now: float) -> str:
        done = seen.done - self._first
        if not seen.total or done <= 0 or now <= self._began:
            return ""
        return f", {(seen.total - seen.done) * (now - self._began) / done:.0f} s left"
