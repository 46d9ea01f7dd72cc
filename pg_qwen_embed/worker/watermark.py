"""Where to read the outbox from, so that no entry is missed. Pure.

Sequence numbers become visible out of order: a transaction may draw 7, and commit after 8 was read. So there are two
marks. The *cursor* is the highest number read: new work is read from there. The *floor* is the number below which
nothing can appear any more: a sweep reads from there, and finds what came late.

A mark (X, S) says: when the cursor stood at S, the next transaction id was X. Whoever drew a number up to S had its
transaction id by then (a trigger runs after the write that assigns it), so that id is below X. Once a snapshot's xmin
has reached X all of those have ended, and what they wrote was visible to the sweep that took that snapshot."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Watermark:
    read_position: int = 0
    low: int = 0
    _marks: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def complete(self) -> bool:
        """Nothing that was read can have an entry beneath it that became visible late."""
        return self.read_position == self.low

    def read(self, highest: int) -> None:
        """A read from the cursor saw entries up to this number."""
        self.read_position = max(self.read_position, highest)

    def mark(self, transaction_id: int) -> None:
        """This transaction id was assigned after the last read."""
        if self.read_position > (self._marks[-1][1] if self._marks else self.low):
            self._marks.append((transaction_id, self.read_position))

    def swept(self, snapshot_xmin: int, complete_to: int | None = None) -> None:
        """A sweep from the floor was read in a snapshot with this xmin; when cut short, only to `complete_to`."""
        while self._marks and self._marks[0][0] <= snapshot_xmin:
            _, sequence = self._marks[0]
            if complete_to is not None and sequence > complete_to:
                self.low = max(self.low, complete_to)
                return
            self.low = max(self.low, sequence)
            self._marks.popleft()

    def rewind(self) -> None:
        """Read everything again: before sleeping, and when entries were given back unacknowledged."""
        self.read_position = self.low = 0
        self._marks.clear()
