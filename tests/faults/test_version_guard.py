"""Late answers: whatever the order in which vectors come back, the newest text wins, and rows that have gone stay gone.

Some tests put the statements in the order that a slow worker would, on connections of their own; some have a real
worker wait for a slow server."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from harness import Rig, both_versions, eventually

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.store import Store

stores = pytest.mark.parametrize("store", ["table", "column"])


class Hand:
    """A worker's hands without its head: reads and writes when it is told to."""

    def __init__(self, rig: Rig, store: Store, connection: AsyncConnection) -> None:
        self.rig, self.store, self.connection = rig, store, connection

    async def read(self) -> list[Change]:
        page = await self.store.read_outbox(self.connection, after=0, in_flight=set(), entries=100, keys=100)
        return page.changes

    async def read_truncated(self) -> tuple[int, list[int]]:
        page = await self.store.read_outbox(self.connection, after=0, in_flight=set(), entries=100, keys=100)
        ((version, seqs),) = page.truncated
        return version, list(seqs)

    async def walk(self) -> list[Change]:
        return (await self.store.read_backfill(self.connection, after=None, rows=100)).changes

    async def write(self, changes: list[Change]) -> list[int]:
        vectors = np.stack([self.rig.server.vector(change.document) for change in changes])
        return await self.store.write(self.connection, changes, [vectors])

    async def clear(self, changes: list[Change]) -> None:
        await self.store.clear(self.connection, changes)


def two_hands(rig: Rig, script: Callable[[Hand, Hand], Awaitable[None]]) -> None:
    async def play() -> None:
        store = Store(rig.embedding(), rig.value("SELECT 'halfvec'::regtype::oid"))
        async with await connect_async(rig.url, "slow") as one, await connect_async(rig.url, "quick") as two:
            await script(Hand(rig, store, one), Hand(rig, store, two))

    asyncio.run(play())


@both_versions
@stores
def test_a_slow_writer_cannot_overwrite_a_newer_vector(rig: Rig, store: str) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    rig.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: Hand, quick: Hand) -> None:
        old = await slow.read()
        rig.execute("UPDATE articles SET body = 'new'")
        new = await quick.read()
        await quick.write(new)
        await slow.write(old)

    two_hands(rig, script)
    assert [text for text, _ in rig.vectors()] == ["new"]
    rig.assert_in_step()
    assert rig.count("outbox") == 0


@stores
def test_a_slow_backfill_cannot_overwrite_a_change(rig: Rig, store: str) -> None:
    rig.articles("old")
    rig.ok("attach", "articles", "--text", "body", "--store", store)

    async def script(slow: Hand, quick: Hand) -> None:
        old = await slow.walk()
        rig.execute("UPDATE articles SET body = 'new'")
        await quick.write(await quick.read())
        await slow.write(old)

    two_hands(rig, script)
    rig.assert_in_step()


@stores
def test_a_slow_writer_cannot_bring_back_a_row_that_has_gone(rig: Rig, store: str) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    rig.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: Hand, quick: Hand) -> None:
        old = await slow.read()
        rig.execute("DELETE FROM articles")
        await quick.clear(await quick.read())
        await slow.write(old)

    two_hands(rig, script)
    assert rig.count("store") == 0
    rig.assert_in_step()


@stores
@pytest.mark.parametrize("blank", [None, "", " \u3000\n"])
def test_a_slow_writer_cannot_bring_back_the_vector_of_a_text_that_became_blank(
    rig: Rig, store: str, blank: str | None
) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    rig.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: Hand, quick: Hand) -> None:
        old = await slow.read()
        rig.execute("UPDATE articles SET body = %s", blank)
        await quick.clear(await quick.read())
        await slow.write(old)

    two_hands(rig, script)
    assert rig.vectors() == []
    rig.assert_in_step()


@stores
def test_a_slow_clear_cannot_remove_the_vector_of_a_row_that_came_back(rig: Rig, store: str) -> None:
    rig.articles("old")
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    rig.once()
    rig.execute("DELETE FROM articles")

    async def script(slow: Hand, quick: Hand) -> None:
        gone = await slow.read()
        rig.execute("INSERT INTO articles VALUES (1, 'new')")
        await quick.write(await quick.read())
        await slow.clear(gone)

    two_hands(rig, script)
    assert [text for text, _ in rig.vectors()] == ["new"]
    rig.assert_in_step()


@stores
def test_a_slow_truncate_cannot_remove_the_vectors_of_rows_that_came_back(rig: Rig, store: str) -> None:
    rig.articles("old", "gone")
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    rig.once()
    rig.execute("TRUNCATE articles")

    async def script(slow: Hand, quick: Hand) -> None:
        version, seqs = await slow.read_truncated()
        rig.execute("INSERT INTO articles VALUES (1, 'new')")
        await quick.write(await quick.read())
        await slow.store.clear_truncated(slow.connection, version, seqs)

    two_hands(rig, script)
    assert [text for text, _ in rig.vectors()] == ["new"]
    rig.assert_in_step()


def test_one_key_twice_in_a_write_counts_once_with_its_newest_text(rig: Rig) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body")
    rig.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: Hand, quick: Hand) -> None:
        old = await slow.read()
        rig.execute("UPDATE articles SET body = 'new'")
        await slow.write([*(await quick.read()), *old])

    two_hands(rig, script)
    rig.assert_in_step()


def test_a_column_is_not_written_while_the_application_has_the_row_locked(rig: Rig) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body", "--store", "column")
    rig.execute("INSERT INTO articles VALUES (1, 'locked'), (2, 'free')")
    application = rig.connect(autocommit=False)
    application.execute("SELECT FROM articles WHERE id = 1 FOR UPDATE")

    async def script(writer: Hand, _: Hand) -> None:
        found = await writer.read()
        left = await writer.write(found)
        assert [found[n].document for n in left] == ["locked"]
        assert rig.count("outbox") == 1
        application.rollback()
        assert await writer.write([found[n] for n in left]) == []

    two_hands(rig, script)
    rig.assert_in_step()
    assert rig.count("outbox") == 0


@both_versions
def test_a_text_that_changes_while_it_is_embedded_is_embedded_again(rig: Rig) -> None:
    rig.articles()
    rig.ok("attach", "articles", "--text", "body")
    rig.worker()
    eventually(rig.settled)
    with rig.server.hold(lambda texts: "old" in texts):
        rig.execute("INSERT INTO articles VALUES (1, 'old')")
        eventually(lambda: rig.server.waiting)
        rig.execute("UPDATE articles SET body = 'new'")
        eventually(lambda: [text for text, _ in rig.vectors()] == ["new"])
    eventually(rig.settled)
    assert sorted(rig.server.texts) == ["new", "old"]
    rig.assert_in_step()


@pytest.mark.parametrize(
    ("change", "store", "backfill"),
    [
        ("DELETE FROM articles WHERE id = 1", "table", True),
        ("DELETE FROM articles WHERE id = 1", "column", False),
        ("TRUNCATE articles", "table", False),
        ("TRUNCATE articles", "table", True),
        ("UPDATE articles SET id = 9, body = 'another text'", "table", False),
        ("UPDATE articles SET id = 9, body = 'another text'", "column", True),
        ("UPDATE articles SET body = ''", "table", True),
        ("UPDATE articles SET body = ''", "column", False),
    ],
)
def test_a_row_that_goes_while_it_is_embedded_leaves_no_vector(
    rig: Rig, change: str, store: str, backfill: bool
) -> None:
    rig.articles(*["text"] * backfill)
    rig.ok("attach", "articles", "--text", "body", "--store", store)
    rig.worker()
    if not backfill:
        eventually(rig.settled)
    with rig.server.hold(lambda texts: "text" in texts):
        if not backfill:
            rig.execute("INSERT INTO articles VALUES (1, 'text')")
        eventually(lambda: rig.server.waiting)
        rig.execute(change)
        eventually(lambda: rig.count("outbox") == len(rig.server.waiting) - backfill)  # all but what is held back
    eventually(rig.settled)
    rig.assert_in_step()
    assert rig.rows(f"SELECT k1 FROM {rig.machinery('store')} WHERE fingerprint IS NOT NULL") == rig.rows(
        "SELECT id FROM articles WHERE body > ''"
    )


def test_rows_inserted_again_after_truncate_have_their_new_vectors(rig: Rig) -> None:
    rig.articles("one", "two", "three")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    rig.execute("TRUNCATE articles")
    rig.execute("INSERT INTO articles VALUES (1, 'one'), (2, 'other')")
    rig.once()
    assert rig.count("store") == 2
    rig.assert_in_step()


def test_keys_can_be_passed_on_from_row_to_row(rig: Rig) -> None:
    rig.articles("one", "two", "three")
    rig.ok("attach", "articles", "--text", "body")
    rig.once()
    with rig.connection.transaction():
        rig.execute("UPDATE articles SET id = id + 100")
        rig.execute("UPDATE articles SET id = CASE id WHEN 101 THEN 2 WHEN 102 THEN 1 ELSE 30 END")
    rig.once()
    rig.assert_in_step()
    assert rig.count("store") == 3
