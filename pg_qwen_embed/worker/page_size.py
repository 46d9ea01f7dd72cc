"""How many rows to read at once: bounded in bytes, and halved around a row that cannot be read. Pure."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class PageSize:
    """`rows`: between 1 and `most`. size: bytes of the documents that a page may have.

    A page ends early when its documents exceed `size`; the next one then has as few rows, and grows again slowly. When a
    page cannot be read, its halves are, until the row that is the cause stands alone. A page that takes too long costs much
    time whenever the cause is in it, so its rows are read one by one."""

    most: int
    size: int
    rows: int = 0  # to read next; 0 at first: all
    _suspects: int = field(default=0, init=False)  # the first rows to come, one of which cannot be read
    _singly: bool = field(default=False, init=False)  # these are read one by one

    def __post_init__(self) -> None:
        self.rows = self.rows or self.most

    def read(self, rows: int, size: int, *, ended_early: bool) -> None:
        """A page was read: its rows, and the bytes of their documents."""
        self._suspects = max(0, self._suspects - rows)
        self._singly = self._singly and self._suspects > 0
        if self._suspects:
            self.rows = 1 if self._singly else max(1, self._suspects // 2)
        elif ended_early:
            self.rows = max(1, rows)
        elif 2 * size <= self.size:
            self.rows = min(self.most, 2 * self.rows)

    def failed(self, *, too_long: bool = False) -> bool:
        """A page could not be read. Returns whether its first row alone is the cause; then that row is to be passed over.

        too_long: in the time for a page."""
        if self.rows == 1:
            self._suspects = self._suspects if self._singly else 0
            return True
        self._suspects = self.rows
        self._singly = too_long
        self.rows = 1 if too_long else self.rows // 2
        return False
