"""Objects of generations that the registry does not have, as a database made from a dump of the schema alone has them.

Their triggers work: they append to an outbox that no worker reads. `doctor` reports them, and `init` removes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from psycopg import sql
from psycopg.rows import dict_row

from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Leftover:
    """One object. table: where a trigger or a column stands. may_drop: whether this role may drop it."""

    kind: str  # trigger, function, table, view, search function, distance function, column
    name: str
    schema: str
    table: QualifiedName | None
    owner: str
    may_drop: bool
    arguments: str = ""  # of a function: its parameters, as in SQL

    @property
    def drop(self) -> sql.Composed:
        """The statement that drops it. It fails while an object of the application depends on it."""
        own = sql.Identifier(self.schema, self.name)
        if self.table is None:
            match self.kind:
                case "table":
                    return statement("drop_table", table=own)
                case "view":
                    return statement("drop_view", view=own)
                case _:
                    parameters = sql.SQL(self.arguments.replace("%", "%%"))
                    return statement("drop_leftover_function", function=own, parameters=parameters)
        source = sql.Identifier(self.table.schema, self.table.name)
        if self.kind == "trigger":
            return statement("drop_trigger", trigger=sql.Identifier(self.name), source=source)
        return statement("drop_source_column", source=source, source_column=sql.Identifier(self.name))


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of one generation."""

    generation: int
    objects: tuple[Leftover, ...]

    @property
    def followed(self) -> list[str]:
        """The tables with its triggers."""
        return list(dict.fromkeys(str(one.table) for one in self.objects if one.kind == "trigger"))

    @property
    def views(self) -> list[str]:
        return [one.name for one in self.objects if one.kind == "view"]

    @property
    def foreign_owners(self) -> list[str]:
        """The roles whose objects this role may not drop."""
        return sorted({one.owner for one in self.objects if not one.may_drop})

    @property
    def stores(self) -> Iterator[sql.Identifier]:
        stores = (one for one in self.objects if one.kind == "table" and one.name.startswith(("store_", "former_")))
        return (sql.Identifier(one.schema, one.name) for one in stores)

    @property
    def where(self) -> str:
        tables = f" on {', '.join(self.followed)}" if self.followed else ""
        return f"{len(self.objects)} objects{tables} of generation {self.generation}, which the registry does not have"


def remains(connection: Connection) -> list[Remains]:
    """What is left, by generation. Raises psycopg.Error for a role that may not read the registry."""
    (there,) = connection.execute(statement("registry_is_there")).fetchone() or (False,)
    if not there:
        return []
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(statement("read_leftovers")).fetchall()
    grouped = groupby(rows, key=lambda row: int(row["generation"]))
    return [Remains(generation, tuple(map(_leftover, objects))) for generation, objects in grouped]


def has_vectors(connection: Connection, left: Remains) -> bool:
    """Whether a store that is left has rows: they cost work to make, and are not removed."""
    rows = (connection.execute(statement("has_rows", table=store)).fetchone() for store in left.stores)
    return any(row and row[0] for row in rows)


def _leftover(row: dict[str, str | bool | None]) -> Leftover:
    table = None if row["source"] is None else QualifiedName(str(row["schema"]), str(row["source"]))
    owner, may_drop, arguments = str(row["owner"]), bool(row["may_drop"]), str(row["arguments"] or "")
    return Leftover(str(row["kind"]), str(row["name"]), str(row["schema"]), table, owner, may_drop, arguments)
