"""`evaluate`: parses and prints; admin/evaluation reads, embeds and compares."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pg_qwen_embed.admin import evaluation
from pg_qwen_embed.admin.evaluation import Cost, Prepared, Request
from pg_qwen_embed.admin.evaluation.sample import DEFAULT_SAMPLE, MOST_SAMPLE
from pg_qwen_embed.cli._options import json_option, print_json, say, with_settings
from pg_qwen_embed.domain import advice, metrics
from pg_qwen_embed.domain.comparison import Difference, Estimate
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.evaluation import FEWEST, Evaluation, Found, Kept
from pg_qwen_embed.domain.foreign import LINE, shown
from pg_qwen_embed.domain.metrics import Metric
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.question_file import File
from pg_qwen_embed.domain.variants import FORMS
from pg_qwen_embed.inference.bulk import Told
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings

PURPOSE = "pg_qwen_embed evaluate"
MOST_BYTES = 200_000_000  # of a file with questions
LABEL = 60  # characters of a variant's name in the table


@click.command()
@click.argument("name")
@click.option("--vary", multiple=True, metavar="WHAT",
              help=f"What to try against the present embedding: {FORMS}. Repeat it for more.")  # fmt: skip
@click.option("--queries", metavar="FILE",
              help="Questions with their rows, as .csv, .tsv or .jsonl with the columns query and key.")  # fmt: skip
@click.option("--judgments", metavar="FILE",
              help="TREC judgments, lines of: question 0 key grade. The questions are in --queries, with the columns id and "
              "query.")  # fmt: skip
@click.option("--title", metavar="COLUMN", help="Make a question of this column, and keep it out of the document.  "
              "[default: title, name or subject, where it is no part of the document; else the first sentence]")  # fmt: skip
@click.option("--sample", default=DEFAULT_SAMPLE, show_default=True, metavar="N", type=click.IntRange(1, MOST_SAMPLE),
              help="How many rows are drawn.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, metavar="N", type=click.IntRange(0, 2**31 - 1),
              help="Another number draws other rows.")  # fmt: skip
@click.option("--metric", "metric_text", default=str(metrics.DEFAULT), show_default=True, metavar="METRIC",
              help=f"What decides: {metrics.FORMS}.")  # fmt: skip
@click.option("--words", metavar="CONFIG", help="The words of mode=words and mode=hybrid, as in attach.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent to the server, and send nothing.")
@click.option("--history", is_flag=True, help="List the evaluations of NAME that were made before.")
@json_option
@with_settings("database_url", "server_url", "ca_file")
def evaluate(
    settings: Settings, name: str, vary: tuple[str, ...], queries: str | None, judgments: str | None, title: str | None,
    sample: int, seed: int, metric_text: str, words: str | None, dry_run: bool, history: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure how often searches in NAME find the right row, and whether another instruction, other dimensions, another index or
    mode would find it more often.

    Without a file, questions are made of the rows themselves. Every variant is compared with the present embedding on the same
    questions, with intervals of 95 %.
    """
    with connect(settings.database_url, PURPOSE, tables_only=True) as connection:
        if history:
            _print_history(name, evaluation.history(connection, name), as_json=as_json)
            return
        if queries and title:
            raise UsageError("--title makes questions of rows, and --queries brings its own; leave one of them out")
        request = Request(
            name, vary, sample, seed, metrics.parse(metric_text), title, _file("--queries", queries),
            _file("--judgments", judgments), words,
        )  # fmt: skip
        prepared = evaluation.prepare(connection, request)
        if dry_run and as_json:
            print_json(_cost_json(prepared))
        if not as_json:
            say(_sample(prepared))
            say(_cost(prepared.cost, prepared.target.spec.model))
        if dry_run:
            return
        with _progress(prepared.cost, as_json=as_json) as told:
            found = asyncio.run(evaluation.run(connection, settings, prepared, told))
        not_kept = evaluation.keep(connection, found)
    if as_json:
        applied = _recommended(prepared, found)
        print_json(found.to_json() | {"command": applied, "kept": not_kept is None})
    else:
        _print(prepared, found)
    if not_kept:
        say(f"note: the result is not kept for --history: {not_kept}", err=True)


def _file(option: str, path: str | None) -> File | None:
    """Raises UsageError for a file that cannot be read."""
    if path is None:
        return None
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise UsageError(f"{option} {path}: it has more than {MOST_BYTES:,} bytes")
        return File(option, path, Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{option} {path}: cannot be read ({reason})") from None


# What it will cost.


def _sample(prepared: Prepared) -> str:
    left = f"; {prepared.left_out:,} make none" if prepared.left_out else ""
    return (
        f"{prepared.request.name}: {len(prepared.questions):,} questions, made of {prepared.made_of}{left}, "
        f"over {len(prepared.documents):,} of {prepared.rows:,} rows"
    )


def _cost(cost: Cost, model: str) -> str:
    return (
        f"to be embedded by {model}: {cost.documents:,} documents ({cost.known:,} more have their vectors) and "
        f"{cost.queries:,} queries, about {cost.tokens:,} tokens in {cost.requests:,} requests"
    )


def _cost_json(prepared: Prepared) -> dict[str, Any]:
    cost = prepared.cost
    return {
        "embedding": prepared.request.name, "model": prepared.target.spec.model, "made_of": prepared.made_of,
        "questions": len(prepared.questions), "sample": len(prepared.documents), "rows": prepared.rows,
        "documents": cost.documents, "known": cost.known, "queries": cost.queries, "tokens": cost.tokens,
        "requests": cost.requests, "variants": [one.label for one in prepared.variants],
    }  # fmt: skip


@contextmanager
def _progress(cost: Cost, *, as_json: bool) -> Iterator[Told]:
    """A bar in a terminal."""
    if as_json or not sys.stderr.isatty():
        yield lambda _: None
        return
    bar: Any
    with click.progressbar(length=cost.documents + cost.queries, label="texts", file=sys.stderr) as bar:
        yield bar.update
        bar.update(max(0, bar.length - bar.pos))  # equal texts are sent once


# What was found.


def _print(prepared: Prepared, found: Evaluation) -> None:
    wanted = list(dict.fromkeys((*metrics.SHOWN, found.metric)))
    for line in _table(found, wanted):
        say(line)
    origin = found.origin
    say(f"\n{origin.model} at {', '.join(origin.servers)}; percent, with intervals of 95 %")
    for line in _conclusions(prepared, found):
        say(line)


def _table(found: Evaluation, wanted: Sequence[Metric]) -> list[str]:
    heads = ["", *(one.title for one in wanted)]
    rows = [[_label(one), *(_figure(one.figures[str(metric)]) for metric in wanted)] for one in found.found]
    if len(rows) > 1:
        heads.append(f"difference of {found.metric.title}")
        for row, one in zip(rows, found.found, strict=True):
            row.append("" if one.difference is None else _difference(one.difference))
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _label(one: Found) -> str:
    return shown(one.variant.label, LABEL)


def _figure(one: Estimate) -> str:
    return f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _difference(one: Difference) -> str:
    own = one.estimate
    figures = f"{100 * own.mean:+.1f} [{100 * own.low:+.1f}, {100 * own.high:+.1f}]"
    if not one.is_seen:
        return f"{figures}  no difference seen"
    return f"{figures}  {'better' if one.is_better else 'worse'}"


def _conclusions(prepared: Prepared, found: Evaluation) -> Iterator[str]:
    metric, questions = found.metric.title, found.origin.questions
    if found.smallest:
        yield (
            f"{questions:,} questions show a difference of {100 * found.smallest:.1f} points of {metric} or more, in four of five "
            "samples"
        )
    for one in found.found:
        if one.difference and one.difference.needed and not one.difference.is_seen:
            yield (
                f"{_label(one)}: {100 * one.difference.estimate.mean:+.1f} points would need about {one.difference.needed:,} "
                "questions, if that is the difference"
            )
    if found.winner is None:
        yield "nothing was compared: say what to try with --vary"
        return
    winner, label = found.winner, shown(found.winner.variant.label, LINE)
    if winner.held_out:
        yield (
            f"held out: {label} is best on half of the questions; on the other {winner.difference.questions:,}: "
            f"{_difference(winner.difference)}"
        )
    command = _recommended(prepared, found)
    if command is not None:
        yield f"recommended: {label}; run: {command}"
    elif winner.difference.questions < FEWEST:
        yield f"nothing is recommended: {questions:,} questions are too few to tell"
    elif winner.difference.is_better:
        yield (
            f"{label} is better on these questions, and is not recommended yet: chance alone makes such a difference in "
            f"{100 * winner.difference.p:.0f} of 100 samples; a larger --sample tells"
        )
    else:
        yield "nothing is better than the present embedding, as far as these questions show"


def _recommended(prepared: Prepared, found: Evaluation) -> str | None:
    if found.winner is None or not found.winner.is_recommended:
        return None
    return advice.command(found.origin.embedding, prepared.target.embedding.live.spec, found.winner.variant)


# Earlier evaluations.


def _print_history(name: str, kept: Sequence[Kept], *, as_json: bool) -> None:
    if as_json:
        print_json([{"at": one.at, **one.result} for one in kept])
        return
    if not kept:
        say(f"{name}: no evaluation yet; run: {command('evaluate {}', name)}")
    for one in kept:
        result, metric = one.result, one.result["metric"]
        advised = result["recommendation"]
        say(f"{one.at:%Y-%m-%d %H:%M} UTC  {result['questions']:,} questions, {shown(result['model'], LABEL)}, {metric}"
            + (f"; recommended: {shown(advised, LINE)}" if advised else ""))  # fmt: skip
        for variant in result["variants"]:
            figure = Estimate(**variant["figures"][metric])
            say(f"    {shown(variant['variant'], LABEL)}  {_figure(figure)}{_seen(variant['difference'])}")


def _seen(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    own = f"  {100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    return own if difference["seen"] else f"{own}  no difference seen"
