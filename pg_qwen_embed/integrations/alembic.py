"""Alembic: operations that create, remove and alter an embedding in the migration's own transaction.

    import pg_qwen_embed.alembic  # registers the operations

    def upgrade() -> None:
        op.create_table("articles", ...)
        op.attach_embedding("articles", text="body", model="Qwen/Qwen3-Embedding-0.6B", dimensions=1024)

    def downgrade() -> None:
        op.detach_embedding("articles")
        op.drop_table("articles")

All of the migration is committed, or nothing of it. A worker that runs is notified by the commit, and fills the store.
`include_name` and `include_object` keep autogenerate away from what an embedding has in the database."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.integrations import declaring
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA, PUBLIC_SCHEMA

_SCHEMAS = (INTERNAL_SCHEMA, PUBLIC_SCHEMA)
_OWN = "pg_qwen_embed "  # how a comment on an object of ours begins


@Operations.register_operation("attach_embedding")
class AttachEmbedding(MigrateOperation):
    """`op.attach_embedding(table, schema=None, text=..., model=..., dimensions=...)`: the options of `attach`."""

    def __init__(self, table: str, options: Mapping[str, Any]) -> None:
        self.table, self.options = table, options

    @classmethod
    def attach_embedding(cls, operations: Operations, table: str, **options: Any) -> None:
        operations.invoke(cls(table, options))

    def reverse(self) -> "DetachEmbedding":
        return DetachEmbedding(self.options.get("name") or self.table, self)


@Operations.register_operation("detach_embedding")
class DetachEmbedding(MigrateOperation):
    """`op.detach_embedding(name)`: removes the embedding and its vectors; the table stays as it was."""

    def __init__(self, name: str, attached: AttachEmbedding | None = None) -> None:
        self.name, self.attached = name, attached

    @classmethod
    def detach_embedding(cls, operations: Operations, name: str) -> None:
        operations.invoke(cls(name))

    def reverse(self) -> AttachEmbedding:
        if self.attached is None:
            raise ValueError(f"how {self.name} was attached is not known here")
        return self.attached


@Operations.register_operation("alter_embedding")
class AlterEmbedding(MigrateOperation):
    """`op.alter_embedding(name, instruction="...")`: None is the default instruction."""

    def __init__(self, name: str, instruction: str | None) -> None:
        self.name, self.instruction = name, instruction

    @classmethod
    def alter_embedding(cls, operations: Operations, name: str, *, instruction: str | None) -> None:
        operations.invoke(cls(name, instruction))


@Operations.register_operation("embedding_suspended")
class SuspendEmbedding(MigrateOperation):
    """`with op.embedding_suspended(name):` inside, every column of the embedding's table can be altered."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def embedding_suspended(cls, operations: Operations, name: str) -> Any:
        return operations.invoke(cls(name))


@Operations.implementation_for(AttachEmbedding)
def _attach(operations: Operations, operation: AttachEmbedding) -> None:
    connection = _driver_connection(operations, operation.options.get("name") or operation.table)
    declaring.attach(connection, operation.table, **operation.options)


@Operations.implementation_for(DetachEmbedding)
def _detach(operations: Operations, operation: DetachEmbedding) -> None:
    declaring.detach(_driver_connection(operations, operation.name), operation.name)


@Operations.implementation_for(AlterEmbedding)
def _alter(operations: Operations, operation: AlterEmbedding) -> None:
    connection = _driver_connection(operations, operation.name)
    declaring.change_instruction(connection, operation.name, operation.instruction)


@Operations.implementation_for(SuspendEmbedding)
def _suspended(operations: Operations, operation: SuspendEmbedding) -> AbstractContextManager[None]:
    return altered(operations, operation.name)


@contextmanager
def altered(op: Any, name: str) -> Iterator[None]:
    """Inside, every column of the table of the embedding `name` can be altered. op: alembic.op.

    Where there is no such embedding, as in a database that is just being made, there is nothing to suspend. The table stays
    locked (ACCESS EXCLUSIVE) until the migration is committed. Raises UsageError, SetupError."""
    with declaring.suspended(_driver_connection(op, name), name):
        yield


def _driver_connection(op: Any, name: str) -> psycopg.Connection[Any]:
    if op.get_context().as_sql:
        raise UsageError(
            f"{name}: its migration must look at the database, so it cannot be printed as SQL (--sql); "
            "pg-qwen-embed sql attach prints the statements for reading"
        )
    bind = op.get_bind()
    connection = bind.connection.driver_connection
    if not isinstance(connection, psycopg.Connection):
        raise UsageError(
            f"{name}: the migration uses the driver {bind.dialect.driver}, and its embedding needs psycopg 3; "
            "run Alembic with a URL like postgresql+psycopg://host/database"
        )
    if connection.autocommit:
        raise UsageError(f"{name}: its table is altered in one transaction; leave autocommit out of this migration")
    return connection


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
    """For `context.configure(include_name=...)`: leaves the schemas of pg_qwen_embed out, with all that is in them."""
    return name not in _SCHEMAS if type_ == "schema" else parent_names.get("schema_name") not in _SCHEMAS


def include_object(thing: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """For `context.configure(include_object=...)`: leaves out the column of vectors in a table of yours, and its index.

    They say in their comment whose they are. What a model of yours has itself is compared as ever."""
    if getattr(thing, "schema", None) in _SCHEMAS:
        return False
    if not reflected or compare_to is not None:
        return True
    if type_ == "column":
        return not _is_own(thing)
    return type_ != "index" or not any(_is_own(column) for column in thing.columns)


def _is_own(column: sa.Column[Any]) -> bool:
    return (column.comment or "").startswith(_OWN)
