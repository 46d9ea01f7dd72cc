"""What goes from stage to stage: requests, and what came of them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from pg_qwen_embed.domain.change import Change, Key
from pg_qwen_embed.domain.vectors import Vectors


@dataclass(slots=True)
class ScanPage:
    """Rows of a backfill read at once. left: those whose vectors are not written yet."""

    last: Key
    rows: int
    left: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that were read together, none of them blank. page: of the backfill that they came from, if any."""

    changes: Sequence[Change]
    page: ScanPage | None


@dataclass(frozen=True, slots=True)
class Request:
    """Changes whose documents go to the server together. page: of the backfill that they came from, if any."""

    changes: list[Change]
    page: ScanPage | None

    @property
    def is_live(self) -> bool:
        return self.page is None

    @property
    def size(self) -> int:
        """Of its documents, in bytes."""
        return sum([change.size for change in self.changes])

    def halves(self) -> "tuple[Request, Request]":
        middle = len(self.changes) // 2
        return Request(self.changes[:middle], self.page), Request(self.changes[middle:], self.page)


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
    """These keys need no vector: their row has gone, or its document is blank."""

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
            return not request.is_live
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
