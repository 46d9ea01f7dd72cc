"""The life of a Client: across a fork, after close(), and in a program that never closes it."""

import os
import subprocess
import sys
import threading

import psycopg
import pytest
from harness import Harness, eventually

from pg_qwen_embed import Client, UsageError

CLOSED = "this Client is closed; make a new one"
OPEN = "from pg_qwen_embed import Client; import os, sys; client = Client(sys.argv[1], server_url=sys.argv[2])\n"
FIND = "print(len(client.search('articles', 'two', 2)), flush=True)\n"
FORKED = """
pid = os.fork()
if pid == 0:
    {use}
    sys.exit(0)  # as web servers end their processes: with all that Python does at its end
print("status", os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture
def filled(harness: Harness) -> Harness:
    harness.articles("one", "two", "three")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    return harness


def program(harness: Harness, text: str) -> list[str]:
    """What a program prints, a line each. It must end by itself, with nothing on stderr."""
    command = [sys.executable, "-c", OPEN + text, harness.url, harness.server.url]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_client_that_was_used_before_a_fork_works_in_both_processes(filled: Harness) -> None:
    use = "; ".join([FIND.strip()] * 2)
    said = program(filled, FIND + FORKED.format(use=use) + FIND + "client.close()")
    assert said == ["2", "2", "2", "status 0", "2"]


def test_a_client_that_was_not_used_before_a_fork_works_in_both_processes(filled: Harness) -> None:
    assert program(filled, FORKED.format(use=FIND.strip()) + FIND) == ["2", "status 0", "2"]


@pytest.mark.long
def test_a_child_that_does_not_use_the_client_takes_nothing_from_its_parent(filled: Harness) -> None:
    """What it destroys at its end shares sockets and an epoll instance with the parent."""
    for use in ("pass", "del client; import gc; gc.collect()", "client.close()"):
        assert program(filled, FIND + FORKED.format(use=use) + FIND * 2) == ["2", "status 0", "2", "2"]


def test_a_child_of_a_child_works_too(filled: Harness) -> None:
    inner = FORKED.format(use=FIND.strip()).replace("\n", "\n    ")
    outer = f"\npid = os.fork()\nif pid == 0:{inner}\n    sys.exit(0)\nprint(os.waitpid(pid, 0)[1], flush=True)\n"
    assert program(filled, FIND + outer + FIND) == ["2", "2", "status 0", "0", "2"]


@pytest.mark.parametrize("end", ["", "del client\n", "client.close()\n", "raise SystemExit(0)\n"])
@pytest.mark.long
def test_a_program_that_does_not_close_its_client_ends_without_a_word(filled: Harness, end: str) -> None:
    assert program(filled, FIND + end) == ["2"]
    assert program(filled, end) == []


def test_a_closed_client_says_so(filled: Harness) -> None:
    for used in (True, False):
        client = Client(filled.url, server_url=filled.server.url)
        if used:
            assert client.search("articles", "two")
        client.close()
        client.close()
        for _ in range(2):
            with pytest.raises(UsageError, match=CLOSED):
                client.search("articles", "two")
            with pytest.raises(UsageError, match=CLOSED):
                client.embed_query("articles", "two")


def test_a_search_in_flight_ends_when_the_client_is_closed(filled: Harness) -> None:
    client = Client(filled.url, server_url=filled.server.url)
    client.search("articles", "two")
    filled.server.fault = "hang"
    said: list[str] = []

    def search() -> None:
        try:
            client.search("articles", "another")
        except UsageError as error:
            said.append(str(error))

    thread = threading.Thread(target=search)
    sent = len(filled.server.requests)
    thread.start()
    while len(filled.server.requests) == sent:
        pass
    client.close()
    thread.join(10)
    assert said == [CLOSED]


def test_a_query_that_ends_while_the_database_answers_leaves_no_warning(
    filled: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """psycopg warns of a request that is cancelled twice."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    client = Client(filled.url, server_url=filled.server.url)
    client.embed_query("articles", "two")
    filled.server.fault = "hang"
    sent = len(filled.server.requests)
    said: list[str] = []

    def embed() -> None:
        try:
            client.embed_query("articles", "another")
        except UsageError as error:
            said.append(str(error))

    with psycopg.connect(filled.url) as blocking:
        blocking.execute("LOCK _qwen_embed.embedding IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=embed)
        thread.start()
        eventually(lambda: len(filled.server.requests) > sent and filled.value(waiting) == 1)
        client.close()
        thread.join(10)
    assert said == [CLOSED]
    assert caplog.messages == []


def test_a_client_that_is_used_by_many_threads_at_first_opens_once(filled: Harness) -> None:
    with Client(filled.url, server_url=filled.server.url) as client:
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(len(client.search("articles", "x")))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [3] * 8
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("pg_qwen_embed client") == 1
