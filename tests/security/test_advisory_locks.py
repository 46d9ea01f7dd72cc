"""A role that may connect, and nothing else, takes our advisory locks: it is told from a worker, with what ends its session."""

import json
import re
from collections.abc import Iterator

import psycopg
import pytest
from attacker import Attacker, attacker
from harness import Harness, both_versions, eventually

from pg_qwen_embed.admin import transaction
from pg_qwen_embed.postgres.locks import MIGRATION, Lock
from pg_qwen_embed.worker.leadership import READER_NAME

FORGED = READER_NAME + "\x1b[2J\r\nleader"


@pytest.fixture
def stranger(harness: Harness) -> Iterator[Attacker]:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with attacker(harness) as found:
        found.connection.execute("SELECT set_config('application_name', %s, false)", [FORGED])
        yield found


def take(stranger: Attacker, lock: Lock, id_: int = 1) -> int:
    """Returns the pid of the session that holds it."""
    stranger.connection.execute("SELECT pg_advisory_lock(%s, %s)", [int(lock), id_])
    return stranger.connection.info.backend_pid


def ends_with(said: str, pid: int) -> str:
    (command,) = set(re.findall(rf"run: (SELECT pg_terminate_backend\({pid}\))", said))
    return str(command)


@both_versions
@pytest.mark.long
def test_stranger_with_the_leader_lock_is_no_leader(harness: Harness, stranger: Attacker) -> None:
    pid = take(stranger, Lock.LEADER)
    worker = harness.worker("--poll", "0.2")
    sentence = f"pid {pid} of the role {stranger.role}"
    eventually(lambda: sentence in worker.said)
    assert "may not write the registry" in worker.said
    said = harness.ok("status")
    assert "leader none" in said
    assert f"{sentence}, which calls itself {READER_NAME}" in said
    assert "the leader lock: no worker can lead" in said
    assert "\x1b" not in said + worker.said
    (one,) = json.loads(harness.ok("status", "--json"))
    assert one["leader"] is None
    assert len(one["strangers"]) == 1
    doctor = harness.cli("doctor").stdout
    assert sentence in doctor
    assert "followed by no worker" in doctor
    harness.execute(ends_with(doctor, pid))
    eventually(harness.settled)
    assert worker.end() == 0
    assert json.loads(harness.ok("status", "--json"))[0]["strangers"] == []


@pytest.mark.parametrize("shared", [True, False])
def test_stranger_with_the_lock_of_the_store_is_named(harness: Harness, stranger: Attacker, shared: bool) -> None:
    function = "pg_advisory_lock_shared" if shared else "pg_advisory_lock"
    stranger.connection.execute(f"SELECT {function}(%s, 1)", [int(Lock.STORE)])
    said = harness.ok("status")
    assert "the lock of the store: no vector is written" in said
    harness.execute(ends_with(said, stranger.connection.info.backend_pid))
    harness.once()
    harness.assert_in_step()


def test_stranger_reports_no_model_mismatch(harness: Harness, stranger: Attacker) -> None:
    take(stranger, Lock.MODEL_MISMATCH)
    (one,) = json.loads(harness.ok("status", "--json"))
    assert one["model_mismatch"] is False
    assert "the lock that reports a model mismatch" in one["strangers"][0]


def test_writer_that_holds_its_gate_is_no_stranger(harness: Harness, stranger: Attacker) -> None:
    harness.execute(f"GRANT INSERT ON articles TO {stranger.role}")
    with stranger.connection.transaction():
        stranger.execute("INSERT INTO articles VALUES (2, 'two')")
        assert json.loads(harness.ok("status", "--json"))[0]["strangers"] == []
    take(stranger, Lock.GATE)
    assert "the gate: each transaction" in harness.ok("status")


def test_prepared_transaction_of_a_stranger_is_named(harness: Harness, stranger: Attacker) -> None:
    stranger.execute("BEGIN")
    stranger.connection.execute("SELECT pg_advisory_xact_lock(%s, 1)", [int(Lock.LEADER)])
    stranger.execute("PREPARE TRANSACTION 'mine'")
    said = harness.ok("status")
    assert f"a prepared transaction of the role {stranger.role}" in said
    assert "leader none" in said
    harness.execute(re.findall(r"run: (ROLLBACK PREPARED 'mine')", said)[0])
    assert json.loads(harness.ok("status", "--json"))[0]["strangers"] == []


@pytest.mark.parametrize(
    "command",
    [("detach", "articles", "--yes"), ("alter", "articles", "--sql", "ALTER TABLE articles ADD c int"),
     ("verify", "articles", "--repair")],
)  # fmt: skip
def test_command_whose_lock_a_stranger_holds_says_so(
    harness: Harness, stranger: Attacker, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "LOCK_TIMEOUT", "50ms")
    (number,) = stranger.connection.execute("SELECT hashtext('articles')").fetchone() or (0,)
    pid = take(stranger, Lock.OBJECTS, number)
    said = harness.refused(*command)
    assert f"pid {pid} of the role {stranger.role}" in said
    assert "alter, detach and verify --repair cannot begin" in said
    assert "\x1b" not in said
    harness.execute(ends_with(said, pid))
    harness.ok(*command)


@pytest.mark.long
def test_init_waits_five_seconds_for_a_stranger_and_names_it(harness: Harness, stranger: Attacker) -> None:
    harness.execute("UPDATE _qwen_embed.alembic_version SET version_num = version_num")
    stranger.connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATION])
    said = harness.refused("init")
    pid = stranger.connection.info.backend_pid
    assert "another session holds the lock of init, and nothing was changed" in said
    assert f"pid {pid} of the role {stranger.role}" in said
    assert f"the lock of init is held by pid {pid}" in harness.cli("doctor").stdout
    harness.execute(ends_with(said, pid))
    assert "already at version" in harness.ok("init")


def test_role_that_may_connect_ends_no_session_of_ours(harness: Harness, stranger: Attacker) -> None:
    worker = harness.worker()
    eventually(harness.settled)
    (pid,) = {pid for (pid,) in harness.rows("SELECT pid FROM pg_stat_activity WHERE application_name = %s", READER_NAME)
              if pid != stranger.connection.info.backend_pid}  # fmt: skip
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stranger.connection.execute("SELECT pg_terminate_backend(%s)", [pid])
    assert worker.end() == 0
