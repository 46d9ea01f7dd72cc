"""Events of the index of an embedding: it is built, measured, or left for later. Pure."""

from dataclasses import dataclass

from pg_qwen_embed.domain.events import Event, Warned


@dataclass(frozen=True, slots=True)
class IndexReady(Event):
    embedding: str


@dataclass(frozen=True, slots=True)
class IndexNotNeeded(Event):
    """There are fewer vectors than an index is worth: queries compare them all."""

    embedding: str
    below: int


@dataclass(frozen=True, slots=True)
class IndexNotWanted(Event):
    """The embedding has no index: it is of kind none, or `index drop` has dropped it. Queries compare all vectors."""

    embedding: str


@dataclass(frozen=True, slots=True)
class IndexMeasured(Event):
    """What a search in the index finds of the ten nearest vectors. not_found: of the vectors that were looked for."""

    embedding: str
    ef_search: int
    recall: float
    not_found: int
    looked_for: int


@dataclass(frozen=True, slots=True)
class IndexNotMeasured(Warned):
    """Searches are as wide as usual until the next build, or until `index check`."""

    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexWaits(Event):
    """The index is built when the changes that wait are written."""

    embedding: str
    backlog: int


@dataclass(frozen=True, slots=True)
class IndexDropped(Event):
    """The index was invalid, or gives way to many changes that wait. It is built again when they are written."""

    embedding: str
    backlog: int


@dataclass(frozen=True, slots=True)
class IndexBuildAlone(Warned):
    """The index is built by one process, because a parallel build needs more shared memory."""

    embedding: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexGaveWay(Warned):
    """A build was ended, because a session waited for its lock on the table. It is tried again."""

    embedding: str


@dataclass(frozen=True, slots=True)
class IndexFailed(Warned):
    embedding: str
    reason: str
