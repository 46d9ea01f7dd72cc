"""Whether a row is to blame for an error of PostgreSQL: then the same statement succeeds without rows."""

from collections.abc import Awaitable, Callable

import psycopg

from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.postgres.connection import first_line, sqlstate_of
from pg_qwen_embed.worker import policy


async def is_a_rows_fault(
    error: Exception, without_rows: Callable[[], Awaitable[object]], *, reading: bool = False
) -> bool:
    """without_rows: run the statement that failed again, without rows. reading: it reads documents, and has a timeout."""
    sqlstate = sqlstate_of(error)
    if not policy.may_be_a_rows_fault(sqlstate) and not (reading and policy.ran_too_long(sqlstate)):
        return False
    try:
        await without_rows()
    except (psycopg.Error, TimeoutError):
        return False
    return True


def ran_too_long(error: Exception) -> bool:
    """Whether a read was ended by its timeout."""
    return policy.ran_too_long(sqlstate_of(error))


def unreadable(error: Exception, longest: float) -> str:
    """Why the document of a row cannot be read. longest: seconds that a read may take."""
    return (
        f"its text took PostgreSQL more than {longest:g} s"
        if ran_too_long(error)
        else f"PostgreSQL: {shown(first_line(error))}"
    )
