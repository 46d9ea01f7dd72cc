"""A removal and an addition may not overlap: the removal must see what was added, or be seen."""

import asyncio
from itertools import count

import numpy as np
import psycopg
import pytest
from harness import Harness

from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.store import Store

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_removal_waits_for_an_addition_in_flight_and_removes_it(harness: Harness) -> None:
    """The row is deleted after the addition's snapshot, and the removal begins before the addition commits."""
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    store, versions = Store(harness.embedding().target, harness.value("SELECT 'halfvec'::regtype::oid::int")), count(1)

    async def read(connection: AsyncConnection):  # type: ignore[no-untyped-def]
        page = await store.read_outbox(
            connection, version=next(versions), after=0, in_flight=set(), entries=10, keys=10
        )
        return page.changes

    async def overlap() -> None:
        async with (
            await connect_async(harness.url, "adds") as adding,
            await connect_async(harness.url, "removes") as removing,
        ):
            changes = await read(adding)
            async with adding.transaction():
                await store.write(adding, changes, [np.ones((1, 16), np.float32)])
                harness.execute("DELETE FROM articles")
                gone = [change for change in await read(removing) if not change.here]
                removal = asyncio.create_task(store.clear(removing, gone))
                while not harness.value(WAITING) and not removal.done():  # noqa: ASYNC110  # PostgreSQL has no event for it
                    await asyncio.sleep(0.01)
            await removal

    asyncio.run(overlap())
    assert harness.count("store") == 0


def test_failure_of_an_older_text_does_not_outlive_the_vector_of_a_newer_one(harness: Harness) -> None:
    """The failure is recorded while a newer document is written, which does not see it yet."""
    harness.articles("older")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = 'old' WHERE id = 1")
    store = Store(harness.embedding().target, harness.value("SELECT 'halfvec'::regtype::oid::int"))

    async def overlap() -> None:
        async with (
            await connect_async(harness.url, "writes") as writing,
            await connect_async(harness.url, "fails") as failing,
        ):
            old = (await store.read_outbox(failing, version=1, after=0, in_flight=set(), entries=10, keys=10)).changes
            harness.execute("UPDATE articles SET body = 'new' WHERE id = 1")
            new = (await store.read_outbox(writing, version=2, after=0, in_flight=set(), entries=10, keys=10)).changes
            async with writing.transaction():
                await store.write(writing, new, [np.ones((1, 16), np.float32)])
                recording = asyncio.create_task(store.record_failures(failing, old, ["refused"], [None]))
                while not harness.value(WAITING) and not recording.done():  # noqa: ASYNC110  # PostgreSQL has no event for it
                    await asyncio.sleep(0.01)
            await recording

    asyncio.run(overlap())
    assert harness.count("failure") == 0


def test_connection_whose_write_waited_in_vain_for_a_lock_can_write_again(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    store = Store(harness.embedding().target, harness.value("SELECT 'halfvec'::regtype::oid::int"))

    async def write_three_times() -> None:
        async with await connect_async(harness.url, "writes") as connection:
            changes = (
                await store.read_outbox(connection, version=1, after=0, in_flight=set(), entries=10, keys=10)
            ).changes
            vectors = [np.ones((1, 16), np.float32)]
            await store.write(connection, changes, vectors)
            with harness.connect(autocommit=False) as holder:
                holder.execute(f"LOCK TABLE {harness.internal('store')} IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await store.write(connection, changes, vectors)
            await store.write(connection, changes, vectors)

    asyncio.run(write_three_times())
    assert harness.count("store") == 1
