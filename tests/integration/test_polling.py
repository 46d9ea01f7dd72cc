"""That `pytest --polling` does what it says: else the tests that run with it would prove nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Harness

POLLING = Path(__file__).resolve().parents[1] / "support" / "polling"
HEARD = """
import asyncio, os
from pg_qwen_embed.postgres.connection import connect_async

async def main():
    async with await connect_async(os.environ["PG_QWEN_EMBED_DATABASE_URL"], "test") as connection:
        await connection.execute("LISTEN heard")
        for payload in ("1", "ping"):
            await connection.execute(f"NOTIFY heard, '{payload}'")
        async for notification in connection.notifies():
            print(notification.payload)
            break

asyncio.run(main())
"""


@pytest.mark.parametrize(("folder", "heard"), [(POLLING.parent, "1"), (POLLING, "ping")])
def test_a_process_hears_notifications_unless_they_are_swallowed(harness: Harness, folder: Path, heard: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(folder), "PG_QWEN_EMBED_DATABASE_URL": harness.url}
    command = [sys.executable, "-W", "ignore", "-c", HEARD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == (heard, "")
