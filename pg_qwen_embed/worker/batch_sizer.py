"""How many rows go into one write. Pure."""

from dataclasses import dataclass, field

WRITE_TIME = 0.1  # seconds
SMALLEST_BATCH = 64  # rows


@dataclass(slots=True)
class BatchSizer:
    """How many rows to write at once: what takes WRITE_TIME. Where an index is there, a row takes milliseconds, and a
    change would wait long behind many. But never only a few: where each write takes long, however small, many are the cure."""

    most: int
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.most

    def written(self, rows: int, seconds: float) -> None:
        if rows:
            self.rows = min(self.most, max(SMALLEST_BATCH, int(rows * WRITE_TIME / max(seconds, 0.001))))
