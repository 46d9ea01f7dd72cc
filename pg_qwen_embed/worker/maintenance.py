"""What a worker does beside following changes: indexes, vacuum, drift, partitions that came or went.

Each chore runs on a connection of its own, gently; what fails is logged and tried again."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import psycopg

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.domain.source import SourceState
from pg_qwen_embed.postgres import drift, index
from pg_qwen_embed.postgres.connection import Pool, connect_async, first_line
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.pipeline import Pipeline

log = logging.getLogger("pg_qwen_embed.worker")

VERIFIER_NAME = "pg_qwen_embed worker: verify"
GENTLE_PAUSE = 0.2  # seconds between pages of 500 rows


class Maintenance:
    """`start` it once; ask for chores; `leave` a generation that is no longer followed."""

    def __init__(
        self,
        url: str,
        pool: Pool,
        group: asyncio.TaskGroup,
        pipelines: Mapping[int, Pipeline],
        options: Options,
        done: Callable[[], None],
    ) -> None:
        """feeds: those that are followed, by generation. done: called when a chore has ended."""
        self._url = url
        self._pool = pool
        self._group = group
        self._pipelines = pipelines
        self._options = options
        self._done = done
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def start(self) -> None:
        self._group.create_task(self._vacuum_now_and_then())
        self._group.create_task(self._verify_now_and_then())

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def build_index(self, pipeline: Pipeline) -> None:
        """Searches go on without it, slower; so it is tried until it is there."""
        id_ = pipeline.target.id
        if ("index", id_) not in self._tasks:
            self._tasks["index", id_] = self._group.create_task(self._ensure_index(id_, pipeline))

    def follow_partitions(self, state: SourceState, pipeline: Pipeline) -> None:
        """Rows that came or went with their partition fired no trigger: look for them. A backfill finds them itself."""
        id_ = pipeline.target.id
        if (
            state.partitions == state.checked_partitions
            or pipeline.scanner.active
            or ("partitions", id_) in self._tasks
        ):
            return
        check = self._check_partitions(state, pipeline)
        self._tasks["partitions", id_] = self._group.create_task(check)

    def leave(self, id_: int) -> None:
        for key in [key for key in self._tasks if key[1] == id_]:
            self._tasks.pop(key).cancel()

    def _end(self, kind: str, id_: int) -> None:
        if self._tasks.get((kind, id_)) is asyncio.current_task():
            del self._tasks[kind, id_]
        self._done()

    # Vacuum and drift.

    async def _vacuum_now_and_then(self) -> None:
        """Of outboxes that have seen much, on a connection of the pool."""
        while True:
            await asyncio.sleep(self._options.vacuum_interval)
            for pipeline in [pipeline for pipeline in self._pipelines.values() if pipeline.wants_vacuum()]:
                try:
                    async with self._pool.connection() as connection:
                        await pipeline.store.vacuum(connection)
                except psycopg.Error as error:
                    log.warning("vacuum_failed embedding=%s reason=%s", pipeline.target.name, first_line(error))

    async def _verify_now_and_then(self) -> None:
        """Where nothing else is going on."""
        while self._options.verify_every:
            await asyncio.sleep(self._options.verify_every)
            for target in [pipeline.target for pipeline in self._pipelines.values() if pipeline.idle]:
                await self._repair(target, rows=True, missing=True, orphans=True)

    async def _repair(self, target: Target, *, rows: bool, missing: bool, orphans: bool) -> bool:
        """Whether everything was looked at."""
        pause = 0.0 if self._options.once else GENTLE_PAUSE
        try:
            async with await connect_async(self._url, VERIFIER_NAME) as connection:
                done = await drift.repair(connection, target, rows=rows, missing=missing, orphans=orphans, pause=pause)
        except (psycopg.Error, DatabaseUnavailable) as error:
            log.warning("verify_failed embedding=%s reason=%s", target.name, first_line(error))
            return False
        enqueued = done.missing_or_stale + done.orphaned
        log.info("verified embedding=%s enqueued=%d locked=%d", target.name, enqueued, done.locked)
        return not done.locked

    # Partitions.

    async def _check_partitions(self, state: SourceState, pipeline: Pipeline) -> None:
        target = pipeline.target
        try:
            known, now = state.checked_partitions or frozenset(), state.partitions or frozenset()
            log.info("partitions_changed embedding=%s came=%d went=%d", target.name, len(now - known), len(known - now))
            async with self._pool.connection() as connection:
                backfill, _ = await pipeline.store.read_backfill_state(connection)
                filled = any([await pipeline.store.has_rows(connection, oid) for oid in now - known])
            gone = bool(known - now) or state.checked_partitions is None
            checked = not (filled or gone) or await self._repair(
                target, rows=filled, missing=backfill is not BackfillState.NONE, orphans=gone
            )
            if checked:
                async with self._pool.connection() as connection:
                    await pipeline.store.note_partitions(connection, state.partitions)
        except psycopg.Error as error:
            log.warning("partitions_not_followed embedding=%s reason=%s", target.name, first_line(error))
        finally:
            self._end("partitions", target.id)

    # Indexes.

    async def _ensure_index(self, id_: int, pipeline: Pipeline) -> None:
        try:
            while True:
                if await self._index_built(pipeline):
                    break
                await asyncio.sleep(self._options.index_pause)
            log.info("index_ready embedding=%s", pipeline.target.name)
        finally:
            self._end("index", id_)

    async def _index_built(self, pipeline: Pipeline) -> bool:
        try:
            if not await index.ensure(self._url, pipeline.target):
                return False
            async with self._pool.connection() as connection:
                await pipeline.store.finish_backfill(connection, BackfillState.DONE, after=BackfillState.INDEXING)
        except (psycopg.Error, DatabaseUnavailable) as error:
            if self._options.once:
                raise
            log.warning("index_failed embedding=%s reason=%s", pipeline.target.name, first_line(error))
            return False
        return True
