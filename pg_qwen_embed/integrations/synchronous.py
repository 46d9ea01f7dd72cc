"""Embedding in the caller's own transaction, without a worker: for tests, whose transactions are never committed.

A worker cannot see what a test has written, and a test cannot see what a worker would write. So the pending rows are
embedded here, through the same encoder and the same guarded write. The embedding server is the one of the settings."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.domain.version import READS
from pg_qwen_embed.inference.encoder import Encoder, KnownServer
from pg_qwen_embed.inference.sglang import ASK_TIMEOUT, EmbeddingServer
from pg_qwen_embed.postgres import catalog, fits
from pg_qwen_embed.postgres.borrowed import borrowed, borrowed_async
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.settings import Settings, resolve

R = TypeVar("R")
ROWS = 256  # of a page


def embed_pending(connection: psycopg.Connection[Any], name: str, **options: str | None) -> int:
    """Embed every row of the embedding whose vector is missing or stale, in this connection's transaction.

    options: settings, such as server_url; others come from the environment. Returns how many rows got vectors. Raises
    UsageError, ServerUnavailable, ModelMismatch, DocumentRejected."""
    target = _target(connection, name)
    with borrowed(connection) as ours:
        (halfvec, *_) = ours.execute(statement("catalogue_facts"), {"ids": []}).fetchone() or (0,)

    async def embed(encoder: Encoder) -> int:
        async with borrowed_async(connection) as ours:
            return await _embed_pending(ours, Store(target, halfvec), encoder)

    return _encoded(target, resolve(os.environ, **options), embed)


def query_vector(connection: psycopg.Connection[Any], name: str, text: str, **options: str | None) -> Vectors:
    """The vector of a query, shape (dimensions,), for the embedding as this transaction sees it. Raises as `embed_pending`."""
    if not text.strip():
        raise UsageError("the query is blank: there is nothing to search for")
    target = _target(connection, name)
    instruction = target.embedding.instruction
    return _encoded(target, resolve(os.environ, **options), lambda encoder: encoder.query(target, instruction, text))


def _target(connection: psycopg.Connection[Any], name: str) -> Target:
    with borrowed(connection) as ours:
        return fits.with_fit(ours, catalog.embedding(ours, name)).target


def _encoded(target: Target, settings: Settings, work: Callable[[Encoder], Awaitable[R]]) -> R:
    """What `work` returns, in an event loop of its own: the caller may be inside one."""

    async def run() -> R:
        async with EmbeddingServer(settings.servers[0], ASK_TIMEOUT, once_more=True) as server:
            return await work(Encoder(KnownServer(server, await server.model_info(target.spec.model))))

    with ThreadPoolExecutor(1, thread_name_prefix="pg_qwen_embed") as thread:
        return thread.submit(asyncio.run, run()).result()


async def _embed_pending(connection: AsyncConnection, store: Store, encoder: Encoder) -> int:
    """The changes that triggers have noted, then the rows that were there before the embedding."""
    version, done = await store.begin_term(connection) * READS, 0
    while True:
        page = await store.read_outbox(
            connection, version=version, after=0, in_flight=set(), entries=100 * ROWS, keys=ROWS
        )
        for seqs, row_ids in page.source_truncated:
            await store.clear_source_truncated(connection, version, seqs, row_ids)
        done += await _write(connection, store, encoder, page.changes)
        if not page.changes and not page.source_truncated:
            break
        version += 1
    after: Sequence[str] | None = None
    while True:
        rows = await store.read_backfill(connection, after=after, rows=ROWS)
        done += await _write(connection, store, encoder, rows.changes)
        if rows.last is None or not rows.partial:
            return done
        after = [str(value) for value in rows.last]


async def _write(connection: AsyncConnection, store: Store, encoder: Encoder, changes: Sequence[Change]) -> int:
    without = [change for change in changes if change.fingerprint is None]
    if without:
        await store.clear(connection, without)
    changes = [change for change in changes if change.fingerprint is not None]
    if not changes:
        return 0
    found = await encoder.documents(store.target, [change.document for change in changes])
    failed = [changes[n] for n in found.rejected]
    if failed:
        await store.record_failures(connection, failed, list(found.rejected.values()), [None] * len(failed))
    kept = [
        change._replace(truncated=n in found.truncated) for n, change in enumerate(changes) if n not in found.rejected
    ]
    if found.spans is not None:
        kept = [change._replace(spans=tuple(own)) for change, own in zip(kept, found.spans, strict=True)]
    if kept:
        await store.write(connection, kept, [found.vectors])
    return len(kept)
