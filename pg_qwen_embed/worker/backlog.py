"""The backlog: when the outbox holds so much that it is compacted before it is read on. Pure.

A page of changes finds the repeated changes of its own entries only. In a long outbox most changes of a key lie beyond the
page, so it is compacted first: each key gets one entry. A compaction reads the whole outbox. It is due again
when as much was appended as the last one left, so its cost for an entry has a bound."""

from dataclasses import dataclass

LEAST = 2_000  # entries beyond the read position; fewer are not worth a compaction
WORTH = 0.05  # share of the entries that a compaction should remove; after a worse one the next is due later
PART = 500_000  # entries that one transaction compacts, about
MOST_PARTS = 64


@dataclass(slots=True)
class Backlog:
    """compacted_to: the newest entry at the last compaction."""

    compacted_to: int = 0
    _wait: int = LEAST

    def due(self, newest: int, read_position: int) -> bool:
        """Whether to compact the outbox now. newest: its highest entry."""
        return newest - max(read_position, self.compacted_to) >= self._wait

    def compacted(self, newest: int, removed: int, left: int) -> None:
        """The outbox was compacted up to this entry."""
        self.compacted_to = newest
        longer = 2 * self._wait if removed < WORTH * (removed + left) else LEAST
        self._wait = max(LEAST, left, longer)

    def emptied(self) -> None:
        """The outbox was read to its end."""
        self._wait = LEAST


def parts(newest: int, oldest: int) -> int:
    """In how many parts to compact an outbox with entries between these two, so that no transaction is long."""
    return min(MOST_PARTS, 1 + max(0, newest - oldest) // PART)
