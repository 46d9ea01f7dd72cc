"""A notification sent while nobody listens is not delivered: its change is found by reading again."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from harness import DEADLINE, Harness

from pg_qwen_embed.postgres import listener
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.settings import Settings
from pg_qwen_embed.worker import wakeup
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.process import Worker


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # PostgreSQL has no event for it
            await asyncio.sleep(0.01)


async def test_change_made_while_nobody_listened_is_found_once_somebody_does(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.articles("one")
    await asyncio.to_thread(harness.ok, "attach", "articles", "--text", "body")
    may_listen = asyncio.Event()

    async def late(url: str, channel: str) -> AsyncIterator[str | None]:
        await may_listen.wait()
        async for payload in listener.notifications(url, channel):
            yield payload

    monkeypatch.setattr(wakeup, "notifications", late)
    following = Worker(Settings(harness.url, harness.server.url), Options(poll=0, ping=0))
    task = asyncio.create_task(following.run())
    asleep = f"""
        SELECT 1 FROM _qwen_embed.backfill, pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE backfill.state = 'done' AND l.locktype = 'advisory' AND l.classid = {int(Lock.GATE)} AND l.granted
          AND clock_timestamp() - a.state_change > interval '0.5 s'"""
    try:
        await until(lambda: harness.rows(asleep))
        await asyncio.to_thread(harness.execute, "INSERT INTO articles VALUES (2, 'two')")
        assert harness.count("store") == 1, "the worker sleeps, and was not told"
        may_listen.set()
        await until(lambda: harness.count("store") == 2)
    finally:
        following.stop()
        await task
