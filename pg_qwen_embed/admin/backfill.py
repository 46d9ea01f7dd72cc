"""A backfill as its owner sees it: request it again, and watch it. The worker's scanner does the work (worker/scanner.py)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pg_qwen_embed.admin.status import status
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.report import BackfillState, Status
from pg_qwen_embed.postgres import catalog, trust
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.sql import statement

NO_WORKER_TIMEOUT = 15.0  # seconds without a worker


@dataclass(frozen=True, slots=True)
class Snapshot:
    """at: seconds on the caller's clock. rate: rows/s since watching began. eta: seconds; None while unknown."""

    status: Status
    at: float
    rate: float
    eta: float | None


def restart(connection: Connection, name: str) -> None:
    """Request another scan of the source, unless one is in progress. Raises UsageError for an unknown name."""
    trust.require_trusted(connection, name)
    catalog.require_initialised(connection)
    embedding = catalog.embedding(connection, name)
    with connection.transaction():
        connection.execute(statement("restart_backfill"), {"id": embedding.live.id})
        connection.execute(statement("announce_change"))


def watch(
    connection: Connection, name: str, clock: Callable[[], float], sleep: Callable[[float], None], every: float
) -> Iterator[Snapshot]:
    """Snapshots until the backfill is done, index included. every: seconds. Raises UsageError when no worker follows it."""
    began, first, led = clock(), None, clock()
    while True:
        (found,) = status(connection, name)
        now, done = clock(), found.backfill.rows_done
        first = done if first is None else first
        rate = (done - first) / (now - began) if now > began else 0.0
        left = max(0, found.backfill.rows_total - done)
        yield Snapshot(found, now, rate, left / rate if rate > 0 else None)
        if found.backfill.state is BackfillState.DONE:
            return
        led = now if found.leader else led
        if now - led > NO_WORKER_TIMEOUT:
            raise UsageError(
                f"{name}: no worker has been following it for {NO_WORKER_TIMEOUT:.0f} s; start one: pg-qwen-embed worker"
            )
        sleep(every)
