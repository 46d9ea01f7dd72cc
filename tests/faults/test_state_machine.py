"""After any order of changes and faults the vectors match: a state machine with a real PostgreSQL and real workers."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import hypothesis.strategies as st
import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, Process, cluster, eventually, restart, setting
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from proxy import Proxy
from psycopg.conninfo import make_conninfo

KEYS = st.integers(1, 6)  # few, so that changes meet
TEXTS = st.one_of(st.none(), st.sampled_from(["", " \u3000", "POISON"]), st.integers(0, 99).map("text {}".format))
FAULTS = st.sampled_from(["503", "500", "html", "nan", "too_few", "index_twice", "hang"])
UPSERT = "INSERT INTO {} VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
TABLES = ("articles", "own")
WORKERS = st.integers(0, 1)


class Following(RuleBasedStateMachine):
    """Two embeddings, one of them in a column; a writer that commits late; two workers, one behind a proxy; a server."""

    cluster: ClassVar[Cluster]
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        socket = setting(self.cluster.url, "unix_socket_directories")
        self.proxy = self.stack.enter_context(Proxy(f"{socket}/.s.PGSQL.5432").running())
        url = self.stack.enter_context(self.cluster.database())
        self.server = self.stack.enter_context(FakeSGLang().running())
        self.server.poison = "POISON"
        inner = self.stack.enter_context(ExitStack())
        self.harness = Harness(url, self.server, self.folder, inner)
        for table, kind in zip(TABLES, ("table", "column"), strict=True):
            self.harness.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text)")
            self.harness.ok("attach", table, "--text", "body", "--store", kind)
        self.harness.execute("CHECKPOINT")  # commits do not wait for the disk here, and the first thing may be a crash
        self.late = self.harness.connect(autocommit=False)
        self.late_open = False
        self.workers = [self.start_worker(number) for number in range(2)]

    def start_worker(self, number: int) -> Process:
        """Start a worker, and wait until it has connected: one that never could ends with a message."""
        proxied = make_conninfo(self.harness.url, host="127.0.0.1", port=self.proxy.port)
        url = proxied if number else self.harness.url
        worker = self.harness.worker("--poll", "0.5", "--request-timeout", "0.5", "--database-url", url)
        eventually(lambda: "connected " in worker.said)
        return worker

    @rule(table=st.sampled_from(TABLES), key=KEYS, text=TEXTS)
    def upsert(self, table: str, key: int, text: str | None) -> None:
        if not self.late_open:
            self.harness.execute(UPSERT.format(table), key, text)

    @rule(table=st.sampled_from(TABLES), key=KEYS)
    def delete(self, table: str, key: int) -> None:
        if not self.late_open:
            self.harness.execute(f"DELETE FROM {table} WHERE id = %s", key)

    @rule(table=st.sampled_from(TABLES), key=KEYS, to=KEYS)
    def change_key(self, table: str, key: int, to: int) -> None:
        if not self.late_open:
            free = f"NOT EXISTS (SELECT FROM {table} WHERE id = %s)"
            self.harness.execute(f"UPDATE {table} SET id = %s WHERE id = %s AND {free}", to, key, to)

    @precondition(lambda self: not self.late_open)
    @rule(table=st.sampled_from(TABLES))
    def truncate(self, table: str) -> None:
        self.harness.execute(f"TRUNCATE {table}")

    @rule(table=st.sampled_from(TABLES), key=KEYS, text=TEXTS)
    def write_and_commit_later(self, table: str, key: int, text: str | None) -> None:
        self.late.execute(UPSERT.format(table), (key, text))
        self.late_open = True

    @precondition(lambda self: self.late_open)
    @rule(commit=st.booleans())
    def end_late_transaction(self, commit: bool) -> None:
        self.late.commit() if commit else self.late.rollback()
        self.late_open = False

    @rule(number=WORKERS)
    def kill_a_worker(self, number: int) -> None:
        if number and self.proxy.mode != "pass":
            return
        self.workers[number].popen.kill()
        self.workers[number].popen.wait()
        self.workers[number] = self.start_worker(number)

    @rule(number=WORKERS)
    def stop_a_worker_for_longer_than_its_requests_may_take(self, number: int) -> None:
        self.workers[number].popen.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        self.workers[number].popen.send_signal(signal.SIGCONT)

    @rule(mode=st.sampled_from(["pass", "delay", "swallow", "refuse"]))
    def disturb_the_proxy(self, mode: str) -> None:
        swallowed, self.proxy.mode = self.proxy.mode == "swallow", mode
        if swallowed or mode == "refuse":
            self.proxy.cut()

    @rule()
    def restart_postgres(self) -> None:
        self.late_open = False
        self.late.close()
        self.harness.connection.close()
        restart(self.cluster.url)
        self.harness = Harness(self.harness.url, self.server, self.folder, self.harness.stack)
        self.late = self.harness.connect(autocommit=False)

    @rule(fault=FAULTS)
    def break_the_server(self, fault: str) -> None:
        self.server.fault = fault

    @rule()
    def mend_the_server(self) -> None:
        self.server.fault = None

    @rule(table=st.sampled_from(TABLES))
    def repair(self, table: str) -> None:
        self.harness.ok("verify", table, "--repair")

    @rule(table=st.sampled_from(TABLES), to=st.integers(1, 20))
    def set_the_sequence_back(self, table: str, to: int) -> None:
        outbox = self.harness.internal("outbox", table)
        self.harness.execute("SELECT setval(pg_get_serial_sequence(%s, 'seq'), %s)", outbox, to)

    @rule()
    def sever_connections(self) -> None:
        self.harness.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'pg_qwen_embed worker%%'"
        )

    @invariant()
    def workers_run(self) -> None:
        for worker in self.workers:
            assert worker.popen.poll() is None, worker.said

    def teardown(self) -> None:
        try:
            self.end_late_transaction(commit=True)
            self.server.fault = self.server.poison = None
            self.disturb_the_proxy("pass")
            for table in TABLES:
                eventually(lambda table=table: self.at_rest(table))  # type: ignore[misc]
                self.harness.assert_in_step(name=table)
        finally:
            self.stack.close()

    def at_rest(self, table: str) -> bool:
        self.harness.ok("failures", "retry", table)
        return (
            self.harness.settled(table)
            and not self.harness.count("failure", table)
            and not self.harness.drift(table)[0]
        )


@pytest.mark.long
def test_any_order_of_changes_and_faults_ends_in_step(tmp_path: Path) -> None:
    with cluster(18) as Following.cluster:  # its own, to be restarted
        Following.folder = tmp_path
        run_state_machine_as_test(
            Following,
            settings=settings(
                max_examples=6,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                phases=[Phase.generate],  # a failure is reported with its steps; shrinking them would take very long
            ),
        )
