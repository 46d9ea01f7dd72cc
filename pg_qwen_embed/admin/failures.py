"""The documents an embedding's server refuses, as its owner sees and handles them."""

from typing import Any

from psycopg import sql

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.model import Embedding, Failure
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.sql import fragments, statement

Key = tuple[str, ...]  # one text for each key column


def listing(connection: Connection, name: str) -> list[Failure]:
    """Every failure, the latest first. Raises UsageError."""
    embedding = catalog.embedding(connection, name)
    columns = [column.name for column in embedding.source.key]
    placeholders = fragments.placeholders(embedding) | {"chosen": fragments.TRUE}
    rows = connection.execute(statement("list_failures", placeholders), {}).fetchall()
    return [Failure(dict(zip(columns, row[5:], strict=True)), *row[:5]) for row in rows]


def retry(connection: Connection, name: str, key: Key) -> int:
    """Have one failure tried again at once, or all without a key; how many."""
    return _change(connection, "retry_failures", name, key)


def discard(connection: Connection, name: str, key: Key) -> int:
    """Forget one failure, or all without a key; how many. The rows stay as they are until they change."""
    return _change(connection, "discard_failures", name, key)


def _change(connection: Connection, query: str, name: str, key: Key) -> int:
    embedding = catalog.embedding(connection, name)
    values: dict[str, Any] = {f"after{n}": part for n, part in enumerate(key, 1)}
    values["id"] = embedding.generation.id
    placeholders = fragments.placeholders(embedding) | {"chosen": _chosen(embedding, key)}
    row = connection.execute(statement(query, placeholders), values).fetchone()
    return int(row[0]) if row else 0


def _chosen(embedding: Embedding, key: Key) -> sql.Composable:
    if not key:
        return fragments.TRUE
    columns = [column.name for column in embedding.source.key]
    if len(key) != len(columns):
        raise UsageError(
            f"the key of {embedding.name} is ({', '.join(columns)}): give --key {len(columns)} "
            f"{'time' if len(columns) == 1 else 'times, in this order'}"
        )
    return fragments.one_failure(embedding)
