"""`init`: the fixed part of the database, and after an upgrade the objects of each embedding as this release has them.

It removes what a dump of the schema alone has left of embeddings that are not registered."""

from typing import Any

import psycopg
from psycopg import sql

from pg_qwen_embed.admin import restore
from pg_qwen_embed.admin.transaction import in_short_transaction, run
from pg_qwen_embed.domain.errors import SetupError, UsageError
from pg_qwen_embed.postgres import catalog, leftovers, migrate
from pg_qwen_embed.postgres.borrowed import borrowed
from pg_qwen_embed.postgres.connection import Connection, as_text, connect, first_line
from pg_qwen_embed.postgres.leftovers import Remains
from pg_qwen_embed.postgres.sql import statement


def init(database_url: str, *, database_defaults: bool = False) -> list[str]:
    """Bring the database up to date; idempotent. Returns lines for a person to read. Raises SetupError.

    database_defaults: set what sessions of applications need so that a filter leaves them LIMIT rows."""
    said = migrate.init(database_url)
    with connect(database_url, "pg_qwen_embed init") as connection:
        said += [_set_defaults(connection)] if database_defaults else []
        said += [_remove(connection, left) for left in leftovers.remains(connection)]
        attached = catalog.registered(connection)
        for one in attached:
            if one.problem is None:
                said += _restored(database_url, one.embedding.name)
    return said if attached else [*said, "next: pg-qwen-embed attach TABLE --text COLUMN"]


def _set_defaults(connection: Connection) -> str:
    extension = catalog.vector_extension(connection)
    schema = (extension and extension.schema) or "public"
    connection.execute(statement("load_pgvector", halfvec=sql.Identifier(schema, "halfvec")))
    command = statement("set_database_default", database=sql.Identifier(connection.info.dbname))
    try:
        connection.execute(command, {})
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(
            f"the defaults of the database {connection.info.dbname} were not set ({first_line(error)}); the rest is done: "
            f"let its owner run in it: {as_text(command)}"
        ) from None
    return f"new sessions of the database {connection.info.dbname} have hnsw.iterative_scan = strict_order"


def initialise(theirs: psycopg.Connection[Any]) -> list[str]:
    """The same in the transaction of a connection that is not ours: nothing is committed here. Raises SetupError, UsageError."""
    said = migrate.init_within(theirs)
    with borrowed(theirs) as connection:
        said += [_remove(connection, left) for left in leftovers.remains(connection)]
        for one in catalog.registered(connection):
            parts = restore.restore(connection, one.embedding.name) if one.problem is None else []
            said += [f"{one.embedding.name}: created again: {', '.join(parts)}"] if parts else []
    return said


def _restored(database_url: str, name: str) -> list[str]:
    """A connection of its own for each: what one lacks does not keep the others back."""
    with connect(database_url, "pg_qwen_embed init") as connection:
        try:
            parts = restore.restore(connection, name)
        except UsageError as error:
            return [f"warning: {error}"]
    return [f"{name}: created again: {', '.join(parts)}"] if parts else []


def _remove(connection: Connection, left: Remains) -> str:
    """Remove what is left of a generation, all or nothing. Returns what was done, or why nothing was."""
    if left.foreign_owners:
        return _kept(left, f"they belong to {', '.join(left.foreign_owners)}; run init as a member of that role")
    if leftovers.has_vectors(connection, left):
        (table, *_) = (store.as_string(None) for store in left.stores)
        return _kept(left, f"{table} has vectors; if nobody needs them run: TRUNCATE {table}; and init again")

    def remove() -> None:
        run(connection, (one.drop for one in left.objects))

    try:
        in_short_transaction(connection, remove, "their tables stayed in use; run init again later")
    except UsageError as error:
        return _kept(left, str(error))
    except psycopg.errors.DependentObjectsStillExist as error:
        return _kept(left, f"something of yours depends on them ({first_line(error)}); drop that, and run init again")
    return f"removed {left.where}"


def _kept(left: Remains, reason: str) -> str:
    return f"warning: {left.where}, were kept: {reason}"
