"""One generation followed, from changed rows to written vectors: read -> encode -> write.

    outbox, failures -> Reader ----------.            .-> EncodeQueue -> Dispatcher -.
                                          +-> Intake -+                               +-> WriteQueues -> Writer -> store
    source (backfill) -> BackfillScanner -'            `-> (keys without a document) -'   live | backfill

The dispatcher packs requests, waits for a lease of the balancer and lets the encoder make vectors. What the writer must
leave for later, because a row is locked or cannot be written, it puts back into its own queue. The ledger counts what is
read and not settled, and its room bounds every queue. A pipeline that is dropped loses only work: the outbox still has
every entry."""

import asyncio
from dataclasses import dataclass

from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.version import Versions
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.postgres.connection import Pool
from pg_qwen_embed.postgres.store import Store
from pg_qwen_embed.worker.batch_sizer import BatchSizer
from pg_qwen_embed.worker.compactor import Compactor
from pg_qwen_embed.worker.dispatcher import Dispatcher
from pg_qwen_embed.worker.ledger import Ledger, Room
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.queues import EncodeQueue, Intake, WriteQueues
from pg_qwen_embed.worker.reader import Reader
from pg_qwen_embed.worker.recall import ChunkRecall
from pg_qwen_embed.worker.scanner import BackfillScanner, ScanProgress
from pg_qwen_embed.worker.signals import Signals
from pg_qwen_embed.worker.writer import Writer

VACUUM_AFTER = 20_000  # entries; autovacuum comes once a minute, and a busy outbox grows faster


@dataclass(frozen=True, slots=True)
class Pools:
    """Connections on which changes, and rows of a backfill, are read and written; open while the session lasts.

    compact: a single one, on which one outbox at a time is compacted."""

    live: Pool
    backfill: Pool
    compact: Pool


class Pipeline:
    """`start` it in a task group; the worker's loop lets the reader read; `stop` it."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        balancer: Balancer,
        pools: Pools,
        options: Options,
        signals: Signals,
        runtime: Runtime,
    ) -> None:
        limits = options.limits
        self.store = store
        self.target = store.target
        self._balancer = balancer
        self._pools = pools
        self._ledger = Ledger()
        room = Room(
            self._ledger, lambda: max(limits.documents, 4 * balancer.limit * limits.request.documents), limits.size
        )
        to_encode, to_write, progress = EncodeQueue(), WriteQueues(), ScanProgress(store, runtime)
        intake = Intake(self._ledger, to_encode, to_write)
        self._compactor = Compactor(store, pools.compact, self._ledger, signals, runtime)
        self.reader = Reader(store, versions, self._ledger, room, intake, to_write, self._compactor, limits, runtime)
        self.scanner = BackfillScanner(store, pools.backfill, room, intake, progress, limits, signals, runtime)
        self._dispatcher = Dispatcher(
            store.target,
            balancer,
            to_encode,
            to_write,
            ChunkRecall(store, pools.live, runtime),
            limits.request,
            runtime,
        )
        sizer = BatchSizer(limits.write_rows)
        self.writer = Writer(store, to_write, self._ledger, room, progress, sizer, signals, runtime, once=options.once)
        self._vacuumed_at = 0  # count of settled entries at the last vacuum

    def start(self, group: asyncio.TaskGroup) -> None:
        self._compactor.start(group)
        self._dispatcher.start(group)
        self.writer.start(group, self._pools.live, self._pools.backfill)

    def stop(self) -> None:
        self._compactor.stop()
        self.scanner.stop()
        self._dispatcher.stop()
        self.writer.stop()

    @property
    def settled(self) -> bool:
        """Whether everything that was read is written."""
        return self._ledger.empty

    @property
    def waits_for_server(self) -> bool:
        """Whether no server has the model and answers."""
        return not self._balancer.is_served(self.target)

    @property
    def idle(self) -> bool:
        """Whether everything is settled, and neither a backfill nor a compaction is active."""
        return self.settled and not self.scanner.active and not self._compactor.active

    def wants_vacuum(self) -> bool:
        """Whether VACUUM_AFTER entries were settled since this last returned True."""
        if self._ledger.settled_entries < self._vacuumed_at + VACUUM_AFTER:
            return False
        self._vacuumed_at = self._ledger.settled_entries
        return True
