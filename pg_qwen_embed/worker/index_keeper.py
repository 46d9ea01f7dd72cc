"""The index keeper: looks at the index of an embedding, and builds or drops it as index_policy.py decides.

Builds and drops run on connections of their own. All that it decides by is in the database, so a worker that is restarted
goes on where the last one was. Queries are right without an index: they compare every vector."""

import asyncio
from contextlib import suppress

import numpy as np
import psycopg

from pg_qwen_embed.domain import index_events as events
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.domain.events import Event
from pg_qwen_embed.domain.index import IndexKind
from pg_qwen_embed.domain.index_check import AUTOMATIC_RECALL
from pg_qwen_embed.domain.report import BackfillState, IndexState
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres import index
from pg_qwen_embed.postgres import index_check as measuring
from pg_qwen_embed.postgres.connection import Pool, first_line
from pg_qwen_embed.worker import index_policy
from pg_qwen_embed.worker.index_policy import Action, Seen
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.pipeline import Pipeline


class IndexKeeper:
    """pool: the connections of the live writers."""

    def __init__(self, url: str, pool: Pool, options: Options, runtime: Runtime) -> None:
        self._url = url
        self._pool = pool
        self._options = options
        self._runtime = runtime
        self._known: set[int] = set()  # generations whose index was measured, or could not be, since it was built

    async def keep(self, pipeline: Pipeline, *, known: bool = False) -> None:
        """Return when the index is as it should be, and a backfill that waited for it is done.

        known: do not report an index that is as it was. Raises psycopg.Error and DatabaseUnavailable only with `once`."""
        action = None
        while True:
            before = action
            try:
                seen = await self._look(pipeline)
                action = index_policy.decide(seen, pipeline.target.spec.index)
                if action is Action.WAIT_FOR_BACKLOG and action is not before:
                    self._emit(events.IndexWaits(pipeline.target.name, seen.backlog))
                if await self._act(action, seen, pipeline, known=known):
                    return
            except (psycopg.Error, DatabaseUnavailable) as error:
                if self._options.once:
                    raise
                self._emit(events.IndexFailed(pipeline.target.name, first_line(error)))
            dropped = action in (Action.DROP, Action.DROP_LEFTOVER) and action is not before
            waits = action is Action.WAIT_FOR_BACKLOG or dropped
            await asyncio.sleep(self._options.index_interval if waits else self._options.index_pause)

    async def give_way(self, pipeline: Pipeline) -> None:
        """Drop the index if a backfill that begins is large against it; it is built when every row has its vector."""
        try:
            seen = await self._look(pipeline)
            if index_policy.decide(seen, pipeline.target.spec.index) is Action.DROP:
                await self._act(Action.DROP, seen, pipeline, known=True)
        except (psycopg.Error, DatabaseUnavailable) as error:
            self._emit(events.IndexFailed(pipeline.target.name, first_line(error)))

    async def _act(self, action: Action, seen: Seen, pipeline: Pipeline, *, known: bool) -> bool:
        """Returns whether the index is as it should be."""
        name, absent = pipeline.target.name, seen.state is IndexState.NONE
        match action:
            case Action.DROP:
                await self._drop(pipeline)
                self._emit(events.IndexDropped(name, seen.backlog))
            case Action.BUILD if await self._build(pipeline):
                return await self._done(pipeline, events.IndexReady(name))
            case Action.DROP_LEFTOVER:
                await self._drop(pipeline, only_next=True)
            case Action.REBUILD:
                await self._rebuild(pipeline)
            case Action.NONE if known:
                needed = not absent or (seen.needed and not seen.wanted)
                return await self._done(pipeline, None, words=needed)
            case Action.NONE if absent and not seen.wanted:
                return await self._done(pipeline, events.IndexNotWanted(name), words=seen.needed)
            case Action.NONE if absent:
                return await self._done(pipeline, events.IndexNotNeeded(name, self._options.index_from), words=False)
            case Action.NONE if await index.ensure(self._url, pipeline.target, self._runtime.events):
                return await self._done(pipeline, events.IndexReady(name))
        return False

    async def _drop(self, pipeline: Pipeline, *, only_next: bool = False) -> None:
        with suppress(index.GaveWay, index.Elsewhere):  # it is looked at again
            await index.drop(self._url, pipeline.target, only_next=only_next)

    async def _build(self, pipeline: Pipeline) -> bool:
        self._known.discard(pipeline.target.id)
        return await index.ensure(self._url, pipeline.target, self._runtime.events)

    async def _rebuild(self, pipeline: Pipeline) -> None:
        target, told = pipeline.target, self._runtime.events
        self._known.discard(target.id)
        try:
            await index.build(self._url, target, told, again=True)
        except index.Elsewhere:
            return
        except index.GaveWay:
            self._emit(events.IndexGaveWay(target.name))

    async def _done(self, pipeline: Pipeline, event: Event | None, *, words: bool = True) -> bool:
        """The backfill, if one waited for the index, is done. words: their index is needed too.

        Returns False if that index cannot be built yet."""
        if words and not await index.ensure_words(self._url, pipeline.target, self._runtime.events):
            return False
        async with self._pool.connection() as connection:
            await pipeline.store.finish_backfill(connection, BackfillState.DONE, after=BackfillState.INDEXING)
        if event:
            self._emit(event)
        return True

    async def _look(self, pipeline: Pipeline) -> Seen:
        async with self._pool.connection() as connection:
            state, ours, needed, vectors, backlog, wanted, *others = await pipeline.store.look_at_index(
                connection, index_from=self._options.index_from, most=index_policy.DROP_VECTORS + 1
            )
        in_source = pipeline.store.in_source  # an index of the application's own table is never dropped
        wanted = wanted and pipeline.target.spec.index.kind is not IndexKind.NONE
        return Seen(IndexState(state), ours and not in_source, needed, vectors, backlog, wanted, *others)

    async def measure(self, pipeline: Pipeline) -> None:
        """Measure a valid index that was not measured yet. It is tried once: until then searches are as wide as usual."""
        target = pipeline.target
        if target.id in self._known:
            return
        try:
            seen = await self._look(pipeline)
            if seen.state is not IndexState.VALID:
                return
            self._known.add(target.id)
            if seen.measured or seen.vectors < self._options.measure_from:
                return
            rng = np.random.default_rng(self._runtime.rng.getrandbits(64))
            async with await index.connected(self._url, target) as connection:
                found = await measuring.measure(connection, target, AUTOMATIC_RECALL, measuring.GENTLE, rng)
                if found is not None:
                    await measuring.record(connection, target, found)
                    self._emit(
                        events.IndexMeasured(target.name, found.width, found.recall, found.not_found, found.looked_for)
                    )
        except (psycopg.Error, DatabaseUnavailable) as error:
            self._emit(events.IndexNotMeasured(target.name, first_line(error)))

    def _emit(self, event: Event) -> None:
        self._runtime.events.emit(event)
