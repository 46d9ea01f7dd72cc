"""The batch sizer: how many rows go into one write. Pure."""

from dataclasses import dataclass, field

WRITE_TIME = 0.1  # seconds that a write should take
SMALLEST_BATCH = 64  # rows


@dataclass(slots=True)
class BatchSizer:
    """`rows`: as many as are written in WRITE_TIME, but at least SMALLEST_BATCH and at most `most`.

    With an index a row takes milliseconds, and a change would wait long behind many rows. Where every write takes long
    whatever its size, larger writes are the remedy: hence the lower bound."""

    most: int
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.most

    def written(self, rows: int, seconds: float) -> None:
        if rows:
            self.rows = min(self.most, max(SMALLEST_BATCH, int(rows * WRITE_TIME / max(seconds, 0.001))))
