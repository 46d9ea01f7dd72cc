"""Queries whose text stands in SQL: the objects that every database has for them, and the worker's statements about them.

How a request travels is described in sql/query.sql."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from pg_qwen_embed.domain.query_request import Placed
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import binary, catalog
from pg_qwen_embed.postgres.connection import AsyncConnection, BinaryValue, Connection, as_text
from pg_qwen_embed.postgres.locks import DOOR
from pg_qwen_embed.postgres.sql import statement


def create(vector_schema: str) -> Iterator[sql.Composed]:
    """The tables, then the functions and the view."""
    yield statement("create_query_secret")
    yield statement("create_query_cache")
    yield statement("set_query_cache_storage")
    yield statement("set_query_cache_identity")
    yield statement("index_query_cache")
    yield statement("index_query_cache_by_age")
    yield statement("create_query_error")
    asking = statement("ask_worker_body", look_for_worker=statement("look_for_worker"))
    yield statement("create_ask_worker", body=_literal(asking))
    yield statement("protect_ask_worker")
    yield statement("create_await_queries", body=_literal(statement("await_queries_body")))
    yield statement("protect_await_queries")
    yield statement("create_answer_queries", body=_literal(statement("answer_queries_body")))
    yield statement("protect_answer_queries")
    yield statement("comment_query_objects")
    yield from create_embed_query(vector_schema)
    yield from create_embeddings()


def create_embed_query(vector_schema: str) -> Iterator[sql.Composed]:
    """The functions that return a type of pgvector's: they go with the extension, and come again with it."""
    halfvec = sql.Identifier(vector_schema, "halfvec")
    yield statement("create_query_vector", halfvec=halfvec, body=_literal(statement("query_vector_body")))
    yield statement("let_query_vector_be_called")
    yield statement("create_embed_query", halfvec=halfvec)
    yield statement("let_embed_query_be_called")
    yield statement("comment_embed_query")
    yield statement("comment_query_vector")


def create_live_generation() -> Iterator[sql.Composed]:
    """The function that tells which generation is live now."""
    yield statement("create_hold_view", body=_literal(statement("hold_view_body")))
    yield statement("protect_hold_view")
    yield statement("create_live_generation", body=_literal(statement("live_generation_body")))
    yield statement("protect_live_generation")
    yield statement("comment_live_generation")


def create_embeddings() -> Iterator[sql.Composed]:
    """The view of all embeddings, and what it calls."""
    yield statement("create_about_rows", body=_literal(statement("about_rows_body")))
    yield statement("protect_about_rows")
    yield statement("create_progress", body=_literal(statement("progress_body")))
    yield statement("let_progress_be_seen")
    yield statement("create_embeddings")
    yield statement("let_embeddings_be_read")
    yield statement("comment_embeddings")
    yield statement("comment_progress")


def _literal(body: sql.Composed) -> sql.Literal:
    return sql.Literal(as_text(body))


def vector_schema(connection: Connection) -> str:
    """The schema of pgvector's types."""
    extension = catalog.vector_extension(connection)
    return (extension and extension.schema) or "public"


def install(connection: Connection) -> None:
    """Create all of it. For a migration, in its transaction."""
    _run(connection, create(vector_schema(connection)))


def follow_generations(connection: Connection) -> None:
    """Let embed_query see a change of generation, and the view of all embeddings the index of each. For a migration, in its
    transaction."""
    _run(connection, (*create_live_generation(), *create_embeddings()))
    extension = catalog.vector_extension(connection)
    if extension is not None and extension.schema is not None:
        _run(connection, create_embed_query(extension.schema))


def restore(connection: Connection) -> list[str]:
    """Create what is missing of the public schema itself. Returns lines for a person to read."""
    function, view = connection.execute(statement("missing_for_queries")).fetchone() or (False, False)
    restored = []
    with connection.transaction():
        if function:
            _run(connection, create_embed_query(vector_schema(connection)))
            restored.append("restored: the function qwen_embed.embed_query")
        if view:
            _run(connection, create_embeddings())
            restored.append("restored: the view qwen_embed.embeddings")
    return restored


@contextmanager
def as_owner(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Inside a transaction: what is created belongs to the role that the registry belongs to. An error ends the transaction."""
    other = connection.execute(statement("registry_owner")).fetchone()
    if other:
        connection.execute(statement("act_as", role=sql.Identifier(other[0])))
    yield
    if other:
        connection.execute(statement("act_as_oneself"))


def _run(connection: Connection, commands: Iterable[sql.Composed]) -> None:
    """Inside a transaction."""
    with as_owner(connection):
        for command in commands:
            connection.execute(as_text(command).encode())


async def prepare_to_answer(connection: AsyncConnection) -> None:
    """To be called first, on the connection that answers."""
    await connection.execute(statement("use_indexes_alone"))


async def read_secret(connection: AsyncConnection) -> bytes:
    """The secret of requests, made if there is none."""
    await connection.execute(statement("make_query_secret"))
    (secret,) = await (await connection.execute(statement("read_query_secret"))).fetchone() or (b"",)
    return bytes(secret)


async def wait_for_requests(
    connection: AsyncConnection, seen: Iterable[int], *, seconds: float, pause: float
) -> list[Placed]:
    """The requests that are there, as soon as one of them is not in `seen`; none after `seconds`."""
    values = {"seen": list(seen), "seconds": seconds, "pause": pause}
    rows = await (await connection.execute(statement("await_queries"), values)).fetchall()
    return [Placed(*row) for row in rows]


async def read_instructions(connection: AsyncConnection, generations: Iterable[int]) -> dict[int, str]:
    cursor = await connection.execute(statement("read_instructions"), {"ids": list(generations)})
    return dict(await cursor.fetchall())


async def answer(
    connection: AsyncConnection, generation: int, keys: Sequence[bytes], vectors: Vectors, doors: Iterable[int]
) -> None:
    """Answer requests, and open these doors. vectors: of shape (len(keys), dimensions)."""
    await connection.execute(
        statement("answer_queries"),
        {
            "generation": generation,
            "dimensions": vectors.shape[1],
            "keys": BinaryValue(binary.bytea_array(keys)),
            "vectors": BinaryValue(binary.real_array(vectors.ravel())),
            "doors": list(doors),
        },
    )


async def write_errors(connection: AsyncConnection, nonces: Sequence[bytes], sentence: str) -> None:
    """Answer requests with a reason."""
    await connection.execute(statement("write_query_errors"), {"nonces": list(nonces), "sentence": sentence})


async def close_doors(connection: AsyncConnection, doors: Iterable[int]) -> set[int]:
    """Take these locks, at which sessions wait. Returns those that this session holds now."""
    cursor = await connection.execute(statement("take_locks"), {"lock": DOOR, "ids": list(doors)})
    return {door for (door,) in await cursor.fetchall()}


async def answer_with_reason(
    connection: AsyncConnection, nonces: Sequence[bytes], sentence: str, doors: Iterable[int]
) -> None:
    """Answer requests with a reason, and open these doors."""
    await write_errors(connection, nonces, sentence)
    await connection.execute(statement("open_gates"), {"lock": DOOR, "ids": list(doors)})


async def sweep(connection: AsyncConnection, *, rows: int) -> int:
    """Delete the oldest vectors beyond `rows`, and reasons that were read. Returns how many vectors were deleted."""
    await connection.execute(statement("sweep_query_errors"))
    return (await connection.execute(statement("sweep_query_cache"), {"rows": rows})).rowcount


async def sweep_generations(connection: AsyncConnection) -> None:
    await connection.execute(statement("sweep_query_generations"))


async def vacuum(connection: AsyncConnection) -> None:
    await connection.execute(statement("vacuum_query_cache"))
