"""The FastAPI application, run by uvicorn as a user runs it, and asked over HTTP."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness import READER, Harness, as_role, both_versions, eventually

ROOT = Path(__file__).parents[2]
APPLICATION = ROOT / "tests" / "applications" / "fastapi_app"
PAGE = ROOT / "docs" / "fastapi.md"
DISHES = ["gazpacho, a cold soup", "onion soup", "apple pie", "fish stew"]


@pytest.fixture
def kitchen(harness: Harness) -> Harness:
    (table,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    harness.execute(table)
    harness.many("INSERT INTO recipes VALUES (%s, %s, %s)", [(n, dish, 20 * n) for n, dish in enumerate(DISHES, 1)])
    harness.ok("attach", "recipes", "--text", "title", "--grant-to", READER)
    harness.execute(f"GRANT SELECT ON recipes TO {READER}")
    harness.once()
    return harness


@pytest.fixture
def site(kitchen: Harness) -> Iterator[tuple[Harness, httpx.Client, subprocess.Popen[bytes]]]:
    """The harness, a client of the site, and its process."""
    log = kitchen.folder / "uvicorn.log"
    own = kitchen.variables | {"PG_QWEN_EMBED_DATABASE_URL": as_role(kitchen.url, READER)}
    environment = {name: value for name, value in (os.environ | own).items() if value is not None}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "uvicorn", "app:app", "--port", "0"],
            cwd=APPLICATION, env=environment, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        running = re.compile(r"running on (http://\S+)")
        found = eventually(lambda: running.search(log.read_text()) or _ended(process, log))
        with httpx.Client(base_url=found[1], timeout=60, trust_env=False) as client:
            yield kitchen, client, process
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def _ended(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.poll() is None, log.read_text()


def test_the_page_shows_the_application() -> None:
    assert f"```python\n{(APPLICATION / 'app.py').read_text()}```" in PAGE.read_text()


@both_versions
def test_recipes_are_searched_over_http(site: tuple[Harness, httpx.Client, subprocess.Popen[bytes]]) -> None:
    harness, client, process = site
    found = client.get("/recipes", params={"q": "onion soup"}).raise_for_status().json()
    assert found[0] == {"id": 2, "title": "onion soup", "minutes": 40, "distance": pytest.approx(0, abs=1e-3)}
    assert len(found) == 4
    quick = client.get("/recipes", params={"q": "onion soup", "minutes": 45, "limit": 5}).json()
    assert {one["id"] for one in quick} == {1, 2}
    for wrong in ({"q": "  "}, {"q": "x", "limit": 0}, {"q": "x", "minutes": "1; DROP TABLE recipes"}, {}):
        assert client.get("/recipes", params=wrong).status_code == 422
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    name = "pg_qwen_embed client"
    eventually(lambda: not harness.rows("SELECT FROM pg_stat_activity WHERE application_name = %s", name))


def test_many_requests_at_once_are_answered(site: tuple[Harness, httpx.Client, subprocess.Popen[bytes]]) -> None:
    _, client, _ = site

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60, trust_env=False) as asking:
            answers = await asyncio.gather(*(asking.get("/recipes", params={"q": f"dish {n}"}) for n in range(40)))
        return [len(answer.raise_for_status().json()) for answer in answers]

    assert asyncio.run(ask()) == [4] * 40


def test_what_is_away_is_503_and_is_used_again_when_it_is_back(
    site: tuple[Harness, httpx.Client, subprocess.Popen[bytes]],
) -> None:
    harness, client, _ = site
    assert client.get("/recipes", params={"q": "soup"}).status_code == 200
    harness.server.fault = "503"
    away = client.get("/recipes", params={"q": "pie"})
    assert (away.status_code, away.json()) == (503, {"detail": "search is not available now"})
    harness.server.fault = None
    assert client.get("/recipes", params={"q": "pie"}).status_code == 200
    harness.server.poison = "long"
    assert client.get("/recipes", params={"q": "long"}).json() == {"detail": "the query is too long"}
