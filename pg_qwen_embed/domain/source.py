"""The application's table, as the catalog describes it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.next_step import with_name
from pg_qwen_embed.domain.text_form import TextForm
from pg_qwen_embed.domain.texts import is_storable, storable

BUILT_IN = "pg_catalog"  # the schema of PostgreSQL's own types and operators
MAX_NAME_BYTES = 63  # NAMEDATALEN - 1; PostgreSQL would shorten a longer name


RESERVED_NAMES = frozenset({"embed_query", "embeddings", "ef_search", "words_query"})  # of the schema qwen_embed itself


def check_name(name: str, what: str, advice: str = "") -> None:
    """Raises UsageError for what is not a valid name in PostgreSQL."""
    if not name or not is_storable(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise UsageError(f'"{storable(name)}" is not a valid name: {what} has 1 to {MAX_NAME_BYTES} bytes{advice}')


@dataclass(frozen=True, slots=True)
class QualifiedName:
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `type` is SQL text as format_type() prints it."""

    name: str
    type: str
    base_type: str = ""  # of a domain: its base type, which always accepts NULL
    collation: QualifiedName | None = None  # only if it is not the type's own
    number: int = 0  # attnum, which outlives a renaming; 0: not known
    form: TextForm = TextForm.AS_IS  # in a document
    operators: str = BUILT_IN  # of a key column: the schema of the operators by which its index compares


@dataclass(frozen=True, slots=True)
class Source:
    """The table that an embedding is declared on."""

    table: QualifiedName
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    partitioned: bool = False
    before_update_triggers: bool = False
    renamed: tuple[tuple[str, str], ...] = ()  # columns since attach: the name then, and now
    subscribed: bool = False  # a subscription of logical replication fills it
    row_security_forced: bool = False  # its policies hold for its owner too

    @property
    def by_row(self) -> bool:
        """Whether INSERT and DELETE fire row triggers only: aimed at a partition, or brought by logical replication."""
        return self.partitioned or self.subscribed

    def has_columns(self, columns: Iterable[Column]) -> bool:
        return {column.name for column in columns} <= {column.name for column in self.columns}

    def present_name(self, name: str) -> str:
        """What a column is called now that was called `name` when the embedding was attached."""
        return dict(self.renamed).get(name, name)

    def attached_name(self, name: str) -> str:
        """What a column was called then that is called `name` now."""
        return {now: then for then, now in self.renamed}.get(name, name)


class Remedy(StrEnum):
    """The command that helps, with {} for the embedding's name."""

    REPAIR = "pg-qwen-embed verify {} --repair"
    REKEY = "pg-qwen-embed alter {} --rekey"
    REKEY_BY = "pg-qwen-embed alter {} --rekey --key COLS"
    EXTENSION = "pg-qwen-embed init, and then pg-qwen-embed verify {} --repair"
    COLUMN = "pg-qwen-embed verify {} --repair, once the column is there again; or pg-qwen-embed detach {}"
    TABLE = "pg-qwen-embed alter {} --table TABLE, if another one takes its place; or pg-qwen-embed detach {}"
    ATTACH_AGAIN = "pg-qwen-embed detach {}, and attach again"

    def advice(self, name: str) -> str:
        return f"run: {with_name(self, name)}"

    @property
    def keeps_source(self) -> bool:
        """Whether the source is there, with what is embedded: only objects of ours are missing, or the key has changed."""
        return self in (Remedy.REPAIR, Remedy.REKEY, Remedy.REKEY_BY)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a generation cannot follow its source, and what helps."""

    reason: str
    remedy: Remedy

    def advice(self, name: str) -> str:
        return self.remedy.advice(name)


@dataclass(frozen=True, slots=True)
class SourceState:
    """What was last observed of a source, kept apart from what was declared.

    problem: why it cannot be followed now; None while it can. partitions: those that hold rows. Each is named by the
    oid of our INSERT trigger in it, because that is new each time a partition is attached. None: the source has no
    partitions, or none was ever checked."""

    problem: Problem | None = None
    missing: tuple[str, ...] = ()  # parts of the generation that were dropped
    partitions: frozenset[int] | None = None  # that the source has now
    checked_partitions: frozenset[int] | None = None  # whose rows were compared with the store
    check_drift: bool = False  # all rows must be compared with their vectors
    follows_by_row: bool | None = None  # how our INSERT trigger fires; None: it is not there
