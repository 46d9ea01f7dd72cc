"""Documents of 60 to 200 words, made from the sentences of the standard library's docstrings. Seeded."""

import importlib
import inspect
import random
import re
import sys
import warnings
from collections.abc import Iterator

MODULES = ("argparse", "asyncio", "collections", "csv", "datetime", "decimal", "difflib", "email", "functools",
           "json", "logging", "multiprocessing", "os", "pathlib", "random", "re", "socket", "statistics", "string",
           "subprocess", "tarfile", "threading", "tkinter", "typing", "unittest", "urllib.request")  # fmt: skip


def sentences() -> list[str]:
    found: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MODULES:
            if name not in sys.builtin_module_names:
                found.update(_of_module(name))
    return sorted(found)


def _of_module(name: str) -> Iterator[str]:
    try:
        module = importlib.import_module(name)
    except ImportError:
        return
    for _, thing in inspect.getmembers(module):
        members = (
            [thing, *(m for _, m in inspect.getmembers(thing, inspect.isroutine))]
            if inspect.isclass(thing)
            else [thing]
        )
        for member in members:
            for sentence in re.split(r"(?<=[.!?])\s+", inspect.getdoc(member) or ""):
                words = sentence.split()
                if 4 <= len(words) <= 60:
                    yield " ".join(words)


def documents(count: int, seed: int = 1) -> Iterator[str]:
    rng = random.Random(seed)
    pool = sentences()
    for number in range(1, count + 1):
        wanted = rng.randint(60, 200)
        words: list[str] = []
        while len(words) < wanted:
            words += rng.choice(pool).split()
        yield f"Document {number}: {' '.join(words[:wanted])}"
