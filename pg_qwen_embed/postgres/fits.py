"""The fit of a generation's post-processing, as the registry keeps it, and the documents that it is made of.

A fit is written once and never replaced: its vectors could not be compared with those of another one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.postgres.connection import AsyncConnection, BinaryValue, Connection
from pg_qwen_embed.postgres.expressions import is_integer
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement

if TYPE_CHECKING:
    from pg_qwen_embed.domain.fit import Fit

LONGEST = 100_000  # characters of a document that are read for a sample

Keys = list[tuple[Any, ...]]


def with_fit(connection: Connection, embedding: Embedding) -> Embedding:
    """The embedding with the fit of its live generation, if it needs one and was fitted."""
    if embedding.live.spec.post is None:
        return embedding
    row = connection.execute(statement("read_fit"), {"id": embedding.live.id}).fetchone()
    return embedding.target.with_fit(_fit(row)).embedding


async def read(connection: AsyncConnection, target: Target) -> "Fit | None":
    """The fit of a generation; None if it was not made yet."""
    return _fit(await (await connection.execute(statement("read_fit"), {"id": target.id})).fetchone())


async def write(connection: AsyncConnection, target: Target, fit: "Fit") -> bool:
    """Keep a fit. False: there is one already, or the generation was detached."""
    values = {"id": target.id, "fit": fit.to_bytes(), "documents": fit.documents}
    return await (await connection.execute(statement("write_fit"), values)).fetchone() is not None


def fitted_on(connection: Connection, target: Target) -> int | None:
    """On how many documents a generation was fitted; None: it was not fitted yet."""
    row = connection.execute(statement("read_fitted_on"), {"id": target.id}).fetchone()
    return row[0] if row else None


async def count_rows(connection: AsyncConnection, target: Target, most: int) -> int:
    """How many rows the source has, counted up to `most`."""
    query = statement("count_some_rows", table=identifier(target.source.table))
    row = await (await connection.execute(query, {"most": most})).fetchone()
    return row[0] if row else 0


async def sample_keys(connection: AsyncConnection, target: Target, most: int) -> Keys:
    """The keys of `most` rows, drawn at random."""
    cursor = connection.cursor(binary=True)
    return list(await (await cursor.execute(statement("sample_keys", Names(target)), {"most": most})).fetchall())


async def read_sample(connection: AsyncConnection, target: Target, keys: Keys) -> list[str]:
    """The documents of these rows, without blank ones. Raises psycopg.Error also for text that is not UTF-8."""
    from pg_qwen_embed.postgres import binary  # here, as in layouts.py

    columns: Sequence[Sequence[Any]] = list(zip(*keys, strict=True))
    values: dict[str, Any] = {
        f"k{n}": BinaryValue(binary.int8_array(own)) if is_integer(column) else list(own)
        for n, (own, column) in enumerate(zip(columns, target.source.key, strict=True), 1)
    }
    query = statement("read_sample", Names(target))
    cursor = await connection.execute(query, values | {"longest": LONGEST})
    try:
        return [document for (document,) in await cursor.fetchall()]
    except UnicodeDecodeError as error:
        raise psycopg.DataError(f"a document holds bytes that are not UTF-8 ({error.reason})") from None


def _fit(row: tuple[bytes | None] | None) -> "Fit | None":
    from pg_qwen_embed.domain.fit import Fit

    return Fit.from_bytes(row[0]) if row and row[0] is not None else None
