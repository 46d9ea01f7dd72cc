"""Write the generated parts of docs/benchmarks.md, and its plots, from the records in benchmarks/results/.

    python benchmarks/page.py [--check]

With --check it writes and draws nothing (matplotlib is not needed), and fails if the page disagrees with the records.
PARTS says what the page shows of a benchmark. Figures that no table there takes get a table of their own. A part without
figures is left out."""

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import record
from record import Figure, Label, Record, short

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PLOTS = DOCS / "benchmarks.md", DOCS / "plots"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's: for every eye
STYLE: Any = {"svg.hashsalt": "pg_qwen_embed", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True,
         "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
UNDATED = {"Date": None, "Creator": None}

Labels = dict[str, Label]
Grid = list[tuple[Labels, dict[Label, Figure]]]


@dataclass(frozen=True)
class Part:
    """Figures shown together. what: their quantities; none: any. where: their labels. across: the label that is spread.

    The quantity counts as a label too, called "what"."""

    title: str
    what: tuple[str, ...] = ()
    across: str = "what"
    where: Mapping[str, Label] = field(default_factory=dict)

    def grid(self, found: Record) -> Grid:
        """For each set of other labels, in the record's order: its figures, by their value of `across`."""
        figures = [figure for figure in found.figures if self.takes(figure)]
        above = {**found.settings, **self.where}
        said = {
            name for name in above if all(figure.labels.get(name, above[name]) == above[name] for figure in figures)
        }
        rows: Grid = []
        for figure in figures:
            labels = _labels(figure)
            value = labels.pop(self.across)
            others = {name: label for name, label in labels.items() if name not in said}
            if len(self.what) == 1:
                others.pop("what", None)  # the title says it
            row = next((row for known, row in rows if known == others), None)
            if row is None:
                rows.append((others, row := {}))
            row[value] = figure
        return rows

    def takes(self, figure: Figure) -> bool:
        labels = _labels(figure)
        wanted = not self.what or figure.what in self.what
        return wanted and self.where.items() <= labels.items() and self.across in labels


class Table(Part):
    """A row for each set of other labels, a column for each value: median, (spread), and goal."""


class Plot(Part):
    least: ClassVar[int]  # figures of a set of other labels that is worth a plot

    def shown(self, found: Record) -> Grid:
        return [(labels, row) for labels, row in self.grid(found) if len(row) >= self.least]

    def height(self, rows: Grid) -> float:
        """The height in inches."""
        raise NotImplementedError

    def draw(self, axes: Any, rows: Grid) -> None:
        raise NotImplementedError


class Bars(Plot):
    """A group for each set of other labels, a horizontal bar for each value, so that long labels fit."""

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
        axes.grid(axis="x", alpha=0.3)


class Lines(Plot):
    """A line for each set of other labels, over numeric values; on a log scale if they span orders of magnitude."""

    least = 2

    def grid(self, found: Record) -> Grid:
        return [(labels, {x: row[x] for x in row if not isinstance(x, str)}) for labels, row in super().grid(found)]

    def height(self, rows: Grid) -> float:
        return 3.0

    def draw(self, axes: Any, rows: Grid) -> None:
        everywhere = sorted({float(x) for x in _values(rows)})
        for (labels, row), colour in zip(rows, cycle(COLOURS)):
            xs = [x for x in everywhere if x in row]
            figures = [row[x] for x in xs]
            axes.errorbar(xs, [figure.median for figure in figures], _spread(figures), color=colour, marker="o",
                          markersize=4, capsize=2, label=_caption(labels) or None)  # fmt: skip
        if 0 < 50 * everywhere[0] <= everywhere[-1]:
            axes.set_xscale("log")
            axes.set_xticks(everywhere, [f"{x:,.0f}" for x in everywhere])
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(_words(self.across))
        axes.grid(alpha=0.3)


GPU = (
    Table("SGLang alone, and the worker", ("embeddings/s", "share of the best of SGLang alone", "tokens/s")),
    Table("A changed row and a query", ("change to vector, ms", "query, ms")),
)
PARTS: dict[str, tuple[Part, ...]] = {
    "backfill": (
        Table("Worker, baseline, COPY and peer"),
        Bars("Rows a second", ("rows/s",), "index"),
        Bars("Milliseconds of CPU a row", ("CPU ms/row",), "index"),
    ),
    "freshness": (
        Table("From commit to visible", ("p50 ms", "p95 ms", "p99 ms")),
        Table("Whether the writer kept up", ("writes/s",)),
        Bars("Milliseconds from commit to visible", ("p50 ms", "p95 ms", "p99 ms"), where={"worker": "ours"}),
    ),
    "writes": (
        Table("Transactions a second", ("transactions/s",), "trigger"),
        Table("Their share of those without a trigger", ("share of the transactions/s without a trigger",), "trigger"),
        Table("The server's CPU, microseconds a transaction", ("server CPU, us/transaction",), "trigger"),
        Table("What a trigger adds to it", ("server CPU added, us/transaction",), "trigger"),
        Bars("Share of the transactions a second without a trigger, 8 clients",
             ("share of the transactions/s without a trigger",), "trigger", {"clients": 8}),
        Bars("Microseconds of CPU that a trigger adds to a transaction", ("server CPU added, us/transaction",), "trigger"),
    ),
    "queries": (
        Table("Recall and time of a query", ("recall@10", "ms, median", "ms, p95", "times by hand")),
        Table("The index", ("build, s", "index MB")),
        Lines("Recall of the first ten", ("recall@10",), "ef_search"),
        Bars("Milliseconds of a query, ef_search 40", ("ms, median", "ms, p95"), where={"ef_search": 40}),
    ),
    "queries_in_sql": (
        Table("What the text of a query in SQL costs", ("request p50 ms", "overhead p50 ms", "overhead p99 ms", "cached p50 ms",
              "cached p99 ms")),
        Table("Queries a second", ("new queries/s", "cached queries/s")),
    ),
    "hybrid": (
        Table("nDCG@10 of searches by vectors, by words and by both", ("nDCG@10",), "search"),
        Table("Hybrid less the better of the two",
              ("hybrid less the better", "hybrid less the better, low", "hybrid less the better, high")),
        Table("Documents that their own Chinese characters find", ("found",)),
        Table("A backfill with words", ("rows/s with words / without",)),
    ),
    "indexes": (
        Table("Recall and time of a query", ("recall@10", "recall@10 of made-up queries", "ms, median", "ms, p95")),
        Table("The indexes", ("index MB", "size, of hnsw", "build and check, s", "ms, exact")),
        Lines("Recall by ef_search", ("recall@10 by ef_search",), "ef_search"),
    ),
    "scale": (
        Table("More rows", across="rows"),
        Table("More workers", across="workers"),
        Table("More embeddings", across="embeddings"),
        Lines("Rows a second of one worker, by the rows of the table", ("rows/s",), "rows"),
        Lines("Rows a second of four embeddings together, by the number of workers", ("rows/s together",), "workers"),
        Lines("Rows a second of one worker, by the number of embeddings", ("rows/s together",), "embeddings"),
    ),
    "gpu_4B": GPU,
    "gpu_06B": GPU,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check whether the page agrees with the records")
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if not parser.parse_args().check:
        PAGE.write_text(wanted, encoding="utf-8")
        draw_all()
    elif wanted != text:
        raise SystemExit("docs/benchmarks.md disagrees with benchmarks/results; run: make bench-page")


def page(text: str) -> str:
    """The page with its current generated blocks."""
    if re.findall(r"<!-- generated: (\w+) -->", text) != list(PARTS):
        raise SystemExit(f"docs/benchmarks.md should have blocks for {', '.join(PARTS)}, in this order")
    return re.sub(
        r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{_block(found[2])}\n{found[3]}", text, flags=re.DOTALL,
    )  # fmt: skip


def kept(benchmark: str) -> Record | None:
    try:
        found = record.read(benchmark)
    except FileNotFoundError:
        return None
    return replace(found, figures=[_in_words(figure) for figure in found.figures])


def _in_words(figure: Figure) -> Figure:
    """In the words of docs/words.md: the records call the baseline `floor`."""
    labels = {name: "baseline" if label == "floor" else label for name, label in figure.labels.items()}
    return replace(figure, what=figure.what.replace("floor", "baseline"), labels=labels)


def _block(benchmark: str) -> str:
    found = kept(benchmark)
    return block(found, PARTS[benchmark]) if found else f"Not measured yet: `python benchmarks/{benchmark}.py`."


def block(found: Record, parts: Iterable[Part]) -> str:
    """A figure stands in the first table that takes it."""
    written, rest = [], found.figures
    for table in parts:
        if isinstance(table, Table) and (rows := table.grid(replace(found, figures=rest))):
            written.append(f"**{table.title}**\n\n{pivot(rows, table.across)}")
            rest = [figure for figure in rest if not table.takes(figure)]
    if rest:
        written.append(flat(rest))
    plots = [f"![{plot.title}](plots/{file_name(found, plot)})" for plot in _plots(found, parts)]
    return "\n\n".join([f"```\n{found.command}\n```", _how(found), *written, *plots])


def _how(found: Record) -> str:
    machine = dict(found.machine)
    facts = [f"{machine.pop('processor')}, {machine.pop('cores')} cores, {machine.pop('memory_gb')} GB",
             *(f"{_words(name)} {value}" for name, value in machine.items())]  # fmt: skip
    versions = [f"{name} {value}" for name, value in found.versions.items()]
    settings = [f"{_words(name)} {_text(value)}" for name, value in found.settings.items() if value is not None]
    return "; ".join(", ".join(some) for some in (facts, versions, settings)) + "."


def pivot(rows: Grid, across: str) -> str:
    names = list(dict.fromkeys(name for labels, _ in rows for name in labels))
    values = _values(rows)
    titles = [str(value) if across == "what" else f"{_words(across)} {_text(value)}" for value in values]
    return _table([*("figure" if name == "what" else _words(name) for name in names), *titles], [
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
    """The plots that have something to show."""
    return [part for part in parts if isinstance(part, Plot) and part.shown(found)]


def file_name(found: Record, plot: Plot) -> str:
    return re.sub(r"\W+", "-", f"{found.benchmark} {plot.title}".lower()) + ".svg"


def draw(found: Record, plot: Plot, file: Path) -> None:
    """Write the plot; the same figures give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    rows = plot.shown(found)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7, plot.height(rows)), layout="constrained")
        axes = canvas.subplots()
        plot.draw(axes, rows)
        axes.set_title(plot.title, loc="left", fontsize=10)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        canvas.savefig(file, format="svg", metadata=UNDATED)


def _spread(figures: list[Figure]) -> list[list[float]]:
    """The distances from each median to the lowest round, and to the highest."""
    return [
        [figure.median - min(figure.rounds) for figure in figures],
        [max(figure.rounds) - figure.median for figure in figures],
    ]


def _values(rows: Grid) -> list[Label]:
    """The values of the label `across`."""
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
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
