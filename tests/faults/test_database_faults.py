"""PostgreSQL fails, each time in a real way. The worker recovers by itself, and nothing is lost."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fake_sglang import FakeSGLang
from harness import Cluster, Harness, cluster, eventually, postmaster, restart, setting, together
from proxy import Proxy
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_qwen_embed.postgres import embedded
from pg_qwen_embed.postgres.connection import pool as worker_pool
from pg_qwen_embed.postgres.locks import Lock

OUTBOX = "_qwen_embed.outbox_1"
OURS = "application_name LIKE 'pg_qwen_embed worker%' AND datname = current_database()"
LEADING = f"SELECT pid FROM pg_stat_activity WHERE {OURS} AND application_name ~ ': (lead and read|listen)$'"


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[tuple[Cluster, Harness]]:
    """A PostgreSQL for one test only, which it may break, with a database."""
    with cluster(18) as postgres, FakeSGLang().running() as server, ExitStack() as stack:
        url = make_conninfo(postgres.url, dbname="initialised")
        yield postgres, Harness(url, server, tmp_path, stack)


def config(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        (value,) = connection.execute("SELECT setting FROM pg_config WHERE name = %s", [name]).fetchone() or ("",)
    return str(value)


@contextmanager
def standby_of(url: str) -> Iterator[str]:
    """A hot standby of the server of this URL. Yields its URL for the same database."""
    data, tools = Path(setting(url, "data_directory")), Path(config(url, "BINDIR"))
    home = data.parent / "standby"
    home.mkdir()
    user = owner(data)
    if user is not None:
        shutil.chown(home, user)
    arguments = ["-D", str(home / "pg18"), "-d", make_conninfo(url, dbname="replication"), "-R", "-c", "fast"]
    subprocess.run([str(tools / "pg_basebackup"), *arguments], check=True, user=user)
    (home / "pg18" / ".s.PGSQL.5432.lock").unlink()  # it was in the data folder, and was copied
    with embedded.postgres(home, version=18) as standby:
        yield make_conninfo(standby, dbname=conninfo_to_dict(url)["dbname"])


def owner(data: Path) -> str | None:
    """The user that PostgreSQL runs as, if that is another: it does not run as root."""
    return data.owner() if os.geteuid() == 0 else None


def caught_up(primary: str, standby: str) -> bool:
    with psycopg.connect(primary) as one, psycopg.connect(standby) as other:
        (sent,) = one.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)
        (done,) = other.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [sent]).fetchone() or (False,)
    return bool(done)


@pytest.mark.long
def test_worker_follows_its_connection_string_to_the_standby_that_is_promoted(
    own_cluster: tuple[Cluster, Harness],
) -> None:
    _, harness = own_cluster
    primary = harness.url
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with standby_of(primary) as standby:
        hosts = ",".join(conninfo_to_dict(url)["host"] for url in (primary, standby))
        both = Harness(
            make_conninfo(primary, host=hosts, target_session_attrs="read-write"),
            harness.server,
            harness.folder,
            harness.stack,
        )
        worker = both.worker()
        eventually(both.settled)
        both.execute("INSERT INTO articles VALUES (2, 'two')")
        eventually(lambda: both.settled() and caught_up(primary, standby))
        os.kill(postmaster(primary), signal.SIGQUIT)
        with psycopg.connect(standby, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")
        after = Harness(both.url, harness.server, harness.folder, harness.stack)
        after.execute("UPDATE articles SET body = 'after the failover' WHERE id = 1")
        eventually(lambda: "after the failover" in harness.server.texts)
        eventually(after.settled)
        after.assert_in_step()
        assert worker.end() == 0, worker.said


@pytest.mark.long
def test_a_standby_answers_queries_in_sql_from_the_cache_alone(own_cluster: tuple[Cluster, Harness]) -> None:
    _, harness = own_cluster
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with standby_of(harness.url) as standby, harness.worker_here():
        query = "SELECT qwen_embed.embed_query('articles', %s)::text"
        eventually(harness.settled)
        harness.execute("SET pg_qwen_embed.query_timeout = '20s'")
        expected = harness.value(query, "known")
        with psycopg.connect(standby, autocommit=True) as connection:
            eventually(lambda: connection.execute("SELECT count(*) FROM _qwen_embed.query_cache").fetchone() == (1,))
            assert connection.execute(query, ["known"]).fetchone() == (expected,)
            with pytest.raises(psycopg.Error, match=r"this server is a standby.*Client\.embed_query"):
                connection.execute(query, ["new"])


def test_what_a_worker_has_written_when_it_ends_survives_a_crash(own_cluster: tuple[Cluster, Harness]) -> None:
    _, harness = own_cluster
    for lazy in ("wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'"):
        harness.execute(f"ALTER SYSTEM SET {lazy}")
    harness.execute("SELECT pg_reload_conf()")
    harness.articles("one", "two")
    harness.ok("attach", "articles", "--text", "body")
    harness.execute("CHECKPOINT")
    harness.once()
    restart(harness.url)
    again = Harness(harness.url, harness.server, harness.folder, harness.stack)
    assert again.settled()
    again.assert_in_step()


def test_standby_is_rejected_with_one_sentence(own_cluster: tuple[Cluster, Harness]) -> None:
    _, harness = own_cluster
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.once()
    with standby_of(harness.url) as standby:
        eventually(lambda: caught_up(harness.url, standby))
        there = {"PG_QWEN_EMBED_DATABASE_URL": standby}
        for command in (["init"], ["worker", "--once"], ["attach", "articles", "--text", "body", "--name", "two"],
                        ["detach", "articles", "--yes"], ["verify", "articles", "--repair"]):  # fmt: skip
            assert re.search("standby|recovery|read-only", harness.refused(*command, env=there)), command
        assert "one" in harness.ok("search", "articles", "one", env=there)
        assert "rows 1  vectors 1" in harness.ok("status", env=there)


def listening(harness: Harness) -> tuple[str, int]:
    """Restart PostgreSQL so that it listens on TCP too. Returns its address."""
    data = Path(setting(harness.url, "data_directory"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    pg_ctl = [str(Path(config(harness.url, "BINDIR")) / "pg_ctl"), "-w", "-D", str(data), "-l", os.devnull]
    subprocess.run([*pg_ctl, "restart", "-o", f"-h 127.0.0.1 -p {port} -k {data}"], check=True, user=owner(data))
    return "127.0.0.1", port


@pytest.mark.long
def test_worker_whose_machine_vanishes_leads_for_half_a_minute(own_cluster: tuple[Cluster, Harness]) -> None:
    """PostgreSQL's keepalives notice it; the kernel sends them as the worker's session settings say."""
    _, here = own_cluster
    host, port = listening(here)
    harness = Harness(make_conninfo(here.url, host=host, port=port), here.server, here.folder, here.stack)
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    with Proxy((host, port)).running() as proxy:
        far = Harness(make_conninfo(harness.url, port=proxy.port), harness.server, harness.folder, harness.stack)
        gone = far.worker()
        eventually(harness.settled)
        leading = [pid for (pid,) in harness.rows(LEADING)]
        harness.worker("--poll", "0.5")
        eventually(lambda: len(harness.rows(LEADING)) == 2 * len(leading))
        proxy.vanish()
        gone.end(signal.SIGKILL)
        harness.execute("INSERT INTO articles VALUES (2, 'two')")
        assert {(pid,) for pid in leading} < set(harness.rows(LEADING)), "PostgreSQL was told: this proves nothing"
        eventually(lambda: "two" in harness.server.texts, deadline=40)
        eventually(lambda: not {(pid,) for pid in leading} & set(harness.rows(LEADING)))
        eventually(harness.settled)
        harness.assert_in_step()


def test_too_many_connections_are_waited_out(own_cluster: tuple[Cluster, Harness]) -> None:
    _, harness = own_cluster
    harness.articles("one")
    harness.execute("CREATE ROLE limited LOGIN; GRANT ALL ON SCHEMA public, _qwen_embed, qwen_embed TO limited")
    harness.execute("GRANT ALL ON ALL TABLES IN SCHEMA _qwen_embed TO limited; ALTER TABLE articles OWNER TO limited")
    limited = Harness(
        harness.url.replace("user=postgres", "user=limited"), harness.server, harness.folder, harness.stack
    )
    limited.ok("attach", "articles", "--text", "body")
    worker = limited.worker()
    eventually(harness.settled)
    harness.execute("ALTER ROLE limited CONNECTION LIMIT 0")
    harness.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'limited'")
    harness.execute("INSERT INTO articles VALUES (2, 'two')")
    eventually(lambda: worker.said.count("too many connections") >= 2)
    harness.execute("ALTER ROLE limited CONNECTION LIMIT -1")
    eventually(lambda: harness.settled() and harness.count("store") == 2)
    limited.assert_in_step()
    assert worker.end() == 0


@pytest.mark.long
def test_disk_that_is_full_is_waited_out(own_cluster: tuple[Cluster, Harness]) -> None:
    """No file may grow beyond 17 MB, a little more than a WAL segment: the vectors cannot be written."""
    postgres, harness = own_cluster
    harness.server.dimensions = 4000
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(harness.settled)
    harness.execute("DROP INDEX _qwen_embed.store_1_hnsw")  # it would only slow down the test
    limit_files(postgres, 17 << 20)
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(2, 3000) n")
    eventually(lambda: "File too large" in worker.said, deadline=60)
    assert harness.count("outbox") > 0
    limit_files(postgres, "unlimited")
    eventually(harness.settled, deadline=60)
    assert harness.count("store") == 3000
    assert harness.count("failure") == 0
    assert harness.drift()[0] == 0
    assert worker.end() == 0


def limit_files(postgres: Cluster, size: int | str) -> None:
    """Limit the file size of PostgreSQL's processes, and of those that it starts later."""
    first, user = postmaster(postgres.url), owner(Path(setting(postgres.url, "data_directory")))
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    for pid in (str(first), *children):
        subprocess.run(["prlimit", "--pid", pid, f"--fsize={size}:unlimited"], check=pid == str(first), user=user)


@pytest.mark.parametrize("table", ["articles", "store"])
@pytest.mark.long
def test_statements_that_are_cancelled_are_tried_again(harness: Harness, table: str) -> None:
    """As by statement_timeout or an administrator: while a statement reads the source, and while one writes the store."""
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--poll", "0.2")
    eventually(harness.settled)
    cancel = f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {OURS} AND wait_event_type = 'Lock'"
    with harness.connect(autocommit=False) as holder:
        with harness.server.hold(lambda _: table == "store"):
            harness.execute("UPDATE articles SET body = 'two'")
            if table == "store":
                eventually(lambda: harness.server.waiting)
            holder.execute(
                f"LOCK TABLE {harness.internal('store') if table == 'store' else table} IN ACCESS EXCLUSIVE MODE"
            )
            harness.execute("SELECT 1")
        eventually(lambda: harness.rows(cancel))
        eventually(lambda: "canceling statement" in worker.said)
    eventually(harness.settled)
    harness.assert_in_step()
    assert worker.end() == 0


def test_deadlock_whose_victim_is_the_worker_is_tried_again(harness: Harness) -> None:
    """The application's session holds the source and waits for the worker, which waits for the source."""
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    eventually(harness.settled)
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {OURS}"
    advisory = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND NOT granted"
    while "deadlock" not in worker.said:
        with harness.connect(autocommit=False) as first, harness.connect(autocommit=False) as second:
            second.execute("SET deadlock_timeout = '10s'")
            with harness.server.hold(lambda _: True):
                harness.execute("UPDATE articles SET body = body || '.'")
                eventually(lambda: harness.server.waiting)
                first.execute(f"LOCK TABLE {harness.internal('store')} IN ACCESS EXCLUSIVE MODE")
                second.execute("LOCK TABLE articles IN ACCESS EXCLUSIVE MODE")
            eventually(lambda: harness.value(waiting))
            thread = threading.Thread(target=take, args=(second, Lock.STORE, harness.embedding().live.id))
            thread.start()
            eventually(lambda: harness.value(advisory, int(Lock.STORE)))
            first.rollback()
            thread.join()
            second.rollback()
    eventually(harness.settled)
    harness.assert_in_step()
    assert worker.end() == 0


def take(connection: psycopg.Connection[Any], lock: Lock, id_: int) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [int(lock), id_])


def test_vectors_that_a_crash_takes_back_are_made_again(own_cluster: tuple[Cluster, Harness]) -> None:
    """The worker's commits do not wait for the disk. A crash takes back those not on disk, and their acknowledgements."""
    postgres, harness = own_cluster
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker("--poll", "0.2")
    eventually(harness.settled)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        connection.execute("SELECT pg_reload_conf()")
    harness.execute("SET synchronous_commit = on")
    with harness.server.hold(lambda _: True):
        harness.execute("UPDATE articles SET body = 'two'")
        eventually(lambda: harness.server.waiting)
    eventually(lambda: harness.value("SELECT NOT stale FROM qwen_embed.articles"))
    with harness.server.hold(lambda texts: "two" in texts):
        restart(postgres.url)
        with harness.connect() as connection:
            stale = connection.execute("SELECT stale FROM qwen_embed.articles").fetchone()
            entries = connection.execute(f"SELECT count(*) FROM {OUTBOX}").fetchone()
        assert (stale, entries) == ((True,), (1,))
    with harness.connect() as connection:
        eventually(lambda: connection.execute("SELECT NOT stale FROM qwen_embed.articles").fetchone() == (True,))
    assert worker.end() == 0


def test_application_that_works_serializable_loses_no_change(harness: Harness) -> None:
    """The application's transactions fail and are tried again. The worker and its triggers cause no lasting failure."""
    harness.articles(*["0"] * 20)
    harness.execute(
        f"ALTER DATABASE {harness.value('SELECT current_database()')} SET default_transaction_isolation = serializable"
    )
    harness.ok("attach", "articles", "--text", "body")
    worker = harness.worker()
    failed: list[str] = []

    def write(number: int) -> None:
        with psycopg.connect(harness.url) as connection:
            for n in range(50):
                while True:
                    try:
                        connection.execute("UPDATE articles SET body = (SELECT sum(length(body)) FROM articles)::text || %s"
                                           " WHERE id = %s", (f".{n}", 1 + (n + number) % 20))  # fmt: skip
                        connection.commit()
                        break
                    except psycopg.errors.SerializationFailure as error:
                        failed.append(str(error))
                        connection.rollback()

    together([partial(write, number) for number in range(4)])
    assert failed, "no two met: this proves nothing"
    eventually(harness.settled)
    harness.assert_in_step()
    assert "serialize" not in worker.said
    assert worker.end() == 0


@dataclass
class Load:
    """Writers that give up on a lock after twice the timeout of attach, and on a deadlock at once."""

    url: str
    over: threading.Event = field(default_factory=threading.Event)
    written: list[int] = field(default_factory=lambda: [0] * 4)
    errors: list[psycopg.Error] = field(default_factory=list)

    def write(self, number: int) -> None:
        try:
            with psycopg.connect(self.url) as connection:
                connection.execute("SET lock_timeout = '4s'")
                connection.commit()
                while not self.over.is_set():
                    self._transaction(connection, number)
                    self.written[number] += 1
        except psycopg.Error as error:
            self.errors.append(error)

    def _transaction(self, connection: psycopg.Connection[Any], number: int) -> None:
        n = self.written[number]
        for table in ("articles", "others"):
            connection.execute(f"UPDATE {table} SET body = %s WHERE id = %s", (f"{number} {n}", 1 + n % 40))
            connection.execute(f"UPDATE {table} SET body = body || '.' WHERE id = %s", (41 + number,))
        time.sleep(0.2 if n % 10 == 0 else 0)  # sometimes a long one
        connection.commit()


@pytest.mark.long
def test_attach_and_detach_on_busy_tables_fail_no_writer(harness: Harness) -> None:
    """No writer waits longer than the lock timeout of attach or meets a deadlock, while a worker runs."""
    harness.articles(*["start"] * 50)
    harness.execute("CREATE TABLE others (LIKE articles INCLUDING ALL)")
    harness.execute("INSERT INTO others TABLE articles")
    worker, load = harness.worker(), Load(harness.url)

    def declare() -> None:
        try:
            for store in ("table", "column"):
                run(harness, "attach", store)
                before = sum(load.written)
                eventually(lambda before=before: sum(load.written) > before + 40 or load.errors)
                run(harness, "detach")
            run(harness, "attach", "table")
        finally:
            load.over.set()

    together([*(partial(load.write, number) for number in range(4)), declare])
    assert load.errors == []
    for name in ("articles", "others"):
        eventually(partial(harness.settled, name), deadline=60)
        harness.assert_in_step(name=name)
    assert worker.end() == 0


def run(harness: Harness, verb: str, store: str = "") -> None:
    """Run a command as a process, because the command line in this process is not for several threads.

    On a busy machine it may give up because an index build takes long; then it is run again, as its message says."""
    for table in ("articles", "others"):
        more = ("--text", "body", "--store", store) if verb == "attach" else ("--yes",)
        for _ in range(4):
            process = harness.process(verb, table, *more, fork=True)
            if process.popen.wait(60) == 0 or "try again later" not in process.said:
                break
        assert process.popen.returncode == 0, process.said


@pytest.mark.parametrize("moment", range(8))
async def test_cancellation_that_comes_with_the_connection_is_heeded(harness: Harness, moment: int) -> None:
    async with worker_pool(harness.url, "test", least=1, most=1) as pool:
        held = await pool.getconn()
        waiting = asyncio.create_task(pool.getconn())
        while not pool.get_stats().get("requests_waiting"):  # noqa: ASYNC110  # the pool has no event for it
            await asyncio.sleep(0)
        await pool.putconn(held)
        for _ in range(moment):  # steps of the event loop, which wake the waiting tasks one after the other
            await asyncio.sleep(0)
        came = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() or came
        if came:
            await pool.putconn(waiting.result())
        async with pool.connection(timeout=5) as connection:  # it was returned to the pool
            await connection.execute("SELECT 1")


@pytest.mark.long
def test_worker_whose_sessions_are_terminated_again_and_again_goes_on(harness: Harness) -> None:
    """Some sessions end in the moment in which the worker ends its session and cancels their statements."""
    for name in ("one", "two", "three"):
        harness.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, body text)")
        harness.execute(f"INSERT INTO {name} SELECT n, 'text ' || n FROM generate_series(1, 5) n")
        harness.ok("attach", name, "--text", "body")
    worker = harness.worker("--poll", "0.5")
    eventually(lambda: "connected" in worker.said)  # a worker that never was gives up
    some = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS} AND random() < 0.5"
    end = time.monotonic() + 8
    while time.monotonic() < end:
        for name in ("one", "two", "three"):
            harness.execute(f"UPDATE {name} SET body = 'text ' || random()")
        harness.execute(some)
        time.sleep(0.03)
    for name in ("one", "two", "three"):
        eventually(partial(harness.settled, name), deadline=60)
        assert harness.drift(name)[0] == 0
    assert worker.end() == 0
