"""Versions: numbers that order what was read of a row, so that the newest document wins. Pure.

A version is a term and the number of a read within it. A term belongs to one leader of a generation: the registry gives
out a higher one each time, never below the clock's milliseconds (postgres/sql/outbox.sql, begin_term). So versions rise
with the reads of a leader, and from leader to leader. They depend on no sequence, and a database that is copied, restored
or replicated goes on above every version that it holds."""

READS = 1 << 21  # of one term. A term in milliseconds has 42 bits until the year 2109, which leaves 21


class Versions:
    """The versions of one term: `current` is that of the next read, and `advance` follows a read that found something."""

    def __init__(self, term: int) -> None:
        self.current = term * READS
        self._end = (term + 1) * READS

    def advance(self) -> None:
        self.current += 1

    @property
    def exhausted(self) -> bool:
        """Whether the next read needs another term."""
        return self.current >= self._end
