"""Late answers: in whatever order vectors come back, the newest text wins, and deleted rows stay deleted.

Some tests run statements in the order of a slow worker, on connections of their own. Others have a real worker wait for
a slow server."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from harness import Harness, both_versions, eventually

from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.domain.version import READS
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.store import Page, Store
from pg_qwen_embed.worker.work import SourceTruncated

stores = pytest.mark.parametrize("store", ["table", "column"])


class ManualWriter:
    """A worker without a loop: it reads and writes when it is told to."""

    def __init__(self, harness: Harness, store: Store, connection: AsyncConnection) -> None:
        self.harness, self.store, self.connection = harness, store, connection

    async def _page(self) -> tuple[int, Page]:
        version = await self.store.begin_term(self.connection) * READS
        page = await self.store.read_outbox(
            self.connection, version=version, after=0, in_flight=set(), entries=100, keys=100
        )
        return version, page

    async def read(self) -> list[Change]:
        return (await self._page())[1].changes

    async def read_source_truncated(self) -> SourceTruncated:
        version, page = await self._page()
        ((seqs, row_ids),) = page.source_truncated
        return SourceTruncated(version, seqs, row_ids)

    async def scan(self) -> list[Change]:
        return (await self.store.read_backfill(self.connection, after=None, rows=100)).changes

    async def write(self, changes: list[Change]) -> list[int]:
        vectors = np.stack([self.harness.server.vector(change.document) for change in changes])
        return await self.store.write(self.connection, changes, [vectors])

    async def clear(self, changes: list[Change]) -> None:
        await self.store.clear(self.connection, changes)


def two_manual_writers(harness: Harness, script: Callable[[ManualWriter, ManualWriter], Awaitable[None]]) -> None:
    async def play() -> None:
        store = Store(harness.embedding().target, harness.value("SELECT 'halfvec'::regtype::oid"))
        async with await connect_async(harness.url, "slow") as one, await connect_async(harness.url, "quick") as two:
            await script(ManualWriter(harness, store, one), ManualWriter(harness, store, two))

    asyncio.run(play())


@both_versions
@stores
def test_a_slow_writer_cannot_overwrite_a_newer_vector(harness: Harness, store: str) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        old = await slow.read()
        harness.execute("UPDATE articles SET body = 'new'")
        new = await quick.read()
        await quick.write(new)
        await slow.write(old)

    two_manual_writers(harness, script)
    assert [text for text, _ in harness.vectors()] == ["new"]
    harness.assert_in_step()
    assert harness.count("outbox") == 0


@stores
def test_a_slow_backfill_cannot_overwrite_a_change(harness: Harness, store: str) -> None:
    harness.articles("old")
    harness.ok("attach", "articles", "--text", "body", "--store", store)

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        old = await slow.scan()
        harness.execute("UPDATE articles SET body = 'new'")
        await quick.write(await quick.read())
        await slow.write(old)

    two_manual_writers(harness, script)
    harness.assert_in_step()


@stores
def test_a_slow_writer_cannot_bring_back_a_row_that_has_gone(harness: Harness, store: str) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        old = await slow.read()
        harness.execute("DELETE FROM articles")
        await quick.clear(await quick.read())
        await slow.write(old)

    two_manual_writers(harness, script)
    assert harness.count("store") == 0
    harness.assert_in_step()


@stores
@pytest.mark.parametrize("blank", [None, "", " \u3000\n"])
def test_a_slow_writer_cannot_bring_back_the_vector_of_a_text_that_became_blank(
    harness: Harness, store: str, blank: str | None
) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        old = await slow.read()
        harness.execute("UPDATE articles SET body = %s", blank)
        await quick.clear(await quick.read())
        await slow.write(old)

    two_manual_writers(harness, script)
    assert harness.vectors() == []
    harness.assert_in_step()


@stores
def test_a_slow_clear_cannot_remove_the_vector_of_a_row_that_came_back(harness: Harness, store: str) -> None:
    harness.articles("old")
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.once()
    harness.execute("DELETE FROM articles")

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        gone = await slow.read()
        harness.execute("INSERT INTO articles VALUES (1, 'new')")
        await quick.write(await quick.read())
        await slow.clear(gone)

    two_manual_writers(harness, script)
    assert [text for text, _ in harness.vectors()] == ["new"]
    harness.assert_in_step()


@stores
def test_a_slow_truncate_cannot_remove_the_vectors_of_rows_that_came_back(harness: Harness, store: str) -> None:
    harness.articles("old", "gone")
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.once()
    harness.execute("TRUNCATE articles")

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        late = await slow.read_source_truncated()
        harness.execute("INSERT INTO articles VALUES (1, 'new')")
        await quick.write(await quick.read())
        await slow.store.clear_source_truncated(slow.connection, late.version, late.seqs, late.row_ids)

    two_manual_writers(harness, script)
    assert [text for text, _ in harness.vectors()] == ["new"]
    harness.assert_in_step()


def test_one_key_twice_in_a_write_counts_once_with_its_newest_text(harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("INSERT INTO articles VALUES (1, 'old')")

    async def script(slow: ManualWriter, quick: ManualWriter) -> None:
        old = await slow.read()
        harness.execute("UPDATE articles SET body = 'new'")
        await slow.write([*(await quick.read()), *old])

    two_manual_writers(harness, script)
    harness.assert_in_step()


def test_a_column_is_not_written_while_the_application_has_the_row_locked(harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body", "--store", "column")
    harness.execute("INSERT INTO articles VALUES (1, 'locked'), (2, 'free')")
    application = harness.connect(autocommit=False)
    application.execute("SELECT FROM articles WHERE id = 1 FOR UPDATE")

    async def script(writer: ManualWriter, _: ManualWriter) -> None:
        found = await writer.read()
        left = await writer.write(found)
        assert [found[n].document for n in left] == ["locked"]
        assert harness.count("outbox") == 1
        application.rollback()
        assert await writer.write([found[n] for n in left]) == []

    two_manual_writers(harness, script)
    harness.assert_in_step()
    assert harness.count("outbox") == 0


@both_versions
def test_a_text_that_changes_while_it_is_embedded_is_embedded_again(harness: Harness) -> None:
    harness.articles()
    harness.ok("attach", "articles", "--text", "body")
    harness.worker()
    eventually(harness.settled)
    with harness.server.hold(lambda texts: "old" in texts):
        harness.execute("INSERT INTO articles VALUES (1, 'old')")
        eventually(lambda: harness.server.waiting)
        harness.execute("UPDATE articles SET body = 'new'")
        eventually(lambda: [text for text, _ in harness.vectors()] == ["new"])
    eventually(harness.settled)
    assert sorted(harness.server.texts) == ["new", "old"]
    harness.assert_in_step()


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
@pytest.mark.long
def test_a_row_that_goes_while_it_is_embedded_leaves_no_vector(
    harness: Harness, change: str, store: str, backfill: bool
) -> None:
    harness.articles(*["text"] * backfill)
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.worker()
    if not backfill:
        eventually(harness.settled)
    with harness.server.hold(lambda texts: "text" in texts):
        if not backfill:
            harness.execute("INSERT INTO articles VALUES (1, 'text')")
        eventually(lambda: harness.server.waiting)
        harness.execute(change)
        eventually(
            lambda: harness.count("outbox") == len(harness.server.waiting) - backfill
        )  # all but what is held back
    eventually(harness.settled)
    harness.assert_in_step()
    assert harness.rows(f"SELECT k1 FROM {harness.internal('store')} WHERE fingerprint IS NOT NULL") == harness.rows(
        "SELECT id FROM articles WHERE body > ''"
    )


def test_rows_inserted_again_after_truncate_have_their_new_vectors(harness: Harness) -> None:
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    harness.execute("TRUNCATE articles")
    harness.execute("INSERT INTO articles VALUES (1, 'one'), (2, 'other')")
    harness.once()
    assert harness.count("store") == 2
    harness.assert_in_step()


def test_keys_can_be_passed_on_from_row_to_row(harness: Harness) -> None:
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    with harness.connection.transaction():
        harness.execute("UPDATE articles SET id = id + 100")
        harness.execute("UPDATE articles SET id = CASE id WHEN 101 THEN 2 WHEN 102 THEN 1 ELSE 30 END")
    harness.once()
    harness.assert_in_step()
    assert harness.count("store") == 3


def test_a_leader_that_has_lost_its_place_cannot_settle_what_a_compaction_has_left(harness: Harness) -> None:
    """It has read the highest entry of a key, and a sequence that was set back gives the next change a lower one."""
    harness.articles("old")
    harness.ok("attach", "articles", "--text", "body", "--no-backfill")
    outbox = harness.internal("outbox")
    harness.execute(f"SELECT setval(pg_get_serial_sequence('{outbox}', 'seq'), 100)")
    harness.execute("UPDATE articles SET body = 'older'")

    async def script(slow: ManualWriter, _: ManualWriter) -> None:
        read = await slow.read()
        harness.execute(f"SELECT setval(pg_get_serial_sequence('{outbox}', 'seq'), 10)")
        harness.execute("UPDATE articles SET body = 'newest'")
        await slow.store.compact_outbox(slow.connection, set(), 0, 1)
        await slow.write(read)

    two_manual_writers(harness, script)
    assert harness.count("outbox") == 1
    harness.once()
    assert [text for text, _ in harness.vectors()] == ["newest"]
    harness.assert_in_step()
