"""Tasks that end with the one that began them.

psycopg asks PostgreSQL to cancel the statement of a task that is cancelled. A task that is cancelled again meanwhile loses
its connection, and psycopg writes a warning into the application's log. So no task is told twice."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import Any


async def ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel those that have not been told, and wait for all, whatever comes of them."""
    for task in tasks:
        if not task.cancelling():
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asyncio complains of one that nobody reads


async def together(work: Sequence[Awaitable[None]]) -> None:
    """Await all; where one fails the others are cancelled, and its error is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        for task in tasks:
            await task
    finally:
        await ended(tasks)
