"""Typed events: each stage of the worker emits them, logging and metrics subscribe to them. Pure.

There is one event per batch, never one per row. The name of an event is that of its class in snake case."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from pg_qwen_embed.domain.report import BackfillState

DEBUG, INFO, WARNING = 10, 20, 30  # as in the module logging


@dataclass(frozen=True, slots=True)
class Event:
    level: ClassVar[int] = INFO

    @property
    def name(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something is wrong, and the worker goes on."""

    level: ClassVar[int] = WARNING


def logfmt(values: Mapping[str, object]) -> str:
    """`name=value name="a value with blanks"`, as https://brandur.org/logfmt describes it."""
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(text: str) -> str:
    if text and not re.search(r'[\s"=\\]', text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


Subscriber = Callable[[Event], None]


class Events:
    """Hands each event to every subscriber, in the order in which they subscribed."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber(event)


# The worker as a whole.


@dataclass(frozen=True, slots=True)
class Connected(Event):
    database: str
    pid: int


@dataclass(frozen=True, slots=True)
class DatabaseUnavailable(Warned):
    reason: str


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    signal: str


@dataclass(frozen=True, slots=True)
class StoppedEarly(Warned):
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    written: int


# The embedding servers.


@dataclass(frozen=True, slots=True)
class ServerUnavailable(Warned):
    reason: str


@dataclass(frozen=True, slots=True)
class ServerReady(Event):
    url: str
    model: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class ModelMismatch(Warned):
    reason: str


# Which generations are followed.


@dataclass(frozen=True, slots=True)
class Following(Event):
    embedding: str
    generation: int
    backfill: BackfillState


@dataclass(frozen=True, slots=True)
class NotFollowed(Warned):
    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class RightsMissing(Warned):
    """PostgreSQL denies the role of the worker something. reason: the rights, and the statements that grant them."""

    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class LedElsewhere(Event):
    embedding: str


@dataclass(frozen=True, slots=True)
class StandingBy(Event):
    """Another worker leads the embedding; this one takes over when that one ends."""

    embedding: str


@dataclass(frozen=True, slots=True)
class Left(Event):
    embedding: str
    generation: int


@dataclass(frozen=True, slots=True)
class WaitingForServer(Warned):
    """No server with the model answers; said again each minute. lag_seconds: the age of the oldest change that waits."""

    embedding: str
    seconds: float
    pending: int
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class FitBegins(Event):
    """A post-processing is fitted before its embedding is followed. documents: of the sample."""

    embedding: str
    method: str
    documents: int


@dataclass(frozen=True, slots=True)
class Fitted(Event):
    """A post-processing was fitted on this number of documents."""

    embedding: str
    method: str
    documents: int
    seconds: float


# The stages of a pipeline.


@dataclass(frozen=True, slots=True)
class ChangesRead(Event):
    """A page of changes."""

    level: ClassVar[int] = DEBUG
    embedding: str
    changes: int


@dataclass(frozen=True, slots=True)
class OutboxCompacted(Event):
    """Keys with several entries have one now. removed: entries; appended: in place of them."""

    embedding: str
    removed: int
    appended: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CompactionFailed(Warned):
    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class RowsScanned(Event):
    """A page of a backfill; rows that have their vector already are not among the changes."""

    level: ClassVar[int] = DEBUG
    embedding: str
    rows: int
    changes: int


@dataclass(frozen=True, slots=True)
class BackfillDone(Event):
    """Every row of the source has its vector, or is a failure. rows: that were read; embedded: those that had no vector."""

    embedding: str
    rows: int
    embedded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ReadFailed(Warned):
    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class SequenceSetBack(Warned):
    """The outbox's sequence gives numbers a second time: a restore, a setval. Nothing is lost; it is read from the beginning."""

    embedding: str
    read_position: int
    last_number: int


@dataclass(frozen=True, slots=True)
class DocumentsEncoded(Event):
    """One request was answered."""

    level: ClassVar[int] = DEBUG
    embedding: str
    documents: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunksRecalled(Event):
    """Chunks that changed rows had before: those whose text is found again are not embedded again."""

    level: ClassVar[int] = DEBUG
    embedding: str
    rows: int
    chunks: int


@dataclass(frozen=True, slots=True)
class RecallFailed(Warned):
    """All chunks of the changed rows are embedded."""

    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentRejected(Warned):
    """All rows that were rejected with the same sentence are one event."""

    embedding: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class GroupWritten(Event):
    """Outcomes that were written and acknowledged together."""

    level: ClassVar[int] = DEBUG
    embedding: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WriteFailed(Warned):
    embedding: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class RowHeldBack(Warned):
    """A row that can be neither written nor recorded as a failure: its key may be one that PostgreSQL rejects."""

    embedding: str
    key: tuple[Any, ...]
    seconds: float
    reason: str


# Maintenance.


@dataclass(frozen=True, slots=True)
class VacuumFailed(Warned):
    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verified(Event):
    embedding: str
    enqueued: int
    locked: int


@dataclass(frozen=True, slots=True)
class VerifyFailed(Warned):
    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionsChanged(Event):
    embedding: str
    came: int
    went: int


@dataclass(frozen=True, slots=True)
class PartitionsNotFollowed(Warned):
    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class TriggersExchanged(Event):
    """A subscription of logical replication fills the source now, or no longer. by_row: how the new ones fire."""

    embedding: str
    by_row: bool


@dataclass(frozen=True, slots=True)
class TriggersNotExchanged(Warned):
    """INSERT and DELETE that logical replication brings are not followed until this succeeds."""

    embedding: str
    reason: str
