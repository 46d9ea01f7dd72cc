"""What a feed has in hand: the changes it has read, the requests they go into, and what came of them. Pure.

The accounts are kept here: what is read and not yet settled is in flight, and reads leave it out. A feed that is
dropped drops them too, and loses nothing but work, because the outbox still has every entry."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from pg_qwen_embed.domain.change import Change, Key, entries_of
from pg_qwen_embed.domain.vectors import Vectors


@dataclass(slots=True)
class ScanPage:
    """Rows of a backfill read at once. left: those whose vectors are not written yet."""

    last: Key
    rows: int
    left: int


@dataclass(frozen=True, slots=True)
class Request:
    """Changes whose documents go to the server together. page: of the backfill that they came from, if any."""

    changes: list[Change]
    page: ScanPage | None

    @property
    def size(self) -> int:
        """Of its documents, in bytes."""
        return sum([change.size for change in self.changes])


@dataclass(frozen=True, slots=True)
class Embedded:
    request: Request
    embeddings: Vectors  # a row for each change, or for each of its chunks

    def of_each(self) -> list["Embedded"]:
        """The changes one by one, each with its own rows."""
        found: list[Embedded] = []
        position = 0
        for change in self.request.changes:
            rows = len(change.spans) or 1
            own = self.embeddings[position : position + rows]
            found.append(Embedded(Request([change], self.request.page), own))
            position += rows
        return found


@dataclass(frozen=True, slots=True)
class Cleared:
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class SourceTruncated:
    version: int
    seqs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Rejected:
    request: Request  # of one change
    sentence: str


Outcome = Embedded | Cleared | SourceTruncated | Rejected


def of_backfill(outcome: Outcome) -> bool:
    match outcome:
        case Embedded(request, _) | Rejected(request, _):
            return request.page is not None
        case _:
            return False


def rows_of(outcome: Outcome) -> int:
    """How many rows writing it will touch, about."""
    match outcome:
        case Embedded(_, embeddings):
            return len(embeddings)
        case Cleared(changes):
            return len(changes)
        case _:
            return 1


def pieces_of(outcome: Outcome) -> list[Outcome]:
    """The outcome of each change by itself."""
    match outcome:
        case Embedded():
            return [*outcome.of_each()]
        case Cleared(changes) if changes:
            return [Cleared([change]) for change in changes]
        case _:
            return [outcome]


@dataclass(slots=True)
class Ledger:
    """The accounts of what is read and not yet settled."""

    seqs: set[int] = field(default_factory=set)
    retrying: set[Key] = field(default_factory=set)  # keys of failures that are being tried again
    documents: int = 0
    size: int = 0  # of all documents, in bytes
    live: int = 0  # of the documents, those of changes and not of a backfill
    live_size: int = 0
    settled_entries: int = 0

    @property
    def empty(self) -> bool:
        return not self.documents and not self.seqs

    def take(self, changes: Sequence[Change], page: ScanPage | None) -> None:
        self._count(changes, page, 1)
        self.seqs.update(entries_of(changes))

    def settle(self, changes: Sequence[Change], page: ScanPage | None) -> None:
        """Their entries are acknowledged."""
        self._count(changes, page, -1)
        if page is not None:
            page.left -= len(changes)
        self.settle_entries(entries_of(changes))
        if self.retrying:
            self.retrying.difference_update(change.key for change in changes)

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
class Scan:
    """A backfill under way: where the next page begins, and the pages that are not all written yet, in order."""

    after: Sequence[str] | None
    exhausted: bool = False
    _pages: deque[ScanPage] = field(default_factory=deque)

    def add(self, last: Key, rows: int, left: int) -> ScanPage:
        """A page was read; the next one begins after it."""
        self.after = [str(value) for value in last]
        self._pages.append(ScanPage(last, rows, left))
        return self._pages[-1]

    def written(self) -> list[ScanPage]:
        """The pages at the front of which everything is written."""
        return list(takewhile(lambda page: not page.left, self._pages))

    def drop(self, pages: Sequence[ScanPage]) -> None:
        """It is recorded that these pages, the first ones, are written."""
        for _ in pages:
            self._pages.popleft()

    @property
    def unfinished(self) -> int:
        """Pages of which it is not recorded that they are written."""
        return len(self._pages)

    @property
    def finished(self) -> bool:
        """Every row of the source has its vector."""
        return self.exhausted and not self._pages
