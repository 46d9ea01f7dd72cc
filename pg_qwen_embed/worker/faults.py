"""Whether a row is to blame for an error of PostgreSQL: then the same statement succeeds without rows."""

from collections.abc import Awaitable, Callable

import psycopg

from pg_qwen_embed.postgres.connection import sqlstate_of
from pg_qwen_embed.worker import policy


async def is_a_rows_fault(error: Exception, without_rows: Callable[[], Awaitable[object]]) -> bool:
    """without_rows: run the statement that failed again, without rows."""
    if not policy.may_be_a_rows_fault(sqlstate_of(error)):
        return False
    try:
        await without_rows()
    except (psycopg.Error, TimeoutError):
        return False
    return True
