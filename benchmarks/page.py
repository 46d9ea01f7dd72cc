"""Write the generated parts of docs/benchmarks.md, and its plots, from the records in benchmarks/results/.

    python benchmarks/page.py [--check]

With --check it writes nothing, draws nothing (so that matplotlib need not be there) and fails when the page disagrees with
the records. What the page shows of a benchmark is in PARTS; a figure that no table there takes stands in a table of its own,
a part without figures is left out."""

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import record
from record import Figure, Label, Record, short

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PLOTS = DOCS / "benchmarks.md", DOCS / "plots"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # of Okabe and Ito: for every eye
STYLE = {"svg.hashsalt": "pg_qwen_embed", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True,
         "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
UNDATED = {"Date": None, "Creator": None}

Labels = dict[str, Label]
Grid = list[tuple[Labels, dict[Label, Figure]]]


@dataclass(frozen=True)
class Part:
    """Some figures together: those of these quantities, with these labels, spread across the values of one label.

    The quantity is a label as well, called "what"."""

    title: str
    what: tuple[str, ...]
    across: str = "what"
    where: Mapping[str, Label] = field(default_factory=dict)

    def figures(self, found: Record) -> list[Figure]:
        return [figure for figure in found.figures if self._takes(figure)]

    def grid(self, found: Record) -> Grid:
        """For each set of other labels, in the record's order: its figures by their value of `across`."""
        rows: Grid = []
        for figure in self.figures(found):
            labels = _labels(figure)
            others = {name: value for name, value in labels.items() if name not in self._known}
            row = next((row for known, row in rows if known == others), None)
            if row is None:
                rows.append((others, row := {}))
            row[labels[self.across]] = figure
        return rows

    @property
    def _known(self) -> set[str]:
        """Labels that need not be said once more: the title says them, or the columns."""
        return {self.across, *self.where, *(["what"] if len(self.what) == 1 else [])}

    def _takes(self, figure: Figure) -> bool:
        labels = _labels(figure)
        return figure.what in self.what and self.where.items() <= labels.items() and self.across in labels


class Table(Part):
    """A row for each set of other labels, a column for each value: the median, (the spread), and the goal."""


class Plot(Part):
    least: ClassVar[int]  # figures of one set of other labels, for there to be something to see

    def height(self, rows: Grid) -> float:
        """Inches."""
        raise NotImplementedError

    def draw(self, axes: Any, rows: Grid) -> None:
        raise NotImplementedError


class Bars(Plot):
    """A group for each set of other labels, a bar for each value; lying, so that long labels can be read."""

    least = 1

    def height(self, rows: Grid) -> float:
        return 0.8 + 0.2 * sum(len(row) + 1 for _, row in rows)

    def draw(self, axes: Any, rows: Grid) -> None:
        colours = dict(zip(_values(rows), cycle(COLOURS)))
        place, ticks = 0, []
        for labels, row in rows:
            ticks.append((place + (len(row) - 1) / 2, _caption(labels)))
            for value in sorted(row, key=list(colours).index):
                figure = row[value]
                axes.barh(
                    place, figure.median, 0.9, color=colours[value], xerr=_spread([figure]), ecolor="#444", capsize=2
                )
                place += 1
            place += 1
        for value, colour in colours.items() if len(colours) > 1 else ():
            axes.barh(0, 0, color=colour, label=_text(value))
        axes.set_yticks(*zip(*ticks, strict=True))
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.grid(axis="x", alpha=0.3)


class Lines(Plot):
    """A line for each set of other labels, over the values, which are numbers; over orders of magnitude on a log scale."""

    least = 2

    def height(self, rows: Grid) -> float:
        return 3.0

    def draw(self, axes: Any, rows: Grid) -> None:
        for (labels, row), colour in zip(rows, cycle(COLOURS)):
            xs = sorted(value for value in row if not isinstance(value, str))
            figures = [row[x] for x in xs]
            axes.errorbar(xs, [figure.median for figure in figures], _spread(figures), color=colour, marker="o",
                          markersize=4, capsize=2, label=_caption(labels) or None)  # fmt: skip
        if 0 < 50 * min(xs) <= max(xs):
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(_words(self.across))
        axes.grid(alpha=0.3)


PARTS: dict[str, tuple[Part, ...]] = {
    "backfill": (
        Table(
            "Worker, floor, COPY and peer", ("rows/s", "CPU ms/row", "memory MB", "share of floor", "times the peer")
        ),
        Bars("Rows a second", ("rows/s",), "index"),
        Bars("Milliseconds of CPU a row", ("CPU ms/row",), "index"),
    ),
    "freshness": (
        Table("Milliseconds from commit to visible", ("p50 ms", "p95 ms", "p99 ms")),
        Table("Changes and writes", ("changes", "writes/s")),
        Bars("Milliseconds from commit to visible, ours", ("p50 ms", "p95 ms", "p99 ms"), where={"worker": "ours"}),
    ),
    "writes": (
        Table("Transactions a second", ("tps",), "trigger"),
        Table("Transactions a second, as a share of those without a trigger", ("ratio of tps",), "trigger"),
        Table("Microseconds of CPU that a transaction takes more", ("CPU us added",), "trigger"),
        Bars("Share of the transactions without a trigger", ("ratio of tps",), "trigger"),
        Bars("Microseconds of CPU added", ("CPU us added",), "trigger"),
    ),
    "queries": (
        Table("Recall and time of a query", ("recall@10", "p50 ms", "p95 ms", "ratio to plain")),
        Lines("Recall of the first ten", ("recall@10",), "ef_search"),
        Lines("Median milliseconds of a query", ("p50 ms",), "ef_search"),
    ),
    "scale": (
        Lines("Rows a second, by the rows of the table", ("rows/s",), "rows"),
        Lines("Rows a second, by the number of workers", ("rows/s",), "workers"),
        Lines("Rows a second, by the number of embeddings", ("rows/s",), "embeddings"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page agrees with the records")
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if not parser.parse_args().check:
        PAGE.write_text(wanted, encoding="utf-8")
        draw_all()
    elif wanted != text:
        raise SystemExit("docs/benchmarks.md disagrees with benchmarks/results; run: make bench-page")


def page(text: str) -> str:
    """The page with its generated blocks of now."""
    for benchmark in PARTS:
        block = f"<!-- generated: {benchmark} -->\n{_block(benchmark)}\n<!-- end -->"
        pattern = rf"<!-- generated: {benchmark} -->.*?<!-- end -->"
        text, times = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
        if times != 1:
            raise SystemExit(f"docs/benchmarks.md has {times} blocks for {benchmark}")
    return text


def kept(benchmark: str) -> Record | None:
    try:
        return record.read(benchmark)
    except FileNotFoundError:
        return None


def _block(benchmark: str) -> str:
    found = kept(benchmark)
    return block(found, PARTS[benchmark]) if found else f"Not measured yet: `python benchmarks/{benchmark}.py`."


def block(found: Record, parts: Iterable[Part]) -> str:
    tables = [part for part in parts if isinstance(part, Table) and part.figures(found)]
    taken = [figure for table in tables for figure in table.figures(found)]
    rest = [figure for figure in found.figures if figure not in taken]
    written = [f"**{table.title}**\n\n{pivot(table.grid(found), table.across)}" for table in tables]
    plots = [f"![{plot.title}](plots/{file_name(found, plot)})" for plot in _plots(found, parts)]
    return "\n\n".join([f"```\n{found.command}\n```", _how(found), *written, *([flat(rest)] if rest else []), *plots])


def _how(found: Record) -> str:
    machine = dict(found.machine)
    facts = [f"{machine.pop('processor')}, {machine.pop('cores')} cores, {machine.pop('memory_gb')} GB",
             *(f"{_words(name)} {value}" for name, value in machine.items())]  # fmt: skip
    versions = [f"{name} {value}" for name, value in found.versions.items()]
    settings = [f"{_words(name)} {_text(value)}" for name, value in found.settings.items()]
    return "; ".join(", ".join(some) for some in (facts, versions, settings)) + "."


def pivot(rows: Grid, across: str) -> str:
    names = list(dict.fromkeys(name for labels, _ in rows for name in labels))
    values = _values(rows)
    titles = [str(value) if across == "what" else f"{_words(across)} {_text(value)}" for value in values]
    return _table([*map(_words, names), *titles], [
        [*(_text(labels.get(name, "")) for name in names), *(_cell(row.get(value)) for value in values)]
        for labels, row in rows
    ])  # fmt: skip


def flat(figures: Iterable[Figure]) -> str:
    return "\n".join(
        ["| figure | of | median | lowest to highest | goal |", "|---" * 5 + "|", *map(record.row, figures)]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)).replace("| --- ", "|---")


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    low, high = min(figure.rounds), max(figure.rounds)
    spread = f" ({short(low)} to {short(high)})" if low < high else ""
    return f"{short(figure.median)}{spread}" + (f"; {record.verdict(figure)}" if figure.goal else "")


def draw_all() -> None:
    """All plots, and no other files, in docs/plots."""
    drawn = set()
    for benchmark, parts in PARTS.items():
        if found := kept(benchmark):
            PLOTS.mkdir(exist_ok=True)
            for plot in _plots(found, parts):
                draw(found, plot, file := PLOTS / file_name(found, plot))
                drawn.add(file)
    for file in set(PLOTS.glob("*.svg")) - drawn:
        file.unlink()


def _plots(found: Record, parts: Iterable[Part]) -> list[Plot]:
    """Those that have something to show."""
    plots = [part for part in parts if isinstance(part, Plot)]
    return [plot for plot in plots if max((len(row) for _, row in plot.grid(found)), default=0) >= plot.least]


def file_name(found: Record, plot: Plot) -> str:
    return re.sub(r"\W+", "-", f"{found.benchmark} {plot.title}".lower()) + ".svg"


def draw(found: Record, plot: Plot, file: Path) -> None:
    """The same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    rows = plot.grid(found)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7, plot.height(rows)), layout="constrained")
        axes = canvas.subplots()
        plot.draw(axes, rows)
        axes.set_title(plot.title, loc="left", fontsize=10)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        canvas.savefig(file, format="svg", metadata=UNDATED)


def _spread(figures: list[Figure]) -> list[list[float]]:
    """From the median down to the lowest round of each, and up to the highest."""
    return [
        [figure.median - min(figure.rounds) for figure in figures],
        [max(figure.rounds) - figure.median for figure in figures],
    ]


def _values(rows: Grid) -> list[Label]:
    """Of the label that goes across."""
    return list(dict.fromkeys(value for _, row in rows for value in row))


def _labels(figure: Figure) -> Labels:
    return {"what": figure.what, **figure.labels}


def _caption(labels: Labels) -> str:
    """`8 clients, insert`: a number needs its name."""
    return ", ".join(
        value if isinstance(value, str) else f"{_text(value)} {_words(name)}" for name, value in labels.items()
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
