"""The low watermark: where to read the outbox from, so that no entry is missed. Pure.

Sequence numbers become visible out of order: a transaction may draw 7, and commit after 8 was read. So there are two
positions. The read position is the highest number read: new work is read from there. The low watermark is the number
below which no entry can appear any more: a sweep reads from there, and finds what became visible late.

A mark (X, S) says: when the read position was S, the next transaction id was X. A transaction that drew a number up to
S had its id by then (a trigger runs after the write that assigns it), so that id is below X. Once a snapshot's xmin has
reached X, all those transactions have ended, and the sweep in that snapshot saw what they wrote."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Watermark:
    """read_position and low are sequence numbers; both are 0 at the start. low: the low watermark."""

    read_position: int = 0
    low: int = 0
    _marks: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def complete(self) -> bool:
        """Whether no entry below the read position can still become visible: a sweep would find nothing."""
        return self.read_position == self.low

    def read(self, highest: int) -> None:
        """A read from the read position saw entries up to this number."""
        self.read_position = max(self.read_position, highest)

    def mark(self, transaction_id: int) -> None:
        """This transaction id was assigned after the last read."""
        if self.read_position > (self._marks[-1][1] if self._marks else self.low):
            self._marks.append((transaction_id, self.read_position))

    def swept(self, snapshot_xmin: int, complete_to: int | None = None) -> None:
        """A sweep from the low watermark read in a snapshot with this xmin. complete_to: how far, if a page ended it early."""
        while self._marks and self._marks[0][0] <= snapshot_xmin:
            _, sequence = self._marks[0]
            if complete_to is not None and sequence > complete_to:
                self.low = max(self.low, complete_to)
                return
            self.low = max(self.low, sequence)
            self._marks.popleft()

    def rewind(self) -> None:
        """Read everything again, as before sleeping."""
        self.read_position = self.low = 0
        self._marks.clear()
