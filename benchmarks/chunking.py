"""The time to divide a document into chunks, without the server that counts tokens.

    python benchmarks/chunking.py [--characters 500000] [--rounds 5]

Four texts: English sentences, Chinese sentences, and the two worst cases, which have no boundary: one letter, or one
ideograph, repeated. Prints one line of JSON: the median milliseconds of each, and of the last text without windows."""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import harness
import texts
from semantic_text_splitter import TextSplitter

from pg_qwen_embed.inference.boundaries import divide

TOKENS = 512  # of a chunk; four characters each
SIZE = 4 * TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--characters", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    length = wanted.characters
    found = {
        f"{name}_ms": median(wanted.rounds, partial(ours, text))
        for name, text in {"english": english(length), "chinese": chinese(length), "letter": "x" * length,
                           "ideograph": "漢" * length}.items()
    }  # fmt: skip
    found["ideograph_whole_ms"] = median(1, lambda: TextSplitter(SIZE).chunk_indices("漢" * length))
    harness.report("chunking", characters=length, chunk_tokens=TOKENS, **found)


def ours(text: str) -> object:
    return divide(text, (0, len(text)), tokens=len(text) // 4, most=TOKENS, overlap=0)


def median(rounds: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(1000 * statistics.median(times), 1)


def english(length: int) -> str:
    sentences = texts.sentences()
    return " ".join(sentences * (1 + length // len(" ".join(sentences))))[:length]


def chinese(length: int) -> str:
    chance = random.Random(1)
    sentences = (
        "".join(chr(chance.randint(0x4E00, 0x8FFF)) for _ in range(chance.randint(8, 30))) for _ in range(length // 9)
    )
    return "。".join(sentences)[:length]


if __name__ == "__main__":
    main()
