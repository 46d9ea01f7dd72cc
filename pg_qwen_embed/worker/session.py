"""A session: the services of a worker on one set of connections, started together and ended together.

When a connection is lost, the session ends with its pipelines. The next one starts from the outbox. Whether there is a
next one is left to process.py."""

import asyncio
from collections.abc import Iterator, Sequence

import psycopg

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.errors import DatabaseUnavailable, Error
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.inference.sglang import EmbeddingServer
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async, first_line, pool
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.following import Following
from pg_qwen_embed.worker.leadership import READER_NAME, Leadership
from pg_qwen_embed.worker.loop import Loop
from pg_qwen_embed.worker.maintenance import Maintenance
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.outage_report import OutageReport
from pg_qwen_embed.worker.pipeline import Pools
from pg_qwen_embed.worker.query_answers import QueryAnswers
from pg_qwen_embed.worker.signals import Signals
from pg_qwen_embed.worker.wakeup import WakeUp
from pg_qwen_embed.worker.writer import WRITERS

WRITER_NAME = "pg_qwen_embed worker: write"
SCANNER_NAME = "pg_qwen_embed worker: backfill"
COMPACTOR_NAME = "pg_qwen_embed worker: compact"


class Finished(Exception):  # it ends the task group, whose tasks would go on
    """The session is done."""


class Session:
    """`run` it once. opened: whether it got its connections. ready: whether it found the database set up."""

    def __init__(
        self, url: str, servers: Sequence[EmbeddingServer], options: Options, signals: Signals, runtime: Runtime
    ) -> None:
        self._url = url
        self._servers = servers
        self._options = options
        self._signals = signals
        self._runtime = runtime
        self.opened = self.ready = False

    async def run(self) -> None:
        """Raises DatabaseUnavailable when a connection is lost, and what the services raise."""
        try:
            async with (
                await connect_async(self._url, READER_NAME) as reader,
                pool(self._url, WRITER_NAME, least=1, most=WRITERS) as live,
                pool(self._url, SCANNER_NAME, least=0, most=1 + WRITERS) as backfill,
                pool(self._url, COMPACTOR_NAME, least=0, most=1) as compact,
                asyncio.TaskGroup() as group,
            ):
                self.opened = True
                await Store.limit_statements(reader, self._options.limits.longest_read)
                self._runtime.events.emit(events.Connected(reader.info.dbname, reader.info.backend_pid))
                group.create_task(self._serve(group, reader, Pools(live, backfill, compact)))
        except psycopg.Error as error:
            raise _lost(error) from None
        except BaseExceptionGroup as errors:
            leaves = list(_leaves(errors))
            if not all(isinstance(leaf, Finished | psycopg.Error | Error) for leaf in leaves):
                raise  # a bug of our own: keep its traceback
            verdict = _verdict(leaves)
            if verdict is not None:
                raise verdict from None

    async def _serve(self, group: asyncio.TaskGroup, reader: AsyncConnection, pools: Pools) -> None:
        """Start the services, and run the loop until it ends."""
        options, signals, runtime = self._options, self._signals, self._runtime
        balancer = Balancer(
            self._servers, most_requests=options.most_requests, outage_timeout=options.outage_timeout, once=options.once,
            identity_check_interval=options.identity_check_interval, changed=signals.registry, runtime=runtime,
        )  # fmt: skip
        leadership = Leadership(reader, balancer, runtime)
        maintenance = Maintenance(self._url, pools.live, options, signals, runtime)
        following = Following(reader, pools, balancer, leadership, maintenance, options, signals, runtime)
        balancer.start(group)
        WakeUp(self._url, reader, signals, ping=options.ping).start(group)
        maintenance.start(group, following.pipelines)
        OutageReport(pools.live, runtime, every=options.outage_report_interval).start(group, following.pipelines)
        await following.open(group)
        if not options.once:
            QueryAnswers(self._url, balancer, runtime).start(group, following.pipelines)
        self.ready = True
        await Loop(reader, following, maintenance, options, signals, runtime).run()
        raise Finished


def _verdict(leaves: list[BaseException]) -> Error | None:
    """Why the session ended: the error that matters most, or None when it was done."""
    database = next((leaf for leaf in leaves if isinstance(leaf, psycopg.Error)), None)
    if database is not None:
        return _lost(database)
    return next((leaf for leaf in leaves if isinstance(leaf, Error)), None)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _lost(error: psycopg.Error) -> DatabaseUnavailable:
    sentence = f"PostgreSQL ended the work: {first_line(error)}"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        sentence += "; make the worker's role a member of the role that ran init: GRANT <that role> TO <this role>"
    return DatabaseUnavailable(sentence)
