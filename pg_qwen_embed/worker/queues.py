"""The queues between the stages: batches wait to be encoded, outcomes wait to be written.

They have no bound of their own. The ledger counts what they hold, and a stage that reads checks its `Room` first."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.worker.ledger import Ledger
from pg_qwen_embed.worker.work import Batch, Cleared, Outcome, Rejected, Request, ScanPage, of_backfill

EncodeQueue = asyncio.Queue[Batch]  # in order of arrival; the balancer lets the requests of live changes go first


@dataclass(frozen=True, slots=True)
class WriteQueue:
    """Outcomes of one kind. gathering: held by the writer that gathers a group, so that two do not share the outcomes."""

    outcomes: asyncio.Queue[Outcome] = field(default_factory=asyncio.Queue)
    gathering: asyncio.Lock = field(default_factory=asyncio.Lock)


class WriteQueues:
    """One queue for changes and one for backfills, each with its own writers and connections: no change waits for a backfill."""

    def __init__(self) -> None:
        self.live = WriteQueue()
        self.backfill = WriteQueue()

    def put(self, outcome: Outcome) -> None:
        (self.backfill if of_backfill(outcome) else self.live).outcomes.put_nowait(outcome)


class Intake:
    """Takes what the reader and the scanner read: documents go to be encoded, keys without one to be cleared.

    A document that cannot be read becomes a failure."""

    def __init__(self, ledger: Ledger, to_encode: EncodeQueue, to_write: WriteQueues) -> None:
        self._ledger = ledger
        self._to_encode = to_encode
        self._to_write = to_write

    def take(self, changes: Sequence[Change], page: ScanPage | None) -> None:
        self._ledger.take(changes, page)
        documents = [change for change in changes if change.fingerprint is not None]
        if documents:
            self._to_encode.put_nowait(Batch(documents, page))
        blank = [change for change in changes if change.fingerprint is None]
        if blank or (page is not None and not changes):  # nothing to write, but the scan has advanced
            self._to_write.put(Cleared(blank))

    def reject(self, change: Change, page: ScanPage | None, sentence: str) -> None:
        self._ledger.take([change], page)
        self._to_write.put(Rejected(Request([change], page), sentence))
