"""What is reported about an embedding: status, failures, drift, search results. Pure."""

from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from pg_qwen_embed.domain.spec import Spec


class BackfillState(StrEnum):
    NONE = "none"  # none was requested
    PENDING = "pending"
    RUNNING = "running"  # the source is being scanned
    INDEXING = "indexing"  # every row has its vector; the index is being built
    DONE = "done"


INDEX_FROM = 2_000  # vectors; below, comparing all of them is as quick as an HNSW index


class IndexState(StrEnum):
    NONE = "none"
    BUILDING = "building"
    INVALID = "invalid"  # a build was interrupted
    VALID = "valid"


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    state: BackfillState
    rows_done: int
    rows_total: int
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OtherGeneration:
    """A generation that is not live, as `status` mentions it. size: bytes. `generation status` has the rest."""

    id: int
    state: str
    model: str
    dimensions: int
    vectors: int
    pending: int
    failures: int
    size: int
    problem: str | None = None  # why it is not followed; then there are no figures


@dataclass(frozen=True, slots=True)
class Status:
    """One embedding at one moment. lag_seconds: the age of the oldest change that is not acknowledged."""

    name: str
    source: str
    spec: Spec
    rows: int
    vectors: int  # rows with a vector, or with chunks
    truncated: int  # vectors of over-long documents, of which only the beginning was embedded
    pending: int
    lag_seconds: float
    failures: int
    backfill: BackfillProgress
    index: IndexState
    leader: str | None = None
    strangers: tuple[str, ...] = ()  # sessions that hold a lock of a worker's, and what ends them
    broken_triggers: int = 0  # of five: dropped, disabled, altered, or unaware of a BEFORE trigger that was added
    vacuum_blocked_by: str | None = None  # a transaction so old that it keeps vacuum from the outbox
    model_mismatch: bool = False  # no server has the recorded model identity, so no documents are sent
    problem: str | None = None
    remedy: str | None = None  # what to run against the problem
    namesake: str | None = None  # another table that has the name which the source had at attach
    missing: tuple[str, ...] = ()  # parts of the public interface that are missing or not as created
    unreadable: str | None = None  # which rights this role lacks; None: it may see the figures
    chunks: int | None = None  # None: its documents are not divided
    index_wanted: bool = True  # false: of kind none, or `index drop` has dropped it
    ef_search: int | None = None  # how widely searches look in the index; None: there is none
    recall: float | None = None  # of ten rows, by the index against exact search; None: it was not measured
    looked_for: int = 0  # vectors that were looked for by themselves when the index was measured
    not_found: int = 0  # of these
    fitted_on: int | None = (
        None  # documents of which its post-processing was fitted; None: it was not, or there is none
    )
    generation: int = 0  # the number of the live one, whose figures these are
    others: tuple[OtherGeneration, ...] = ()  # that are kept in step with it

    @property
    def indexed_vectors(self) -> int:
        """How many vectors an index holds, or would hold."""
        return self.vectors if self.chunks is None else self.chunks

    @property
    def needs_index(self) -> bool:
        """Whether a worker with the default --index-from builds an index for the vectors that there are."""
        return self.index_wanted and self.indexed_vectors >= INDEX_FROM

    @property
    def index_report(self) -> str:
        """The state of the index, in words: what searches find with it, or why there is none and what they do meanwhile."""
        if self.index is IndexState.VALID and self.recall is not None:
            lost = f", {self.not_found:,} of {self.looked_for:,} vectors not found" if self.not_found else ""
            return f"{self.index} (recall@10 {self.recall:.3f} at ef_search {self.ef_search}{lost})"
        if self.index is not IndexState.NONE:
            return str(self.index)
        if not self.index_wanted:
            return "none, as was chosen: queries compare every vector"
        if not self.needs_index:
            return f"none, not needed below {INDEX_FROM:,} vectors"
        return "none, queries compare every vector"

    @property
    def post_report(self) -> str:
        """The post-processing, in words; empty: there is none."""
        if self.spec.post is None:
            return ""
        done = "not fitted yet" if self.fitted_on is None else f"fitted on {self.fitted_on:,} documents"
        return f"{self.spec.post.form} of {self.spec.post.inputs} dimensions, {done}"

    def above(self, max_lag: float | None, max_pending: int | None) -> list[str]:
        """Why a health check with these limits fails; empty: it passes. max_lag: seconds. None: no limit."""
        if self.problem or self.unreadable:
            return [f"{self.name}: {self.problem or self.unreadable}"]
        found = []
        if max_lag is not None and self.lag_seconds > max_lag:
            found.append(f"{self.name}: lag {self.lag_seconds:.1f} s, above {max_lag:g} s")
        if max_pending is not None and self.pending > max_pending:
            found.append(f"{self.name}: {self.pending:,} changes pending, above {max_pending:,}")
        return found

    def to_json(self) -> dict[str, Any]:
        """All properties of the live generation are in `spec`; `model` and `dimensions` are also keys of their own."""
        spec = self.spec.to_json()
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {
            "backfill": asdict(self.backfill), "spec": spec, "model": self.spec.model, "dimensions": self.spec.dimensions
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """A document the server rejects. next_attempt_at: None when it is parked."""

    key: dict[str, object]
    attempts: int
    error: str
    first_at: datetime
    last_at: datetime
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class Drift:
    """Rows whose vector is missing, stale or orphaned. Rows with an open failure or a pending change count too."""

    missing: int
    stale: int
    orphaned: int

    @property
    def total(self) -> int:
        return self.missing + self.stale + self.orphaned


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: the row's columns without its embedding, and the distance to the query.

    For documents in chunks, `row` has the nearest chunk too: `chunk`, `span` and `chunk_text`."""

    distance: float  # nan in a search by words alone
    row: dict[str, object] = field(default_factory=dict)
    score: float | None = None  # of a hybrid search, or one by words: the higher the better
    vector_rank: int | None = None  # of a hybrid search: from 1; None: not among the candidates of that side
    text_rank: int | None = None  # of a hybrid search, or one by words, likewise
    rerank_score: float | None = None  # of a reranked search: the higher the better; None: not reranked
