"""The outage report service: while no server has an embedding's model and answers, the log says so again and again."""

import asyncio
from collections.abc import Mapping
from typing import NoReturn

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres.connection import Pool
from pg_qwen_embed.worker.pipeline import Pipeline


class OutageReport:
    """`start` it in a task group. It reads nothing while servers answer."""

    def __init__(self, pool: Pool, runtime: Runtime, *, every: float) -> None:
        """every: seconds between two reports."""
        self._pool = pool
        self._runtime = runtime
        self._every = every
        self._since: dict[int, float] = {}  # by generation: when no server was seen first

    def start(self, group: asyncio.TaskGroup, pipelines: Mapping[int, Pipeline]) -> None:
        """pipelines: the running ones by generation; a mapping that changes with them."""
        group.create_task(self._run(pipelines))

    async def _run(self, pipelines: Mapping[int, Pipeline]) -> NoReturn:
        interval = min(1.0, self._every)
        while True:
            await asyncio.sleep(interval)
            now = self._runtime.clock()
            waiting = {id_: one for id_, one in pipelines.items() if one.waits_for_server}
            self._since = {id_: self._since.get(id_, now) for id_ in waiting}
            for id_, pipeline in waiting.items():
                passed = now - self._since[id_]
                if passed // self._every > (passed - interval) // self._every:
                    await self._report(pipeline, passed)

    async def _report(self, pipeline: Pipeline, seconds: float) -> None:
        try:
            async with self._pool.connection() as connection:
                pending, lag = await pipeline.store.lag(connection)
        except psycopg.Error:
            return  # the loop reports what is wrong with the database
        name = pipeline.target.name
        self._runtime.events.emit(events.WaitingForServer(name, round(seconds, 1), pending, round(lag, 1)))
