"""Unit tests do no I/O: a guard fails a test that opens a socket, starts a process or opens a foreign file.

Python calls an audit hook before each of these. A hook cannot be removed, so this one does nothing between tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
READABLE = tuple(map(os.path.realpath, (ROOT / "pg_qwen_embed", ROOT / "tests", sys.base_prefix, sys.prefix)))
FORBIDDEN = {"socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn"}
_watched: list[str] = []  # the tests that run now: one or none


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and (event in FORBIDDEN or (event == "open" and not _may_open(*arguments))):
        raise RuntimeError(f"a unit test does I/O: {event} {arguments}")


def _may_open(path: object, mode: object, flags: int) -> bool:
    """Whether a file is Python's or this package's. Python keeps what it compiles, and hypothesis Unicode data."""
    if isinstance(path, int) or not isinstance(path, str | bytes | os.PathLike):
        return True
    name = os.path.realpath(os.fsdecode(path))
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    return (
        ".hypothesis" in name
        or "__pycache__" in name
        or (not writes and name.startswith(READABLE))
        or name == os.devnull
    )


sys.addaudithook(_guard)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    _watched.append(item.nodeid)
    try:
        return (yield)
    finally:
        _watched.remove(item.nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """libpq does not call the hook, so no unit test may have a fixture that starts PostgreSQL."""
    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in ours:
        if "clusters" in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} has a database; it belongs to tests/integration")
