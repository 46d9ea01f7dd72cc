"""Which rights a role lacks, said with the GRANT statements that give them.

PostgreSQL's own sentence names an object, and neither the right nor what stands behind it: a table that may be read is
no use without USAGE on its schema."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres.connection import AsyncConnection, Connection, as_text, first_line
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Right:
    """A right to a table or a view. It includes USAGE on the schema."""

    schema: str
    relation: str
    privilege: str


@dataclass(frozen=True, slots=True)
class Lacking:
    """A right that the role lacks, and the statement that grants it."""

    right: str  # SELECT on shop.items
    grant: str

    def __str__(self) -> str:
        return self.right


REGISTRY = tuple(Right(INTERNAL_SCHEMA, table, "SELECT") for table in ("embedding", "generation"))


def of_status(names: Names) -> tuple[Right, ...]:
    """What `status` reads of an embedding."""
    backfill = Right(INTERNAL_SCHEMA, "backfill", "SELECT")
    index = Right(INTERNAL_SCHEMA, "ann_index", "SELECT")
    return (*_source(names, "SELECT"), *_internal(names, "SELECT"), *REGISTRY, backfill, index)


def of_worker(names: Names) -> tuple[Right, ...]:
    """What a worker reads and writes for an embedding."""
    source = _source(names, *(("SELECT", "UPDATE") if names.layout.in_source else ("SELECT",)))
    both = (
        Right(INTERNAL_SCHEMA, table, right) for table in ("generation", "backfill") for right in ("SELECT", "UPDATE")
    )
    index = (Right(INTERNAL_SCHEMA, "ann_index", right) for right in ("SELECT", "INSERT", "UPDATE"))
    return (*source, *_internal(names, "SELECT", "INSERT", "UPDATE", "DELETE"), REGISTRY[0], *both, *index)


def lacking(connection: Connection, wanted: Iterable[Right]) -> list[Lacking]:
    """Those that the role of this connection lacks. Nothing is looked up by a name that would need a right itself."""
    found = connection.execute(statement("missing_grants"), _values(wanted)).fetchall()
    return [Lacking(*row) for row in found]


async def lacking_async(connection: AsyncConnection, wanted: Iterable[Right]) -> list[Lacking]:
    found = await (await connection.execute(statement("missing_grants"), _values(wanted))).fetchall()
    return [Lacking(*row) for row in found]


def _values(wanted: Iterable[Right]) -> dict[str, list[str]]:
    rights = list(dict.fromkeys(wanted))
    return {
        "schemas": [right.schema for right in rights],
        "relations": [right.relation for right in rights],
        "privileges": [right.privilege for right in rights],
    }


def explain(connection: Connection, error: psycopg.Error, wanted: Iterable[Right]) -> str:
    """What to say of a statement that PostgreSQL denied: which rights are missing, or what PostgreSQL says."""
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    found = lacking(connection, wanted) if idle else []
    return sentence(connection.info.user, found) if found else first_line(error)


def sentence(role: str, found: Iterable[Lacking]) -> str:
    found = list(found)
    return f"the role {role} lacks {', '.join(map(str, found))}; run: {' '.join(f'{one.grant};' for one in found)}"


def rows_hidden(table: QualifiedName, role: str) -> str:
    """What to say of a source with policies that hold for the role of a worker."""
    advice = f"run: ALTER ROLE {role} BYPASSRLS, or let the worker be a member of the table's owner"
    return f"row-level security hides rows of {table} from {role}; {advice}"


def usage(connection: Connection, schema: str) -> str:
    """The statement that lets the role of this connection use a schema."""
    role = sql.Identifier(connection.info.user)
    return as_text(statement("grant_use_of_schema", schema=sql.Identifier(schema), role=role))


def _source(names: Names, *privileges: str) -> Iterator[Right]:
    table = names.target.source.table
    return (Right(table.schema, table.name, privilege) for privilege in privileges)


def _internal(names: Names, *privileges: str) -> Iterator[Right]:
    for kind in ("outbox", "store", "failure"):
        yield from (Right(INTERNAL_SCHEMA, f"{kind}_{names.target.id}", privilege) for privilege in privileges)
