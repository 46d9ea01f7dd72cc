"""Events of queries whose text stands in SQL. Pure."""

from dataclasses import dataclass
from typing import ClassVar

from pg_qwen_embed.domain.events import DEBUG, Event, Warned


@dataclass(frozen=True, slots=True)
class QueriesAnswered(Event):
    """One request was answered. waiting: the sessions that waited for these queries."""

    level: ClassVar[int] = DEBUG
    embedding: str
    queries: int
    waiting: int
    seconds: float


@dataclass(frozen=True, slots=True)
class QueriesFailed(Warned):
    """Sessions that waited for these queries got the reason."""

    embedding: str
    queries: int
    reason: str


@dataclass(frozen=True, slots=True)
class QueriesForged(Warned):
    """Locks in the place of requests, which nobody has made who knows the secret. They are ignored."""

    sessions: int


@dataclass(frozen=True, slots=True)
class QueriesNotAnswered(Warned):
    """Nobody answers queries in SQL until this succeeds."""

    reason: str
