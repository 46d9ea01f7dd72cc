"""A removal and an addition may not overlap: the removal must see what was added, or be seen."""

import asyncio

import numpy as np
from rig import Rig

from pg_qwen_embed.database import AsyncConnection, connect_async
from pg_qwen_embed.store import Store

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_removal_waits_for_an_addition_in_flight_and_removes_it(rig: Rig) -> None:
    """The row is deleted after the addition's snapshot, and the removal begins before the addition commits."""
    rig.articles("one")
    rig.ok("attach", "articles", "--text", "body", "--no-backfill")
    rig.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
    store = Store(rig.embedding(), rig.value("SELECT 'halfvec'::regtype::oid::int"))

    async def read(connection: AsyncConnection):  # type: ignore[no-untyped-def]
        page = await store.read_outbox(connection, after=0, in_flight=set(), entries=10, keys=10)
        return page.changes

    async def overlap() -> None:
        async with await connect_async(rig.url, "adds") as adding, await connect_async(rig.url, "removes") as removing:
            changes = await read(adding)
            async with adding.transaction():
                await store.write(adding, changes, np.ones((1, 16), np.float32))
                rig.execute("DELETE FROM articles")
                gone = [change for change in await read(removing) if not change.here]
                removal = asyncio.create_task(store.clear(removing, gone))
                while not rig.value(WAITING) and not removal.done():  # noqa: ASYNC110  # PostgreSQL has no event for it
                    await asyncio.sleep(0.01)
            await removal

    asyncio.run(overlap())
    assert rig.count("store") == 0
