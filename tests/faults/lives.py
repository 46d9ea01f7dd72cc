"""Lives of databases: random moves, changes between them; at rest every vector is right and no statement has failed.

    python tests/faults/lives.py [--minutes 10] [--version 18] [--seed N] [--layout table] [--moves NAME ...]

Prints each life that went wrong with all its steps, and ends with status 1 then. A seed and a layout make one life."""

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from fake_sglang import FakeSGLang
from harness import Cluster, cluster
from life import LAYOUTS, Life
from moves import MOVES

LENGTH = 10  # moves of a life


def live(
    clusters: tuple[Cluster, ...], seed: int, layout: str, folder: Path, moves: list[str], length: int = LENGTH
) -> Counter[str]:
    """One life. Raises AssertionError with its steps if something is not as it should be."""
    with FakeSGLang().running() as server:
        life = Life(clusters, server, folder, layout, random.Random(seed))
        with life:
            try:
                for _ in range(length):
                    life.move({name: MOVES[name] for name in moves})
                life.come_to_rest()
            except Exception as error:
                how = f"seed {seed}, layout {layout}"
                raise AssertionError(f"{how}\n{life.told()}\n--- {how}: {type(error).__name__}: {error}") from error
        return life.done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--version", type=int, default=18)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--layout", choices=list(LAYOUTS))
    parser.add_argument("--moves", nargs="*", default=list(MOVES))
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    first = random.randrange(2**32) if wanted.seed is None else wanted.seed
    print(f"lives: PostgreSQL {wanted.version}, from seed {first}, {wanted.minutes} minutes", flush=True)
    done: Counter[str] = Counter()
    wrong = lives = 0
    with ExitStack() as stack:
        clusters = tuple(stack.enter_context(cluster(version)) for version in (wanted.version, 18))
        end = time.monotonic() + wanted.minutes * 60
        while time.monotonic() < end:
            layout = wanted.layout or list(LAYOUTS)[lives % len(LAYOUTS)]
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg_qwen_embed_lives_")))
            try:
                done += live(clusters, first + lives, layout, folder, wanted.moves)
            except AssertionError as error:
                wrong += 1
                print(f"\n=== {error}", flush=True)
                traceback.print_exc(limit=-4, file=sys.stdout)
            lives += 1
    print(f"{lives} lives, {wrong} went wrong; moves: {dict(done)}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
