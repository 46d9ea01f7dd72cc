"""The pool of instructions of a database: those that are shipped, and those that were added."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from pg_qwen_embed.domain import instructions
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.postgres import catalog, trust
from pg_qwen_embed.postgres.connection import Connection, first_line
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    instruction: str
    shipped: bool


def resolved(connection: Connection, text: str | None) -> str | None:
    """The text of `@name`; every other text as it is. Raises UsageError for a name that the pool has not."""
    name = instructions.named(text)
    if name is None or name in instructions.SHIPPED:
        return shipped(text)
    added = _added(connection)
    if name not in added:
        raise instructions.unknown(name, added)
    return added[name]


def shipped(text: str | None) -> str | None:
    """The same where there is no database: of the names that are shipped."""
    name = instructions.named(text)
    if name is None:
        return text
    if name not in instructions.SHIPPED:
        raise instructions.unknown(name, ())
    return instructions.SHIPPED[name]


def listing(connection: Connection) -> list[Instruction]:
    """The shipped ones, then those that were added. Raises SetupError."""
    catalog.require_initialised(connection)
    found = [Instruction(name, text, shipped=True) for name, text in instructions.SHIPPED.items()]
    return [*found, *(Instruction(name, text, shipped=False) for name, text in _added(connection).items())]


def add(connection: Connection, name: str, text: str) -> None:
    """Add one to the pool. Raises UsageError."""
    instructions.check_new(name, text)
    values = {"name": name, "instruction": text.strip()}
    if not _changed(connection, statement("add_instruction"), values):
        raise UsageError(
            f"there is an instruction @{name} already; remove it first: {command('instructions remove {}', name)}"
        )


def remove(connection: Connection, name: str) -> None:
    """Remove one that was added. Embeddings keep their instruction. Raises UsageError."""
    name = name.removeprefix("@")
    if name in instructions.SHIPPED:
        raise UsageError(f"@{name} is shipped with pg_qwen_embed and stays as it is; nothing was removed")
    if not _changed(connection, statement("remove_instruction"), {"name": name}):
        raise instructions.unknown(name, _added(connection))


def _changed(connection: Connection, command: sql.Composed, values: dict[str, str]) -> bool:
    trust.require_trusted(connection)
    catalog.require_initialised(connection)
    try:
        return connection.execute(command, values).fetchone() is not None
    except psycopg.errors.InsufficientPrivilege as error:
        raise _denied(error) from None


def _added(connection: Connection) -> dict[str, str]:
    try:
        return dict(connection.execute(statement("list_instructions")).fetchall())
    except psycopg.errors.InsufficientPrivilege as error:
        raise _denied(error) from None


def _denied(error: psycopg.Error) -> UsageError:
    return UsageError(f"the pool of instructions belongs to the role that ran init ({first_line(error)}); run this as that "
                      "role or a member of it")  # fmt: skip
