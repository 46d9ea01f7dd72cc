"""The failures of an embedding, as its owner sees and handles them: list, retry, discard."""

from typing import Any

from psycopg import sql

from pg_qwen_embed.domain import generations
from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import Failure
from pg_qwen_embed.postgres import catalog, trust
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.expressions import TRUE
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

Key = tuple[str, ...]  # as text, one value for each key column


def listing(connection: Connection, name: str, generation: int | None = None) -> list[Failure]:
    """Every failure of a generation, the latest first. None: of the live one. Raises UsageError."""
    catalog.require_initialised(connection)
    target = _target(catalog.embedding(connection, name), generation)
    columns = [column.name for column in target.source.key]
    rows = connection.execute(statement("list_failures", Names(target), chosen=TRUE), {}).fetchall()
    return [Failure(dict(zip(columns, row[5:], strict=True)), *row[:5]) for row in rows]


def retry(connection: Connection, name: str, key: Key, generation: int | None = None) -> int:
    """Have one failure tried again now, or all if the key is empty. Returns how many. Raises UsageError."""
    return _change(connection, "retry_failures", name, key, generation)


def discard(connection: Connection, name: str, key: Key, generation: int | None = None) -> int:
    """Delete one failure, or all if the key is empty. Returns how many. Raises UsageError.

    The rows keep the vectors they have until they change."""
    return _change(connection, "discard_failures", name, key, generation)


def _target(embedding: Embedding, generation: int | None) -> Target:
    return embedding.target if generation is None else Target(embedding, generations.of(embedding, generation))


def _change(connection: Connection, query: str, name: str, key: Key, generation: int | None) -> int:
    trust.require_trusted(connection, name)
    catalog.require_initialised(connection)
    target = _target(catalog.embedding(connection, name), generation)
    values: dict[str, Any] = {f"after{n}": part for n, part in enumerate(key, 1)}
    values["id"] = target.id
    names = Names(target)
    row = connection.execute(statement(query, names, chosen=_chosen(names, key)), values).fetchone()
    changed = int(row[0]) if row else 0
    if key and not changed:
        raise UsageError(
            f"{name} has no failure with the key {', '.join(key)}; list them: {command('failures list {}', name)}"
        )
    return changed


def _chosen(names: Names, key: Key) -> sql.Composable:
    if not key:
        return TRUE
    columns = [column.name for column in names.target.source.key]
    if len(key) != len(columns):
        raise UsageError(
            f"the key of {names.target.name} is ({', '.join(columns)}): give --key {len(columns)} "
            f"{'time' if len(columns) == 1 else 'times, in this order'}"
        )
    return names.one_key
