"""The record of a benchmark: its figures and how they were measured, printed as one line of JSON and as table rows.

A benchmark measures its variants in turns (A B A B ...) in one run. A figure is the median of its rounds, with the lowest
and the highest. `--record` keeps the line in benchmarks/results/, from which page.py writes docs/benchmarks.md."""

import argparse
import json
import operator
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

RESULTS = Path(__file__).parent / "results"
SEED = 1
_COMPARISONS = {">=": operator.ge, "<=": operator.le}
_LOAD = os.getloadavg()[0]  # before the benchmark adds to it

Label = str | int | float


@dataclass(frozen=True)
class Goal:
    """The goal of a figure: a comparison (">=" or "<=") with a bound."""

    comparison: str
    bound: float

    def met(self, found: float) -> bool:
        return bool(_COMPARISONS[self.comparison](found, self.bound))


@dataclass(frozen=True)
class Figure:
    """what: the quantity ("rows/s"). labels: the variant ("writer": "worker"). rounds: one value for each round."""

    what: str
    labels: dict[str, Label]
    rounds: Sequence[float]
    goal: Goal | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.goal.met(self.median)


class Findings:
    """Figures that grow: each round adds a value."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, tuple[tuple[str, Label], ...]], tuple[list[float], Goal | None]] = {}

    def add(self, what: str, value: float, labels: Mapping[str, Label], goal: Goal | None = None) -> None:
        self._found.setdefault((what, tuple(labels.items())), ([], goal))[0].append(value)

    def figures(self) -> list[Figure]:
        """The figures, in the order of their first values."""
        return [Figure(what, dict(labels), rounds, goal) for (what, labels), (rounds, goal) in self._found.items()]


@dataclass(frozen=True)
class Record:
    """One run of a benchmark. settings: its options, as rows, dimensions and rounds."""

    benchmark: str
    command: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    figures: list[Figure] = field(default_factory=list)

    def figure(self, what: str, **labels: Label) -> Figure:
        """The figure of this quantity whose labels include these."""
        found = [f for f in self.figures if f.what == what and labels.items() <= f.labels.items()]
        if len(found) != 1:
            raise LookupError(f"{self.benchmark}: {len(found)} figures of {what} with {labels}")
        return found[0]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratios, round by round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=rounds, help="how often each variant is measured")
    made.add_argument("--record", action="store_true", help="keep the result for docs/benchmarks.md")
    return made


def report(benchmark: str, wanted: argparse.Namespace, url: str, figures: Sequence[Figure], **versions: str) -> None:
    """Print the line and a row for each figure; with --record keep the line. versions: those of further software."""
    settings = {name: value for name, value in vars(wanted).items() if name != "record"} | {"seed": SEED}
    show(Record(benchmark, _command(), settings, machine(), _versions(url) | versions, list(figures)), wanted.record)


def show(record: Record, keep: bool) -> None:
    """Print the line and a row for each figure. keep: also write the line into benchmarks/results/."""
    line = json.dumps({**asdict(record), "figures": [_as_json(figure) for figure in record.figures]})
    print(line)
    for figure in record.figures:
        print(row(figure))
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{record.benchmark}.json").write_text(
            json.dumps(json.loads(line), indent=1) + "\n", encoding="utf-8"
        )


def read(benchmark: str) -> Record:
    """A record that was kept. Raises FileNotFoundError."""
    found = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))
    figures = [
        Figure(one["what"], one["labels"], one["rounds"], Goal(**one["goal"]) if one["goal"] else None)
        for one in found.pop("figures")
    ]
    return Record(**found, figures=figures)


def row(figure: Figure) -> str:
    """A row of a table: quantity, variant, median, lowest and highest, goal."""
    labels = ", ".join(f"{name} {value}" for name, value in figure.labels.items())
    spread = f"{short(min(figure.rounds))} to {short(max(figure.rounds))}" if len(figure.rounds) > 1 else ""
    return f"| {figure.what} | {labels} | {short(figure.median)} | {spread} | {verdict(figure)} |"


def verdict(figure: Figure) -> str:
    """The goal and whether it is met; empty without a goal."""
    if figure.goal is None:
        return ""
    return f"{figure.goal.comparison} {short(figure.goal.bound)}: {'met' if figure.met else 'not met'}"


def short(value: float) -> str:
    """Three significant digits."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _as_json(figure: Figure) -> dict[str, Any]:
    rounds = [float(f"{value:.5g}") for value in figure.rounds]
    return {**asdict(figure), "rounds": rounds, "median": float(f"{figure.median:.5g}"),
            "spread": [min(rounds), max(rounds)], "met": figure.met}  # fmt: skip


def _command() -> str:
    given = [argument for argument in sys.argv[1:] if argument != "--record"]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory),
        "load_before": round(_LOAD, 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """The paths that were measured, without documentation."""
    code = [":/pg_qwen_embed", ":/benchmarks/*.py"]
    return _git("rev-parse", "--short", "HEAD") + (" and changes" if _git("status", "--porcelain", "--", *code) else "")


def _git(*arguments: str) -> str:
    """The output of a git command; empty outside a repository."""
    asked = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return asked.stdout.strip()


def _versions(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        (postgres,) = connection.execute("SELECT current_setting('server_version')").fetchone() or ("",)
        (vector,) = connection.execute(
            "SELECT max(extversion) FROM pg_extension WHERE extname = 'vector'"
        ).fetchone() or ("",)
    return {"pg_qwen_embed": f"{version('pg-qwen-embed')} ({_commit()})", "PostgreSQL": str(postgres), "pgvector": str(vector),
            "Python": platform.python_version()}  # fmt: skip
