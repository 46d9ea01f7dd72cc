"""The application's table, as the catalog describes it. Pure."""

from dataclasses import dataclass


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
    base_type: str = ""  # of a domain: the type under it, which NULL always fits
    collation: QualifiedName | None = None  # only when it is not the type's own


@dataclass(frozen=True, slots=True)
class Source:
    """The table that an embedding is declared on."""

    table: QualifiedName
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    partitioned: bool = False
    before_update_triggers: bool = False


@dataclass(frozen=True, slots=True)
class SourceState:
    """What was last observed of a source, kept apart from what was declared.

    `problem`: why it cannot be followed any more; None while it can. The partitions are those that hold rows, each
    named by the oid of our INSERT trigger in it, which is new each time a partition is attached; None: the source has
    none, or none was ever checked."""

    problem: str | None = None
    partitions: frozenset[int] | None = None  # that it has now
    checked_partitions: frozenset[int] | None = None  # whose rows were compared with the store
