"""The ledger: what is read and not yet settled, and how much more may be read. No I/O.

Reads leave out what is in flight. A pipeline that is stopped loses its ledger and nothing but work, because the outbox
still has every entry."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.domain.change import Change, Key, entries_of
from pg_qwen_embed.worker.work import ScanPage


@dataclass(slots=True)
class Ledger:
    """Counts of what is in flight; sizes in bytes. `live` counts only documents of changes, not those of a backfill.

    A row that can be neither written nor recorded as a failure is held back: it is not in flight any more, and its entries
    are not read until they are released."""

    seqs: set[int] = field(default_factory=set)
    retrying: set[Key] = field(default_factory=set)  # keys of failures that are being tried again
    documents: int = 0
    size: int = 0
    live: int = 0
    live_size: int = 0
    settled_entries: int = 0
    held: set[int] = field(default_factory=set)  # entries that are held back; part of `seqs`
    _times_held: dict[Key, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not self.documents and len(self.seqs) == len(self.held)

    def take(self, changes: Sequence[Change], page: ScanPage | None) -> None:
        self._count(changes, page, 1)
        self.seqs.update(entries_of(changes))

    def settle(self, changes: Sequence[Change], page: ScanPage | None) -> None:
        """These changes are written, and their entries acknowledged."""
        self._count(changes, page, -1)
        if page is not None:
            page.left -= len(changes)
        self.settle_entries(entries_of(changes))
        if self.retrying:
            self.retrying.difference_update(change.key for change in changes)
        if self._times_held:
            for change in changes:
                self._times_held.pop(change.key, None)

    def hold(self, change: Change, page: ScanPage | None) -> int:
        """Hold back a row until it is released. Returns how often that was done."""
        self._count([change], page, -1)
        if page is not None:
            page.left -= 1
        return self.hold_entries(change.key, change.seqs)

    def hold_entries(self, key: Key, seqs: Sequence[int]) -> int:
        self.held.update(seqs)
        self._times_held[key] = self._times_held.get(key, 0) + 1
        return self._times_held[key]

    def release(self, key: Key, seqs: Sequence[int]) -> None:
        """Read it again."""
        self.held.difference_update(seqs)
        self.seqs.difference_update(seqs)
        self.retrying.discard(key)

    def settle_entries(self, seqs: Sequence[int]) -> None:
        self.seqs.difference_update(seqs)
        self.settled_entries += len(seqs)

    def _count(self, changes: Sequence[Change], page: ScanPage | None, sign: int) -> None:
        size = sum([change.size for change in changes])
        self.documents += sign * len(changes)
        self.size += sign * size
        if page is None:
            self.live += sign * len(changes)
            self.live_size += sign * size


@dataclass(slots=True)
class Room:
    """How much more may be read. It bounds the queues between the stages, and so the memory.

    Live changes have as much room as a backfill, which fills only what they leave."""

    ledger: Ledger
    documents: Callable[[], int]  # grows with the concurrency limits of the servers
    size: int
    freed: asyncio.Event = field(default_factory=asyncio.Event)  # set whenever something is settled
    lacked: bool = False  # changes were not read for lack of room: they are late

    def for_changes(self) -> bool:
        return self.ledger.live < self.documents() and self.ledger.live_size < self.size

    def for_backfill(self) -> bool:
        return self.ledger.documents < self.documents() and self.ledger.size < self.size
