"""The nouns: source, template, embedding, generation. Frozen, validated once, no I/O.

The words are those of docs/words.md; a value of one of these types can be trusted everywhere."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pg_qwen_embed.domain.template import Template

MAX_DIMENSIONS = 4000  # the most an HNSW index on halfvec holds (pgvector README, "Half-Precision Indexing")
MIN_DIMENSIONS = 1
PLAIN_STORAGE_DIMENSIONS = 1300  # up to here three vectors fit a page, and reading them needs no TOAST


class Distance(StrEnum):
    COSINE = "cosine"
    INNER_PRODUCT = "ip"
    L2 = "l2"

    @property
    def operator(self) -> str:
        return {"cosine": "<=>", "ip": "<#>", "l2": "<->"}[self.value]

    @property
    def operator_class(self) -> str:
        return f"halfvec_{self.value}_ops"


class StoreKind(StrEnum):
    TABLE = "table"
    COLUMN = "column"


class TooLong(StrEnum):
    """What becomes of a document that is longer than the model takes."""

    TRUNCATE = "truncate"  # its beginning is embedded, as much of it as fits
    FAIL = "fail"  # it is a failure


@dataclass(frozen=True, slots=True)
class Chunking:
    """Documents of more tokens than this are divided, and each chunk repeats up to `overlap` tokens of the one before."""

    tokens: int
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class QualifiedName:
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog describes it. `type` is SQL text as format_type() prints it."""

    name: str
    type: str
    base_type: str = ""  # of a domain: the type under it, which NULL always fits
    collation: QualifiedName | None = None  # only when it is not the type's own


@dataclass(frozen=True, slots=True)
class Source:
    """The application's table."""

    table: QualifiedName
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    partitioned: bool = False
    before_update_triggers: bool = False
    problem: str | None = None  # why it cannot be followed any more: it was dropped, or lost a column


@dataclass(frozen=True, slots=True)
class Generation:
    """One physical version of an embedding; its id names its outbox, store, failure table and triggers."""

    id: int
    model: str
    dimensions: int
    distance: Distance
    template: Template
    store: StoreKind = StoreKind.TABLE
    too_long: TooLong = TooLong.TRUNCATE
    chunking: Chunking | None = None
    partitions: list[int] | None = field(default=None, compare=False)  # its triggers in them, when last looked into
    weight_version: str | None = None  # what the server said of the model; None: it did not, and any will do
    full_dimensions: int | None = None  # of the server's own vectors, before they are shortened; None likewise

    @property
    def layout(self) -> str:
        """Of its store: `table`, `column` or `chunked`. Statements that differ end with it."""
        return "chunked" if self.chunking else self.store.value


@dataclass(frozen=True, slots=True)
class Embedding:
    """A named declaration on a source: what applications see and query."""

    name: str
    source: Source
    generation: Generation
    instruction: str
    prompt_style: str
    column: str = "embedding"
    clones: list[int] | None = field(default=None, compare=False)  # its triggers in the partitions of now
    vector_schema: str = "public"  # where the extension's types and operators live


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    state: str  # pending | running | indexing | done
    rows_done: int
    rows_total: int
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """One embedding at one moment. Lag is in seconds: the age of the oldest change not yet acknowledged."""

    name: str
    source: str
    model: str
    dimensions: int
    rows: int
    vectors: int  # rows that have one, or have chunks
    truncated: int  # of the vectors, those of documents longer than the model takes: only their beginning is embedded
    pending: int
    lag_seconds: float
    failures: int
    backfill: BackfillProgress
    index: str  # none | building | valid | invalid
    leader: str | None = None
    broken_triggers: int = 0  # of five: dropped, disabled, altered, or blind to a BEFORE trigger that was added
    vacuum_blocked_by: str | None = None  # a transaction so old that it keeps vacuum from the outbox
    model_mismatch: bool = False  # the server serves another one than it was attached with, and gets no documents
    problem: str | None = None
    chunks: int | None = None  # None: its documents are not divided


@dataclass(frozen=True, slots=True)
class Failure:
    """A document the server refuses. next_attempt_at: None when it is parked."""

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

    Of documents that are divided also the nearest chunk: `chunk`, `span` and `chunk_text`."""

    distance: float
    row: dict[str, object] = field(default_factory=dict)
