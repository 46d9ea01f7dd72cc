"""Recall: the vectors of the chunks that a changed row had before, so that only chunks with another text are embedded.

It reads on a connection of the live writers. If that fails, every chunk is embedded. A backfill embeds rows that have no
vectors, so there is nothing to recall."""

import asyncio
from collections.abc import Mapping, Sequence

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.encoder import Recall
from pg_qwen_embed.postgres.connection import Pool, first_line
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.work import Request

TIMEOUT = 60.0  # seconds, for a connection that is dead without an error


class ChunkRecall:
    """`of` a request."""

    def __init__(self, store: Store, pool: Pool, runtime: Runtime) -> None:
        self._store = store
        self._pool = pool
        self._runtime = runtime

    def of(self, request: Request) -> Recall | None:
        """How to recall the chunks of its rows; None where there are none."""
        if not self._store.has_chunks or not request.is_live:
            return None

        async def recall(positions: Sequence[int]) -> Mapping[bytes, Vectors]:
            name, changes = self._store.target.name, [request.changes[n] for n in positions]
            try:
                async with asyncio.timeout(TIMEOUT), self._pool.connection() as connection:
                    found = await self._store.read_chunks(connection, changes)
            except (psycopg.Error, TimeoutError) as error:
                reason = first_line(error) if isinstance(error, psycopg.Error) else "no answer"
                self._runtime.events.emit(events.RecallFailed(name, reason))
                return {}
            self._runtime.events.emit(events.ChunksRecalled(name, len(changes), len(found)))
            return found

        return recall
