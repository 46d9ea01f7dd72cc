"""What passes between the stages: batches, requests and their outcomes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from pg_qwen_embed.domain.change import Change, Key
from pg_qwen_embed.domain.vectors import Vectors


@dataclass(slots=True)
class ScanPage:
    """A page of a backfill. last: its last key. rows: how many were read. left: changes not yet written."""

    last: Key
    rows: int
    left: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that were read together, none of them blank. page: the page of a backfill that they come from, if any."""

    changes: Sequence[Change]
    page: ScanPage | None


@dataclass(frozen=True, slots=True)
class Request:
    """Changes whose documents go to the server together. page: the page of a backfill that they come from, if any."""

    changes: list[Change]
    page: ScanPage | None

    @property
    def is_live(self) -> bool:
        return self.page is None

    @property
    def size(self) -> int:
        """The size of its documents in bytes."""
        return sum([change.size for change in self.changes])

    def halves(self) -> "tuple[Request, Request]":
        middle = len(self.changes) // 2
        return Request(self.changes[:middle], self.page), Request(self.changes[middle:], self.page)


@dataclass(frozen=True, slots=True)
class Embedded:
    """embeddings: shape (rows, dimensions), a row for each change in order, or for each of its chunks."""

    request: Request
    embeddings: Vectors

    def of_each(self) -> list["Embedded"]:
        """One outcome for each change, with its own rows."""
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
    """These keys need no vector: their row is gone, or its document is blank."""

    changes: list[Change]


@dataclass(frozen=True, slots=True)
class SourceTruncated:
    """The source was truncated, as read at this version. seqs, row_ids: the outbox entries of that."""

    version: int
    seqs: Sequence[int]
    row_ids: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that becomes a failure, with the sentence of the server or of PostgreSQL."""

    request: Request  # of one change
    sentence: str


Outcome = Embedded | Cleared | SourceTruncated | Rejected


def of_backfill(outcome: Outcome) -> bool:
    """Whether the outcome belongs to a page of a backfill."""
    match outcome:
        case Embedded(request, _) | Rejected(request, _):
            return not request.is_live
        case _:
            return False


def rows_of(outcome: Outcome) -> int:
    """About how many rows the write of this outcome touches."""
    match outcome:
        case Embedded(_, embeddings):
            return len(embeddings)
        case Cleared(changes):
            return len(changes)
        case _:
            return 1


def halves_of(group: Sequence[Outcome]) -> list[list[Outcome]]:
    """The changes of these outcomes in two groups; one change cannot be divided."""
    pieces = [piece for outcome in group for piece in pieces_of(outcome)]
    middle = (len(pieces) + 1) // 2
    return [half for half in (pieces[:middle], pieces[middle:]) if half]


def pieces_of(outcome: Outcome) -> list[Outcome]:
    """One outcome for each change."""
    match outcome:
        case Embedded():
            return [*outcome.of_each()]
        case Cleared(changes) if changes:
            return [Cleared([change]) for change in changes]
        case _:
            return [outcome]
