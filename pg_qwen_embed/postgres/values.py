"""Rows of an application's table as Python values. A value that Python cannot hold comes as PostgreSQL's own text.

Such are infinity and years before Christ of dates, 24:00, a range that ends at infinity, and text that is not in the
encoding of its database."""

import json
import math
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.abc import Loader
from psycopg.types.json import set_json_loads

from pg_qwen_embed.postgres.connection import AsyncCursor


def take_every_value(cursor: AsyncCursor) -> None:
    """Numbers in json and jsonb that are too large for a float become Decimal: as a float they would be infinity."""
    set_json_loads(_json, cursor)


async def rows(cursor: AsyncCursor) -> list[tuple[Any, ...]]:
    """All rows of the statement's result."""
    try:
        return await cursor.fetchall()
    except Exception as error:
        if isinstance(error, psycopg.Error) and not isinstance(error, psycopg.DataError):
            raise
        return _value_by_value(cursor)  # the loaders of types raise errors of many classes


def _value_by_value(cursor: AsyncCursor) -> list[tuple[Any, ...]]:
    result = cursor.pgresult
    if result is None:
        return []
    loaders = [_loader(cursor, result.ftype(n), result.fformat(n)) for n in range(result.nfields)]
    return [
        tuple(_loaded(loader, result.get_value(row, column)) for column, loader in enumerate(loaders))
        for row in range(result.ntuples)
    ]


def _loader(cursor: AsyncCursor, oid: int, result_format: int) -> Loader | None:
    found = cursor.adapters.get_loader(oid, psycopg.pq.Format(result_format))
    return found(oid, cursor) if found else None


def _loaded(loader: Any, raw: bytes | None) -> object:
    if raw is None:
        return None
    try:
        if loader is not None:
            value: object = loader.load(raw)
            return value
    except Exception:  # noqa: S110  # of any class: see above
        pass
    return raw.decode(errors="replace")


def _json(raw: str | bytes) -> Any:
    return json.loads(raw, parse_float=_number)


def _number(text: str) -> float | Decimal:
    number = float(text)
    return number if math.isfinite(number) else Decimal(text)
