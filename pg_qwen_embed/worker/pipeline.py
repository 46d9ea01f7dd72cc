"""One generation followed, from changed rows to written vectors: read -> encode -> write.

    outbox, failures -> Reader ----------.                                          .-> WriteQueues.live -----.
                                          +-> Intake -> EncodeQueue -> Dispatcher -+                           +-> Writer
    source (backfill) -> BackfillScanner -'                 Balancer, Encoder       '-> WriteQueues.backfill --'

Each stage takes from one queue and puts into the next. The ledger counts what is read and not settled, and its room
bounds every queue. A pipeline that is stopped loses nothing but work: the outbox still has every entry."""

import asyncio

from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.postgres.connection import Pool
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.batch_sizer import BatchSizer
from pg_qwen_embed.worker.dispatcher import Dispatcher
from pg_qwen_embed.worker.ledger import Ledger, Room
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.queues import EncodeQueue, Intake, WriteQueues
from pg_qwen_embed.worker.reader import Reader
from pg_qwen_embed.worker.scanner import BackfillScanner
from pg_qwen_embed.worker.signals import Signals
from pg_qwen_embed.worker.writer import Writer

VACUUM_AFTER = 20_000  # entries; autovacuum comes once a minute, and a busy outbox grows faster


class Pipeline:
    """`start` it in a task group; the worker's loop lets the reader read; `stop` it."""

    def __init__(
        self,
        store: Store,
        balancer: Balancer,
        backfill_pool: Pool,
        options: Options,
        signals: Signals,
        runtime: Runtime,
    ) -> None:
        limits = options.limits
        self.store = store
        self.target = store.target
        self._ledger = Ledger()
        room = Room(
            self._ledger, lambda: max(limits.documents, 4 * balancer.limit * limits.request.documents), limits.size
        )
        to_encode, to_write = EncodeQueue(), WriteQueues()
        intake = Intake(self._ledger, to_encode, to_write)
        self.reader = Reader(store, self._ledger, room, intake, to_write, limits, runtime)
        self.scanner = BackfillScanner(store, backfill_pool, room, intake, limits, signals, runtime)
        self._dispatcher = Dispatcher(store.target, balancer, to_encode, to_write, limits.request, runtime)
        sizer = BatchSizer(limits.write_rows)
        self.writer = Writer(
            store, to_write, self._ledger, room, self.scanner, sizer, signals, runtime, once=options.once
        )
        self._vacuumed_at = 0  # count of settled entries at the last vacuum

    def start(self, group: asyncio.TaskGroup, live: Pool, backfill: Pool) -> None:
        """live, backfill: the connections on which changes, and rows of a backfill, are written."""
        self._dispatcher.start(group)
        self.writer.start(group, live, backfill)

    def stop(self) -> None:
        self.scanner.stop()
        self._dispatcher.stop()
        self.writer.stop()

    @property
    def settled(self) -> bool:
        """Whether everything that was read is written."""
        return self._ledger.empty

    @property
    def idle(self) -> bool:
        """Whether everything is settled and no backfill is active."""
        return self.settled and not self.scanner.active

    def wants_vacuum(self) -> bool:
        """Whether VACUUM_AFTER entries were settled since this last returned True."""
        if self._ledger.settled_entries < self._vacuumed_at + VACUUM_AFTER:
            return False
        self._vacuumed_at = self._ledger.settled_entries
        return True
