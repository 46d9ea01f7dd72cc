"""When an embedding has its ANN index, and when it is better written without one. Pure.

Below a few thousand vectors comparing all of them is as quick as the index. An index that is there costs some milliseconds
for each vector written; one that is built afterwards costs a tenth of that. So the index waits while the backlog, the
changes that are not written yet, is large against the store; and an index of few vectors gives way to a large backlog."""

from dataclasses import dataclass
from enum import Enum, auto

from pg_qwen_embed.domain.index import HNSW, Index
from pg_qwen_embed.domain.report import IndexState

SMALL_BACKLOG = 1_000  # entries; so few are written into an index in seconds
BACKLOG_SHARE = 50  # the index waits while the backlog is more than this part of the vectors
DROP_BACKLOG = 10_000  # entries; a smaller backlog never drops an index
DROP_VECTORS = 100_000  # an index of more vectors is never dropped: queries would become slow


@dataclass(frozen=True, slots=True)
class Seen:
    """ours: the index is as the worker builds it, on a table of ours. needed: there are enough vectors for an index.

    vectors: an estimate from the size of the table. backlog: entries of the outbox, counted up to DROP_VECTORS + 1.
    wanted: the embedding has an index, and nobody has dropped it. analysed: vectors, as PostgreSQL has counted them last.
    lists: of an ivfflat index. leftover: a rebuild that ended early has left an index."""

    state: IndexState
    ours: bool
    needed: bool
    vectors: int
    backlog: int
    wanted: bool = True
    measured: bool = False
    analysed: int = 0
    lists: int | None = None
    leftover: bool = False


class Action(Enum):
    NONE = auto()  # all is as it should be
    BUILD = auto()
    REBUILD = auto()  # the table has grown far beyond the lists of the index
    DROP = auto()
    DROP_LEFTOVER = auto()
    WAIT_FOR_BACKLOG = auto()
    WAIT_FOR_BUILD = auto()  # of another session


def decide(seen: Seen, index: Index = HNSW) -> Action:
    """What to do about the index now."""
    large = seen.backlog > max(SMALL_BACKLOG, seen.vectors // BACKLOG_SHARE)
    match seen.state:
        case IndexState.BUILDING:
            return Action.WAIT_FOR_BUILD
        case _ if seen.leftover:
            return Action.DROP_LEFTOVER
        case IndexState.VALID if seen.ours and (not seen.wanted or _gives_way(seen)):
            return Action.DROP
        case IndexState.VALID:
            outgrown = seen.ours and not large and index.outgrown(seen.lists, seen.analysed)
            return Action.REBUILD if outgrown else Action.NONE
        case IndexState.INVALID if not seen.wanted:
            return Action.DROP
        case IndexState.NONE if not seen.wanted:
            return Action.NONE
        case IndexState.INVALID if large or not seen.needed:
            return Action.DROP  # no query uses it, and every write pays for it
        case IndexState.NONE if not seen.needed:
            return Action.NONE
        case _:
            return Action.WAIT_FOR_BACKLOG if large else Action.BUILD


def _gives_way(seen: Seen) -> bool:
    """Whether to build the index again is cheaper than to write the backlog into it."""
    return seen.backlog >= max(DROP_BACKLOG, seen.vectors) and seen.vectors <= DROP_VECTORS
