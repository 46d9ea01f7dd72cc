"""`search`: prints the hits; search/client.py embeds the query and runs the search."""

from collections.abc import Iterator, Sequence
from math import isnan, nan

import click

from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.index import MOST_EF_SEARCH
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.query import MODES
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.rerank import DEFAULT_CANDIDATES, MOST_CANDIDATES
from pg_qwen_embed.search.client import Client
from pg_qwen_embed.settings import Settings

SNIPPET = 100  # characters of a value shown in a terminal


@click.command()
@click.argument("name")
@click.argument("text")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Number of rows.")
@click.option("--where", metavar="CONDITION", help="Only rows that meet this SQL condition, like 'likes > 10'.")
@click.option("--columns", metavar="NAMES", help="Show these columns, aligned; separate them by commas.")
@click.option("--exact", is_flag=True, help="Compare every vector, without the index.")
@click.option(
    "--ef-search", metavar="N", type=click.IntRange(1, MOST_EF_SEARCH),
    help="How many candidates a search of the index keeps.  [default: 100, more for a large limit]",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(MODES), help="By vectors, by words, or by both; see attach --words.  [default: vector]"
)
@click.option("--hybrid", is_flag=True, help="The same as --mode hybrid.")
@click.option("--rerank", is_flag=True, help="Let the reranker order what was found.")
@click.option(
    "--candidates", metavar="N", type=click.IntRange(1, MOST_CANDIDATES),
    help=f"How many rows the reranker reads.  [default: {DEFAULT_CANDIDATES}]",
)  # fmt: skip
@json_option
@with_settings("database_url", "server_url", "reranker_url", "ca_file")
def search(
    settings: Settings, name: str, text: str, limit: int, where: str | None, columns: str | None, exact: bool,
    ef_search: int | None, mode: str | None, hybrid: bool, rerank: bool, candidates: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the rows of NAME nearest to TEXT, nearest first."""
    if hybrid and mode not in (None, "hybrid"):
        raise UsageError(f"--hybrid is --mode hybrid, and --mode {mode} is another; leave one of them out")
    how = "hybrid" if hybrid else mode or "vector"
    if rerank and settings.reranker is None:
        raise UsageError("no reranker is set: add --reranker-url, or set PG_QWEN_EMBED_RERANKER_URL")
    with Client(
        settings.database_url, server_url=settings.server_list, ca_file=settings.ca_file, reranker=settings.reranker_url
    ) as client:
        hits = client.search(
            name,
            text,
            limit,
            where=where,
            mode=how,
            exact=exact,
            ef_search=ef_search,
            rerank=rerank,
            candidates=candidates,
        )
    chosen = _chosen(hits, columns)
    if as_json:
        print_json([_json(hit, chosen) for hit in hits])
        return
    for line in _lines(hits) if columns is None else _aligned(hits, chosen):
        say(line)
    if not hits:
        say(_nothing(name, where, how), err=True)


def _nothing(name: str, where: str | None, mode: str) -> str:
    if mode == "words":
        return f"{name} has no row with these words" + ("" if where is None else " that meets the condition")
    if where is None:
        return f"{name} holds no vectors yet; is a worker running? See: {command('status {}', name)}"
    return f"{name} holds no vector of a row that meets the condition"


def _chosen(hits: Sequence[Hit], columns: str | None) -> list[str]:
    """The columns to show. Raises UsageError for one that the rows do not have."""
    there = list(hits[0].row) if hits else []
    if columns is None or not hits:
        return there
    wanted = [one if one in there else one.strip() for one in columns.split(",")]
    for one in wanted:
        if one not in there:
            raise UsageError(f'there is no column "{one}"; there are: {", ".join(there)}')
    return wanted


def _json(hit: Hit, columns: Sequence[str]) -> dict[str, object]:
    row = {one: hit.row[one] for one in columns}
    found: dict[str, object] = {"distance": None if isnan(hit.distance) else hit.distance, "row": row}
    if hit.rerank_score is not None:
        found["rerank_score"] = hit.rerank_score
    ranks = {"score": hit.score, "vector_rank": hit.vector_rank, "text_rank": hit.text_rank}
    return found if hit.score is None else found | ranks


def _lines(hits: Sequence[Hit]) -> Iterator[str]:
    for hit, measure in zip(hits, _measures(hits), strict=True):
        values = "  ".join(f"{shown(name)}={shown(value, SNIPPET)}" for name, value in hit.row.items())
        yield f"{measure:.4f}  {values}"


def _aligned(hits: Sequence[Hit], columns: Sequence[str]) -> Iterator[str]:
    """A line of names, and one for each hit."""
    measure = "distance" if all(hit.score is None and hit.rerank_score is None for hit in hits) else "score"
    lines = [[measure, *map(shown, columns)]]
    lines += [
        [f"{own:.4f}", *(shown(hit.row[one], SNIPPET) for one in columns)]
        for hit, own in zip(hits, _measures(hits), strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)] if hits else []
    for line in lines if hits else []:
        yield "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()


def _measures(hits: Sequence[Hit]) -> list[float]:
    """What the hits are ordered by; nan for a row that the reranker could not read."""
    if any(hit.rerank_score is not None for hit in hits):
        return [nan if hit.rerank_score is None else hit.rerank_score for hit in hits]
    return [hit.distance if hit.score is None else hit.score for hit in hits]
