"""Any order of changes and faults ends in step: a state machine against a real PostgreSQL and the real worker."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from rig import Cluster, Process, Rig, eventually
from stand_in import StandIn

KEYS = st.integers(1, 6)  # few, so that changes meet
TEXTS = st.one_of(st.none(), st.sampled_from(["", " \u3000", "POISON"]), st.integers(0, 99).map("text {}".format))
FAULTS = st.sampled_from(["503", "500", "html", "nan", "too_few", "index_twice", "hang"])
UPSERT = "INSERT INTO {} VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
TABLES = ("articles", "own")


class Following(RuleBasedStateMachine):
    """Two embeddings, one of them in a column; a writer that commits late; a worker; a server."""

    cluster: ClassVar[Cluster]
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        url = self.stack.enter_context(self.cluster.database())
        self.server = self.stack.enter_context(StandIn().running())
        self.server.poison = "POISON"
        inner = self.stack.enter_context(ExitStack())
        self.rig = Rig(url, self.server, self.folder, inner)
        for table, kind in zip(TABLES, ("table", "column"), strict=True):
            self.rig.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text)")
            self.rig.ok("attach", table, "--text", "body", "--store", kind)
        self.late = self.rig.connect(autocommit=False)
        self.late_open = False
        self.worker = self.start_worker()

    def start_worker(self) -> Process:
        return self.rig.worker("--poll", "0.5", "--request-timeout", "0.5")

    @rule(table=st.sampled_from(TABLES), key=KEYS, text=TEXTS)
    def upsert(self, table: str, key: int, text: str | None) -> None:
        if not self.late_open:
            self.rig.execute(UPSERT.format(table), key, text)

    @rule(table=st.sampled_from(TABLES), key=KEYS)
    def delete(self, table: str, key: int) -> None:
        if not self.late_open:
            self.rig.execute(f"DELETE FROM {table} WHERE id = %s", key)

    @rule(table=st.sampled_from(TABLES), key=KEYS, to=KEYS)
    def change_key(self, table: str, key: int, to: int) -> None:
        if not self.late_open:
            free = f"NOT EXISTS (SELECT FROM {table} WHERE id = %s)"
            self.rig.execute(f"UPDATE {table} SET id = %s WHERE id = %s AND {free}", to, key, to)

    @precondition(lambda self: not self.late_open)
    @rule(table=st.sampled_from(TABLES))
    def truncate(self, table: str) -> None:
        self.rig.execute(f"TRUNCATE {table}")

    @rule(table=st.sampled_from(TABLES), key=KEYS, text=TEXTS)
    def write_and_commit_later(self, table: str, key: int, text: str | None) -> None:
        self.late.execute(UPSERT.format(table), (key, text))
        self.late_open = True

    @precondition(lambda self: self.late_open)
    @rule(commit=st.booleans())
    def end_late_transaction(self, commit: bool) -> None:
        self.late.commit() if commit else self.late.rollback()
        self.late_open = False

    @rule()
    def kill_the_worker(self) -> None:
        self.worker.popen.kill()
        self.worker.popen.wait()
        self.worker = self.start_worker()

    @rule(fault=FAULTS)
    def break_the_server(self, fault: str) -> None:
        self.server.fault = fault

    @rule()
    def mend_the_server(self) -> None:
        self.server.fault = None

    @rule(table=st.sampled_from(TABLES))
    def repair(self, table: str) -> None:
        self.rig.ok("verify", table, "--repair")

    @rule()
    def cut_connections(self) -> None:
        self.rig.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'pg_qwen_embed worker%%'"
        )

    @invariant()
    def worker_runs(self) -> None:
        assert self.worker.popen.poll() is None, self.worker.said

    def teardown(self) -> None:
        try:
            self.end_late_transaction(commit=True)
            self.server.fault = self.server.poison = None
            for table in TABLES:
                eventually(lambda table=table: self.at_rest(table))  # type: ignore[misc]
                self.rig.assert_in_step(name=table)
        finally:
            self.stack.close()

    def at_rest(self, table: str) -> bool:
        self.rig.ok("failures", "retry", table)
        return self.rig.settled(table) and not self.rig.count("failure", table) and not self.rig.drift(table)[0]


def test_any_order_of_changes_and_faults_ends_in_step(clusters: Callable[[int], Cluster], tmp_path: Path) -> None:
    Following.cluster, Following.folder = clusters(18), tmp_path
    run_state_machine_as_test(
        Following,
        settings=settings(
            max_examples=6,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
