"""After any order of changes, commands about generations and faults, every generation that is kept has every vector right."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, Process, cluster, eventually, restart, sentence
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from other_model import OtherModel

from pg_qwen_embed.domain.embedding import Target

KEYS = st.integers(1, 6)  # few, so that changes meet
TEXTS = st.one_of(st.none(), st.sampled_from(["", "POISON"]), st.integers(0, 99).map("text {}".format))
OPTIONS = st.sampled_from([
    ("--dimensions", "8"), ("--dimensions", "16"), ("--model", "other"), ("--model", "stand-in"),
    ("--model", "other", "--dimensions", "8"), ("--text", "title"), ("--text", "body"), ("--chunk-tokens", "20"),
    ("--chunk-tokens", "0"), ("--template", "{title} {body}"),
])  # fmt: skip
COMMANDS = st.sampled_from(
    [("complete",), ("complete", "--force"), ("rollback",), ("rollback", "--force"), ("drop", "--yes")]
)
UPSERT = """INSERT INTO articles VALUES (%s, %s, %s)
            ON CONFLICT (id) DO UPDATE SET body = excluded.body, title = excluded.title"""
DOCUMENTS = {("body",): "body", ("title",): "title", ("title", "body"): "concat(title, ' ', body)"}


class Generations(RuleBasedStateMachine):
    """An embedding whose generations come and go; two workers; the servers of two models."""

    cluster: ClassVar[Cluster]
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        url = self.stack.enter_context(self.cluster.database())
        self.servers: dict[str, FakeSGLang] = {
            "stand-in": self.stack.enter_context(FakeSGLang().running()),
            "other": self.stack.enter_context(OtherModel().running()),
        }
        for server in self.servers.values():
            server.poison = "POISON"
        self.inner = self.stack.enter_context(ExitStack())
        self.started: tuple[str, ...] = ()
        self.open(url)
        self.harness.execute("CREATE TABLE articles (id int PRIMARY KEY, body text, title text)")
        self.workers = [self.start_worker() for _ in range(2)]

    @initialize(store=st.sampled_from(["table", "column"]))
    def attach(self, store: str) -> None:
        self.harness.ok("attach", "articles", "--text", "body", "--model", "stand-in", "--store", store)
        self.harness.execute("CHECKPOINT")  # commits do not wait for the disk here, and the first thing may be a crash

    def open(self, url: str) -> None:
        self.harness = Harness(url, self.servers["stand-in"], self.folder, self.inner)
        urls = ",".join(server.url for server in self.servers.values())
        self.harness.environment["PG_QWEN_EMBED_SERVER_URL"] = urls

    def start_worker(self) -> Process:
        worker = self.harness.worker("--poll", "0.5", "--request-timeout", "0.5")
        eventually(lambda: "connected " in worker.said)
        return worker

    @rule(key=KEYS, body=TEXTS, title=TEXTS)
    def upsert(self, key: int, body: str | None, title: str | None) -> None:
        self.harness.execute(UPSERT, key, body, title)

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        self.harness.execute("DELETE FROM articles WHERE id = %s", key)

    @rule(key=KEYS, to=KEYS)
    def change_key(self, key: int, to: int) -> None:
        free = "NOT EXISTS (SELECT FROM articles WHERE id = %s)"
        self.harness.execute(f"UPDATE articles SET id = %s WHERE id = %s AND {free}", to, key, to)

    @rule()
    def truncate(self) -> None:
        self.harness.execute("TRUNCATE articles")

    @rule(options=OPTIONS)
    def start(self, options: tuple[str, ...]) -> None:
        self.done_or_one_sentence("start", *options)
        self.started = options

    @rule(options=OPTIONS, seconds=st.floats(0.1, 0.6))
    def kill_a_command_that_starts(self, options: tuple[str, ...], seconds: float) -> None:
        command = self.harness.process("generation", "start", "articles", *options, fork=True)
        time.sleep(seconds)  # somewhere in the middle, or before or after it
        command.popen.kill()
        command.popen.wait()
        self.started = options

    @rule(command=COMMANDS)
    def command(self, command: tuple[str, ...]) -> None:
        self.done_or_one_sentence(*command)

    @rule(command=COMMANDS)
    def wait_until_it_is_built_and_command(self, command: tuple[str, ...]) -> None:
        if all(server.fault is None for server in self.servers.values()):
            eventually(self.no_backfill_goes_on)
        self.done_or_one_sentence(*command)

    @rule(options=OPTIONS)
    def change_to(self, options: tuple[str, ...]) -> None:
        """All the way, where nothing is in the way."""
        for server in self.servers.values():
            server.fault = None
        self.done_or_one_sentence("drop", "--yes")
        self.start(options)
        eventually(self.no_backfill_goes_on)
        self.done_or_one_sentence("complete")

    @rule(number=st.integers(0, 1))
    def kill_a_worker(self, number: int) -> None:
        self.workers[number].popen.kill()
        self.workers[number].popen.wait()
        self.workers[number] = self.start_worker()

    @rule(model=st.sampled_from(["stand-in", "other"]), fault=st.sampled_from(["503", "500", "hang", None]))
    def break_a_server(self, model: str, fault: str | None) -> None:
        self.servers[model].fault = fault

    @rule()
    def restart_postgres(self) -> None:
        self.harness.connection.close()
        restart(self.cluster.url)
        self.open(self.harness.url)

    @rule()
    def repair(self) -> None:
        self.harness.ok("verify", "articles", "--repair")

    @invariant()
    def workers_run(self) -> None:
        for worker in self.workers:
            assert worker.popen.poll() is None, worker.said

    @invariant()
    def one_generation_is_live(self) -> None:
        states = [state for (state,) in self.harness.rows("SELECT state FROM _qwen_embed.generation")]
        assert [states.count(state) <= 1 for state in ("building", "retired")] == [True, True]
        assert states.count("live") <= 1
        assert states.count("live") or not states

    def done_or_one_sentence(self, command: str, *options: str) -> None:
        result = self.harness.cli("generation", command, "articles", *options)
        if result.exit_code:
            sentence(result)

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.harness.ok("generation", "status", "articles", "--json"))
        return found

    def no_backfill_goes_on(self) -> bool:
        return all(one["backfill"]["state"] in ("done", "none") for one in self.status())

    def teardown(self) -> None:
        try:
            for server in self.servers.values():
                server.fault = server.poison = None
            if self.started:
                self.done_or_one_sentence("start", *self.started)  # it goes on where it was killed
            eventually(self.at_rest)
            for target in self.harness.embedding().targets:
                self.assert_right(target)
            (one,) = json.loads(self.harness.ok("status", "articles", "--json"))
            assert one["missing"] == []
            self.harness.server = self.servers[self.harness.embedding().live.spec.model]
            self.harness.assert_in_step(self.document(self.harness.embedding().target))
        finally:
            self.stack.close()

    def at_rest(self) -> bool:
        for one in self.status():
            self.harness.ok("failures", "retry", "articles", "--generation", str(one["id"]))
        found = self.status()
        unsettled = any(one["pending"] or one["failures"] for one in found)
        return self.no_backfill_goes_on() and not unsettled and not self.harness.drift()[0]

    def document(self, target: Target) -> str:
        return DOCUMENTS[target.template.columns]

    def assert_right(self, target: Target) -> None:
        """No document of the test is longer than a chunk."""
        document, spec = self.document(target), target.spec
        store = f"_qwen_embed.store_{target.id}"
        vector = f"t.{target.source_column}" if spec.layout == "column" else "s.embedding"
        rows = self.harness.rows(
            f"SELECT t.id, {document}, {vector}::text FROM articles t FULL JOIN {store} s ON s.k1 = t.id "
            f"WHERE {document} ~ '\\S' OR s.fingerprint IS NOT NULL"
        )
        for key, text, vector in rows:
            assert key is not None, f"generation {target.id} has a vector that is left over"
            assert vector is not None, f"generation {target.id} lacks the vector of {text!r}"
            expected = self.servers[spec.model].vector(text, spec.dimensions)
            np.testing.assert_allclose(np.array(json.loads(vector), np.float32), expected, atol=2e-3, err_msg=text)


@pytest.mark.long
def test_any_order_of_generations_and_faults_ends_in_step(tmp_path: Path) -> None:
    with cluster(18) as Generations.cluster:  # its own, to be restarted
        Generations.folder = tmp_path
        run_state_machine_as_test(
            Generations,
            settings=settings(
                max_examples=4,
                stateful_step_count=24,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                phases=[Phase.generate],  # a failure is reported with its steps; shrinking them would take very long
            ),
        )
