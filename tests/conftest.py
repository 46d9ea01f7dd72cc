"""Servers are started once for each process of the tests; each test has a database of its own in them."""

from __future__ import annotations

import importlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:  # the fixtures import when they are used: the unit tests need none of it
    from harness import Cluster, Harness

NEWEST = 18
collect_ignore = [] if "SGLANG_PYTHON" in os.environ else ["contract"]  # see `make test-sglang`

# No deadline: on a busy machine an example may take long for no reason of its own.
hypothesis.settings.register_profile("suite", max_examples=60, deadline=None, database=None)
# `make unit` draws fewer, to answer at once; `make test` draws them all.
hypothesis.settings.register_profile("quick", max_examples=10, deadline=None, database=None)
hypothesis.settings.load_profile("suite")


POLL = "0.05"  # seconds
# Modules whose commands and worker run as roles with the rights that `sql grants` prints, but for tests that are marked with
# `superuser`, because they create roles or break what only a superuser can. `pytest --roles` takes every module so.
AS_ROLES = {
    "test_altered_source", "test_async_client", "test_bad_rows", "test_balancer", "test_binary", "test_blank",
    "test_chunk_reuse", "test_chunking", "test_doctor_vectors", "test_evaluate", "test_failures", "test_fastapi",
    "test_filtered_words", "test_filters", "test_generations", "test_identity", "test_index_kinds", "test_indexes",
    "test_instructions", "test_keys", "test_local_server", "test_long_outbox", "test_many_embeddings", "test_post_processing",
    "test_queries_in_sql", "test_repair", "test_rerank", "test_search", "test_triggers", "test_truncation", "test_whole_way",
}  # fmt: skip


# Modules in which the variants on PostgreSQL 16 are `long`: what they test seldom differs between versions.
LONG_ON_16 = {
    "test_advisory_locks", "test_async_client", "test_database_faults", "test_django", "test_fastapi", "test_filtered_words",
    "test_filters", "test_functions", "test_gate", "test_index_kinds", "test_mcp", "test_migrations", "test_moves",
    "test_owners_of_sources", "test_queries_in_sql", "test_query_doctor", "test_query_form", "test_querying_page",
    "test_replication", "test_rerank", "test_row_level_security", "test_schemas", "test_server_faults", "test_sqlalchemy",
    "test_view", "test_word_search", "test_worker_life",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        variant = getattr(item, "callspec", None)
        if variant and re.search(r"(^|-)16(-|$)", variant.id) and item.path.stem in LONG_ON_16:
            item.add_marker(pytest.mark.long)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--polling", action="store_true", help=f"swallow notifications; workers look every {POLL} s instead"
    )
    parser.addoption("--write-mistakes", action="store_true", help="write docs/mistakes.md again")
    parser.addoption("--roles", action="store_true", help="run commands and worker as roles of least privilege")


def pytest_configure(config: pytest.Config) -> None:
    """Told to stop, leave through the fixtures, which stop the servers."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    signal.signal(signal.SIGTERM, interrupt)
    os.environ.setdefault("TESTS_FORK", "1")  # for Harness.worker
    if config.getoption("polling"):
        _swallow_notifications()


def _swallow_notifications() -> None:
    """In this process, and in those that it starts."""
    module = importlib.import_module("polling.sitecustomize")
    folders = [str(Path(str(module.__file__)).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    os.environ["TESTS_POLL"] = POLL


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[int], Cluster]]:
    """PostgreSQL by its version, started when it is first asked for."""
    from harness import cluster

    with ExitStack() as stack:
        yield cache(lambda version: stack.enter_context(cluster(version)))


@pytest.fixture
def postgres_version(request: pytest.FixtureRequest) -> int:
    return int(getattr(request, "param", NEWEST))


@pytest.fixture
def postgres(clusters: Callable[[int], Cluster], postgres_version: int) -> Cluster:
    return clusters(postgres_version)


@pytest.fixture
def harness(request: pytest.FixtureRequest, postgres: Cluster, tmp_path: Path) -> Iterator[Harness]:
    """A database on which `init` has run, and an embedding server."""
    from fake_sglang import FakeSGLang
    from harness import Harness

    by_roles = request.config.getoption("roles") or request.module.__name__ in AS_ROLES
    if by_roles and not request.node.get_closest_marker("superuser"):
        yield request.getfixturevalue("of_roles")
        return
    with postgres.database() as url, FakeSGLang().running() as server, ExitStack() as stack:
        yield Harness(url, server, tmp_path, stack)


@pytest.fixture
def of_roles(postgres: Cluster, tmp_path: Path) -> Iterator[Harness]:
    """The same with three roles of least privilege: the owner has the tables, runs SQL and commands."""
    from fake_sglang import FakeSGLang
    from harness import WORKER, Harness, as_role

    with postgres.database_of_roles() as url, FakeSGLang().running() as server, ExitStack() as stack:
        yield Harness(url, server, tmp_path, stack, worker_url=as_role(url, WORKER))


@pytest.fixture
def bare_database(postgres: Cluster) -> Iterator[str]:
    """The URL of a database that has nothing in it."""
    with postgres.database("template1") as url:
        yield url


@pytest.fixture
def bare(bare_database: str, tmp_path: Path) -> Iterator[Harness]:
    """The same with an embedding server and the command line."""
    from fake_sglang import FakeSGLang
    from harness import Harness

    with FakeSGLang().running() as server, ExitStack() as stack:
        yield Harness(bare_database, server, tmp_path, stack)
