"""The cost of the lock around a write: transactions of 64 vectors with it and without it, in turn, in one run.

    python benchmarks/store_lock.py [--writes 300]

Prints one line of JSON: the median milliseconds of each, and their ratio."""

import argparse
import asyncio
import statistics
import time
from unittest.mock import patch

import harness
import numpy as np
import psycopg

from pg_qwen_embed.admin.attach import Declaration, attach
from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.domain.spec import Spec
from pg_qwen_embed.domain.template import from_columns
from pg_qwen_embed.postgres import catalog, embedded, migrate
from pg_qwen_embed.postgres.connection import connect, connect_async
from pg_qwen_embed.postgres.store import Store

ROWS, DIMENSIONS = 64, 1024


async def _nothing(*_: object) -> None:
    """A statement in place of the lock."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=300)
    writes = parser.parse_args().writes
    vectors = np.random.default_rng(1).normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
    with embedded.postgres() as url:
        migrate.init(url)
        harness.load(url, ["a document"] * ROWS)
        with connect(url, "benchmark") as connection:
            attach(connection, Declaration("documents", Spec("m", DIMENSIONS, from_columns(("body",)))))
            target = catalog.embedding(connection, "documents").target
        with psycopg.connect(url) as plain:
            (oid,) = plain.execute("SELECT 'halfvec'::regtype::oid").fetchone() or (0,)
        store, taken = Store(target, oid), {"with": [0.0], "without": [0.0]}
        async with await connect_async(url, "benchmark") as writer:
            for version in range(1, 2 * writes + 1):
                kind = ("with", "without")[version % 2]
                changes = [Change((key,), version, (), b"0" * 16, "", 0) for key in range(1, ROWS + 1)]
                with patch.object(store, "_lock", _nothing) if kind == "without" else patch.object(harness, "run"):
                    began = time.perf_counter()
                    await store.write(writer, changes, [vectors])
                    taken[kind].append(time.perf_counter() - began)
    median = {kind: 1000 * statistics.median(times[20:]) for kind, times in taken.items()}
    harness.report(
        "store lock", writes=writes, rows=ROWS, with_ms=round(median["with"], 2),
        without_ms=round(median["without"], 2), ratio=round(median["with"] / median["without"], 3),
    )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())
