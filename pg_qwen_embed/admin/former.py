"""A store by a former key: put aside, and copied into the one by the present key. Which key that is, alter.py decides."""

from psycopg import sql

from pg_qwen_embed.admin.transaction import lock_embedding
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.source import Column, Source
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


def put_aside(connection: Connection, names: Names) -> None:
    connection.execute(statement("keep_former_store", names), {})
    for table in (names.outbox, names.failure):
        connection.execute(statement("drop_table", table=table), {})


def copy_in_source(connection: Connection, before: Embedding, after: Embedding) -> int:
    """For vectors in the source: a row keeps its vector, if it can still be told which one that is."""
    present = [_present(column, after.source) for column in before.source.key]
    same_row = sql.SQL(" AND ").join(
        sql.SQL("{t}::{type} = {s}::{type}").format(
            t=sql.Identifier("t", column or ""),
            s=sql.Identifier("s", f"k{n}"),
            type=_compared_as(former, column, after.source),
        )
        for n, (column, former) in enumerate(zip(present, before.source.key, strict=True), 1)
    )
    kept = 0
    for target in after.targets:
        names = Names(target)
        if names.layout.in_source and all(present):
            (copied,) = connection.execute(
                statement("copy_former_column", names, same_row=same_row), {}
            ).fetchone() or (0,)
            kept += copied
    return kept


def _compared_as(former: Column, column: str | None, now: Source) -> sql.SQL:
    """The type by which a former key is compared with the present one, which may have another type."""
    types = [former.type, *(one.type for one in now.columns if one.name == column)]
    numbers_both = all(one.startswith(("smallint", "integer", "bigint", "numeric")) for one in types)
    return sql.SQL("numeric" if numbers_both else "text")


def _present(column: Column, now: Source) -> str | None:
    """What a former key column is called now; None if it is gone and no column has its name."""
    names = {other.number: other.name for other in now.columns}
    return names.get(column.number) or (column.name if column.name in names.values() else None)


def copy(connection: Connection, names: Names) -> int:
    """Copy the vectors of the former store, drop it, and let the worker embed the other rows."""
    with connection.transaction():
        lock_embedding(connection, names.target.name)
        if not catalog.find(connection, names.target.name).exchanging:
            return 0  # another command has copied them
        connection.execute(statement("lock_store_exclusive"), {"lock": int(Lock.STORE), "id": names.target.id})
        kept = 0
        if not names.layout.in_source:  # those were copied at once
            (kept,) = connection.execute(statement(names.layout.copy_former, names), {}).fetchone() or (0,)
        connection.execute(statement("drop_table", table=names.former), {})
        connection.execute(statement("begin_backfill_again"), {"id": names.target.id})
        connection.execute(statement("request_drift_check"), {"name": names.target.name})
        connection.execute(statement("announce_change"))
    return int(kept)
