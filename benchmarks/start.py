"""How long a command takes to start: `--help`, and `status` of one embedding, next to Python alone, in turn, in one run.

    python benchmarks/start.py [--rounds 20]

Prints one line of JSON: the median milliseconds of each. Modules are compiled before, as they are after an installation."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import harness

from pg_qwen_embed.admin.attach import Declaration, attach
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import from_columns
from pg_qwen_embed.postgres import embedded, migrate
from pg_qwen_embed.postgres.connection import connect

COMMANDS = {
    "python": ["-c", "pass"],
    "help": ["-m", "pg_qwen_embed", "--help"],
    "status": ["-m", "pg_qwen_embed", "status"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with embedded.postgres() as url, tempfile.TemporaryDirectory() as cache:
        migrate.init(url)
        harness.load(url, ["a document"])
        with connect(url, "benchmark") as connection:
            attach(connection, Declaration("documents", Spec("m", 8, from_columns(("body",)))))
        environment = os.environ | {"PG_QWEN_EMBED_DATABASE_URL": url, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for round_ in range(rounds + 1):
            for name, words in COMMANDS.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, check=True)
                if round_:  # the first one compiles
                    taken[name].append(time.perf_counter() - began)
    median = {f"{name}_ms": round(1000 * statistics.median(times)) for name, times in taken.items()}
    harness.report("start", rounds=rounds, **median)


if __name__ == "__main__":
    main()
