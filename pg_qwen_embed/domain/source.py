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
    base_type: str = ""  # of a domain: its base type, which always accepts NULL
    collation: QualifiedName | None = None  # only if it is not the type's own


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

    problem: why it can no longer be followed; None while it can. partitions: those that hold rows. Each is named by the
    oid of our INSERT trigger in it, because that is new each time a partition is attached. None: the source has no
    partitions, or none was ever checked."""

    problem: str | None = None
    partitions: frozenset[int] | None = None  # that the source has now
    checked_partitions: frozenset[int] | None = None  # whose rows were compared with the store
