"""The text of a query inside a SELECT: qwen_embed.embed_query, as an application role with no other right calls it."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import psycopg
import pytest
from harness import DEADLINE, OWNER, WORKER, Harness, as_role, both_versions, eventually, versions_and_layouts
from pooler import Pooler
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION
from pg_qwen_embed.postgres import queries
from pg_qwen_embed.postgres.locks import BELL, DOOR, HEADER, SLOT, WORDS, Lock
from pg_qwen_embed.worker.query_batches import Doors, Query

Connection = psycopg.Connection[Any]
SEARCH = """
    SELECT a.id, a.title FROM articles a JOIN qwen_embed.articles e USING (id) WHERE a.likes > 10
    ORDER BY e.embedding <=> qwen_embed.embed_query('articles', %s) LIMIT 10
"""
LAYOUT_OPTIONS = {"table": [], "column": ["--store", "column"], "chunked": ["--chunk-tokens", "64"]}
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


def attach(harness: Harness, *arguments: str, rows: int = 30) -> None:
    harness.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, likes int)")
    harness.many("INSERT INTO articles VALUES (%s, %s, %s, %s)", [(n, f"t{n}", f"body {n}", n) for n in range(rows)])
    harness.ok("attach", "articles", "--text", "body", "--prompt-style", "qwen3", *arguments)


@contextmanager
def application(harness: Harness, *rights: str) -> Iterator[Connection]:
    """A session of a role that may use the public schema, read the table and the view, and nothing else."""
    role = f"app_{harness.value('SELECT current_database()')}"
    rights = rights or (
        f"GRANT USAGE ON SCHEMA qwen_embed TO {role}",
        f"GRANT SELECT ON articles, qwen_embed.articles TO {role}",
    )
    with psycopg.connect(as_role(harness.url, "postgres"), autocommit=True) as administrator:
        administrator.execute(f"CREATE ROLE {role} LOGIN")
        try:
            for right in rights:
                administrator.execute(right.format(role=role))
            with psycopg.connect(as_role(harness.url, role), autocommit=True) as connection:
                yield connection
        finally:
            administrator.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@contextmanager
def answering(harness: Harness, *arguments: str, **options: Any) -> Iterator[Connection]:
    """The same, while a worker follows the table."""
    attach(harness, *arguments)
    with harness.worker_here(**options), application(harness) as connection:
        eventually(harness.settled)
        eventually(lambda: answers(harness))
        yield connection


def answers(harness: Harness) -> bool:
    held = harness.value(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s", int(Lock.ANSWERS)
    )
    return bool(held)


def vector(connection: Connection, text: str, name: str = "articles") -> Any:
    row = connection.execute("SELECT qwen_embed.embed_query(%s, %s)::text", [name, text]).fetchone()
    assert row is not None
    return None if row[0] is None else np.array(json.loads(row[0]), np.float32)


def prompt(text: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    return f"Instruct: {instruction}\nQuery:{text}"


def refused(connection: Connection, text: str, name: str = "articles") -> str:
    """The one sentence with which a query fails. The session holds no lock afterwards."""
    with pytest.raises(psycopg.Error) as caught:
        vector(connection, text, name)
    connection.rollback()
    assert held(connection) == 0
    message = str(caught.value.diag.message_primary)
    assert "\n" not in message
    return message


def held(connection: Connection) -> int:
    row = connection.execute(LOCKS).fetchone()
    assert row is not None
    return int(row[0])


@versions_and_layouts
def test_a_role_with_the_view_alone_orders_by_the_text_of_a_query(harness: Harness, layout: str) -> None:
    with answering(harness, *LAYOUT_OPTIONS[layout]) as connection:
        for text in ("how do I reset my password", "中文, \N{PILE OF POO}, it's", "x" * 1000):
            expected = harness.server.vector(prompt(text), 16)
            for _ in "worker", "cache":
                np.testing.assert_allclose(vector(connection, text), expected, atol=2e-3)
        assert held(connection) == 0
        rows = connection.execute(SEARCH, ["how do I reset my password"]).fetchall()
        assert len(rows) == 10
        assert all(id_ > 10 for id_, _ in rows)
        assert [text for text in harness.server.texts if text.startswith("Instruct")] == [
            prompt(text) for text in ("how do I reset my password", "中文, \N{PILE OF POO}, it's", "x" * 1000)
        ]


@both_versions
def test_the_index_is_used_in_every_form_of_statement(harness: Harness) -> None:
    with answering(harness) as connection:
        harness.execute("ANALYZE")
        text = "how do I reset my password"

        def plan(query: str, *values: str) -> str:
            return str(connection.execute("EXPLAIN " + query, values).fetchall())

        assert "Index Scan using store_1_hnsw" in plan(SEARCH, text)
        subselect = SEARCH.replace(
            "qwen_embed.embed_query('articles', %s)", "(SELECT qwen_embed.embed_query('articles', %s))"
        )
        connection.execute("SET enable_sort = off")  # so few rows are sorted at less cost
        assert "Index Scan using store_1_hnsw" in plan(subselect, text)
        connection.execute("RESET enable_sort")
        connection.execute("SET default_transaction_read_only = on")
        assert len(connection.execute(SEARCH, [text]).fetchall()) == 10
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE s (text) AS {SEARCH.replace('%s', '$1')}")
        assert "Index Scan using store_1_hnsw" in str(connection.execute("EXPLAIN EXECUTE s ('new')").fetchall())
        assert len(connection.execute("EXECUTE s ('newer')").fetchall()) == 10
        with connection.transaction():
            with pytest.raises(psycopg.Error), connection.transaction():
                vector(connection, " ")
            with connection.transaction():
                assert vector(connection, "in a savepoint") is not None
            connection.execute(f"DECLARE c CURSOR FOR {SEARCH.replace('%s', repr('by a cursor'))}")
            assert len(connection.execute("FETCH 3 FROM c").fetchall()) == 3
            assert held(connection) == 0
        assert vector(connection, "x", None) is None  # type: ignore[arg-type]


def test_a_query_that_cannot_be_embedded_gets_one_sentence_with_the_way_out(harness: Harness) -> None:
    attach(harness)
    with application(harness) as connection:
        assert "no worker is there" in refused(connection, "x")
        assert "run: pg-qwen-embed worker" in refused(connection, "x")
    with answering_again(harness) as connection:
        assert "Client.embed_query" in refused(connection, "é" * 501)
        assert "1002 bytes" in refused(connection, "é" * 501)
        for blank in ("", " \n\t", "\N{IDEOGRAPHIC SPACE}"):
            assert "the query is blank" in refused(connection, blank)
        assert "there is no embedding 'others'" in refused(connection, "x", "others")
        assert "'articles'" in refused(connection, "x", "others")
        connection.execute("SET pg_qwen_embed.query_timeout = 'soon'")
        assert "it must be 1ms to 10min" in refused(connection, "x")
        connection.execute("SET pg_qwen_embed.query_timeout = '50ms'")
        with harness.server.hold(lambda texts: prompt("slow") in texts):
            assert "has not embedded the query within 0.050 s" in refused(connection, "slow")
        connection.execute("RESET pg_qwen_embed.query_timeout")
        vector(connection, "known")
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            connection.execute(f"BEGIN ISOLATION LEVEL {level}")
            assert vector(connection, "known") is not None
            assert level in refused(connection, "unknown")


@contextmanager
def answering_again(harness: Harness) -> Iterator[Connection]:
    with harness.worker_here(), application(harness) as connection:
        eventually(lambda: answers(harness))
        yield connection


def test_the_reason_of_the_embedding_server_reaches_the_session_that_asks(harness: Harness) -> None:
    with answering(harness) as connection:
        harness.server.poison = "poison"
        with ThreadPoolExecutor(2) as pool, harness.connect() as other:
            bad = pool.submit(refused, connection, "poison")
            assert vector(other, "good") is not None
            assert "the embedding server rejects the query" in bad.result()
        harness.server.poison = None
        assert vector(connection, "poison") is not None
        harness.server.fault = "500"
        assert "articles: the embedding server at" in (said := refused(connection, "other"))
        assert "The test wants it." in said
        began = time.monotonic()
        assert refused(connection, "another")
        assert time.monotonic() - began < 2  # without waiting for the timeout


def test_identical_queries_in_flight_are_embedded_once_and_those_found_together_in_one_request(
    harness: Harness,
) -> None:
    with answering(harness) as connection, ThreadPoolExecutor(6) as pool:
        sessions = [harness.connect() for _ in range(6)]
        connection.execute("SELECT 1")
        with harness.server.hold(lambda texts: any(text.startswith("Instruct") for text in texts)):
            asked = [pool.submit(vector, session, f"text {n % 2}") for n, session in enumerate(sessions)]
            requests = "SELECT count(*) FROM pg_locks WHERE classid = %s AND objid = 0"
            eventually(lambda: harness.value(requests, BELL) == 6)
            eventually(lambda: sum(len(texts) for texts in harness.server.waiting) == 2)
        for n, one in enumerate(asked):
            np.testing.assert_allclose(one.result(), harness.server.vector(prompt(f"text {n % 2}"), 16), atol=2e-3)
        assert sum(text.startswith("Instruct") for text in harness.server.texts) == 2


@pytest.mark.long
def test_a_query_is_answered_while_a_backfill_keeps_the_server_busy(harness: Harness) -> None:
    attach(harness, rows=3000)
    with harness.server.hold(lambda texts: texts[0].startswith("body")), answering_again(harness) as connection:
        eventually(lambda: harness.server.waiting)
        assert vector(connection, "meanwhile") is not None
        assert harness.server.waiting


def test_long_queries_of_many_sessions_take_a_share_of_the_lock_table_and_are_all_answered(harness: Harness) -> None:
    with answering(harness), ThreadPoolExecutor(10) as pool:
        sessions = [harness.connect() for _ in range(10)]
        placed = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint BETWEEN %s AND %s"
        with harness.server.hold(lambda texts: any("long" in text for text in texts)):
            for session in sessions:
                session.execute("SET pg_qwen_embed.query_timeout = '20s'")
            asked = [
                pool.submit(vector, session, f"long {n} " + n * "x" + 900 * "y") for n, session in enumerate(sessions)
            ]
            eventually(lambda: harness.server.waiting)
            assert harness.value(placed, WORDS, HEADER + 2000) <= 104 * 16
        assert all(one.result(DEADLINE) is not None for one in asked)


def test_another_instruction_makes_another_vector_at_once(harness: Harness) -> None:
    with answering(harness) as connection:
        vector(connection, "text")
        harness.execute("UPDATE _qwen_embed.embedding SET instruction = 'Find recipes'")
        expected = harness.server.vector(prompt("text", "Find recipes"), 16)
        np.testing.assert_allclose(vector(connection, "text"), expected, atol=2e-3)


def test_a_statement_that_is_cancelled_leaves_no_lock(harness: Harness) -> None:
    with answering(harness) as connection, harness.server.hold(lambda texts: prompt("slow") in texts):
        connection.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            vector(connection, "slow")
        assert held(connection) == 0
        connection.execute("RESET statement_timeout; BEGIN; SAVEPOINT s")
        connection.execute("SET LOCAL statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            vector(connection, "slow")
        connection.execute("ROLLBACK TO s")
        assert held(connection) == 0


def test_a_worker_that_is_killed_while_it_embeds_ends_in_a_sentence_and_leaves_no_lock(harness: Harness) -> None:
    attach(harness)
    worker = harness.worker()
    with application(harness) as connection, ThreadPoolExecutor(1) as pool:
        eventually(lambda: harness.settled() and answers(harness))
        connection.execute("SET pg_qwen_embed.query_timeout = '60s'")
        with harness.server.hold(lambda texts: prompt("slow") in texts):
            asked = pool.submit(refused, connection, "slow")
            eventually(lambda: any(prompt("slow") in texts for texts in harness.server.waiting))
            worker.end(signal.SIGKILL)
            assert "no worker is there" in asked.result(DEADLINE)
        placed = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint >= %s"
        assert harness.value(placed, BELL) == 0


def test_a_session_that_waits_is_answered_after_the_worker_has_lost_its_connections(harness: Harness) -> None:
    """Here it is the same worker, which opens its connections again."""
    attach(harness)
    worker = harness.worker()
    with application(harness) as connection, ThreadPoolExecutor(1) as pool:
        eventually(lambda: harness.settled() and answers(harness))
        connection.execute("SET pg_qwen_embed.query_timeout = '60s'")
        with harness.server.hold(lambda texts: prompt("slow") in texts):
            asked = pool.submit(vector, connection, "slow")
            eventually(lambda: any(prompt("slow") in texts for texts in harness.server.waiting))
            with psycopg.connect(as_role(harness.url, "postgres"), autocommit=True) as administrator:
                administrator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'queries$'"
                )
        np.testing.assert_allclose(asked.result(DEADLINE), harness.server.vector(prompt("slow"), 16), atol=2e-3)
        eventually(lambda: "queries_not_answered" in worker.said)


async def test_an_answer_opens_a_door_that_another_request_closes_meanwhile(harness: Harness) -> None:
    """A session that takes a lock twice would have to release it twice."""
    door, waits = 5, "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    await asyncio.to_thread(attach, harness)
    query = Query(harness.embedding().target, "", "", doors={door})

    def pass_through() -> None:
        with psycopg.connect(harness.url) as session:
            session.execute("SET lock_timeout = '10s'")
            session.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [DOOR, door])

    async with await psycopg.AsyncConnection.connect(harness.url, autocommit=True) as worker:
        doors, refuse = Doors(worker), partial(queries.answer_with_reason, worker, [], "no")
        await doors.close(lambda: {door})
        session = asyncio.create_task(asyncio.to_thread(pass_through))
        await asyncio.to_thread(eventually, lambda: harness.value(waits) == 1)
        await asyncio.gather(doors.open([query], refuse), doors.close(lambda: {door}))
        await session


def test_a_query_reads_one_row_of_a_cache_that_grew_since_it_was_analysed(harness: Harness) -> None:
    """A planner without statistics thinks that a key has many rows, and would read the cache whole."""
    read = "SELECT coalesce(sum(idx_tup_read), 0)::int FROM pg_stat_all_indexes WHERE indexrelname = 'query_cache_key'"
    read_whole = "SELECT seq_tup_read FROM pg_stat_all_tables WHERE relname = 'query_cache'"
    with answering(harness) as connection:
        vector(connection, "a query")
        harness.execute(
            "INSERT INTO _qwen_embed.query_cache (key, generation, vector) "
            "SELECT sha256(int4send(n)), 1, array_fill(0.1::real, ARRAY[1024]) FROM generate_series(1, 8000) n"
        )
        with psycopg.connect(connection.info.dsn, autocommit=True) as later:
            for n in range(8):  # after five, PostgreSQL plans once for all
                vector(later, "a query")
                vector(later, f"another query {n}")
            later.execute("SELECT pg_stat_force_next_flush()")
        eventually(lambda: harness.value(read) > 0)
        assert harness.value(read) < 100
        assert harness.value(read_whole) < 100


@pytest.mark.long
def test_forged_requests_are_dropped_and_disturb_nobody(harness: Harness) -> None:
    with answering(harness) as connection:
        forger, observer = harness.connect(), harness.connect()
        lock = "SELECT pg_advisory_lock_shared(%s::bigint::int, %s::int)"
        for class_, number in (
            (HEADER + 20, 1),
            (HEADER + 5000, 2),
            (HEADER + 1, 3),
            (WORDS, 4),
            (WORDS, 5),
            (BELL, 0),
        ):
            forger.execute(lock, [class_, number])
        for n in range(9):
            forger.execute(lock, [WORDS + n, 7])
        asked = len(harness.server.texts)
        for n in range(20):
            forger.execute(lock, [HEADER + 20, 10 + n])
            assert vector(connection, f"text {n}") is not None
        assert len(harness.server.texts) == asked + 20
        with ThreadPoolExecutor(1) as pool, harness.server.hold(lambda texts: prompt("private text") in texts):
            private = pool.submit(vector, connection, "private text")
            eventually(lambda: any(prompt("private text") in texts for texts in harness.server.waiting))
            pid = connection.info.backend_pid
            copied = observer.execute("SELECT classid::bigint, objid::bigint FROM pg_locks WHERE pid = %s AND classid >= %s "
                                      "ORDER BY classid", [pid, WORDS]).fetchall()  # fmt: skip
            assert b"priv" not in b"".join(number.to_bytes(4) for _, number in copied)
            for class_, number in copied:
                observer.execute("SELECT pg_advisory_lock_shared(%s::int, %s)", [class_, number - (number >> 31 << 32)])
            observer.execute(lock, [BELL, 0])
            asked = len(harness.server.requests)
        assert private.result() is not None
        assert vector(connection, "after it") is not None
        assert sum("private text" in str(body) for body in harness.server.requests[asked:]) == 0


@contextmanager
def stranger(harness: Harness) -> Iterator[Connection]:
    """A session of a role that may connect, and nothing else."""
    role = f"stranger_{harness.value('SELECT current_database()')}"
    with psycopg.connect(as_role(harness.url, "postgres"), autocommit=True) as administrator:
        administrator.execute(f"CREATE ROLE {role} LOGIN")
        try:
            with psycopg.connect(as_role(harness.url, role), autocommit=True) as connection:
                yield connection
        finally:
            administrator.execute(f"DROP ROLE {role}")


@pytest.mark.long
def test_a_stranger_that_holds_locks_of_queries_delays_them_at_most_to_their_timeout(harness: Harness) -> None:
    generation = 1
    numbers = {
        "bell": (BELL, [0]),
        "doors": (DOOR, range(generation * 64, generation * 64 + 64)),
        "slots": (SLOT, range(200)),
    }
    with answering(harness) as connection, stranger(harness) as other:
        assert harness.embedding().live.id == generation
        for what, mode in (("bell", ""), ("bell", "_shared"), ("doors", ""), ("doors", "_shared")):
            lock, ids = numbers[what]
            other.execute(f"SELECT pg_advisory_lock{mode}(%s, n) FROM unnest(%s::int[]) n", [lock, list(ids)])
            for n in range(3):
                assert vector(connection, f"{what}{mode} {n}") is not None
            other.execute("SELECT pg_advisory_unlock_all()")
        lock, ids = numbers["slots"]
        other.execute("SELECT pg_advisory_lock(%s, n) FROM unnest(%s::int[]) n", [lock, list(ids)])
        connection.execute("SET pg_qwen_embed.query_timeout = '200ms'")
        assert "their share of PostgreSQL's lock table is full" in refused(connection, "slots")
        other.execute("SELECT pg_advisory_unlock_all()")
        connection.execute("RESET pg_qwen_embed.query_timeout")
        assert vector(connection, "slots") is not None


@pytest.mark.long
def test_a_stranger_that_holds_the_lock_of_a_worker_ends_queries_with_a_sentence_and_keeps_no_worker_from_answering(
    harness: Harness,
) -> None:
    attach(harness)
    harness.once()
    with application(harness) as connection, stranger(harness) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", [int(Lock.ANSWERS), harness.embedding().live.id])
        connection.execute("SET pg_qwen_embed.query_timeout = '300ms'")
        assert "no worker is there to embed the query" in refused(connection, "nobody is there")
        connection.execute("SET pg_qwen_embed.query_timeout = '15s'")
        with harness.worker_here():
            assert vector(connection, "somebody is there") is not None


def test_a_pooler_in_transaction_mode_may_be_between(harness: Harness) -> None:
    with answering(harness) as connection:
        socket = conninfo_to_dict(harness.url)["host"]
        with Pooler(f"{socket}/.s.PGSQL.5432").running() as pooler:
            url = make_conninfo(harness.url, host="127.0.0.1", port=pooler.port, user=connection.info.user)
            with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url, autocommit=True) as other:
                for n, session in enumerate((one, other, one)):
                    expected = harness.server.vector(prompt(f"text {n}"), 16)
                    np.testing.assert_allclose(vector(session, f"text {n}"), expected, atol=2e-3)


@pytest.mark.superuser
def test_pgvector_may_move_and_init_brings_the_function_back_that_goes_with_it(harness: Harness) -> None:
    with answering(harness) as connection:
        vector(connection, "text")
        harness.execute("CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
        harness.execute(f"GRANT USAGE ON SCHEMA extensions TO {connection.info.user}")
        assert vector(connection, "text") is not None
        assert vector(connection, "new") is not None
    harness.execute("DROP EXTENSION vector CASCADE")
    assert "restored: the function qwen_embed.embed_query" in harness.ok("init")
    assert "already at version" in harness.ok("init")


def test_a_role_that_may_not_read_the_view_may_not_ask(harness: Harness) -> None:
    attach(harness)
    with application(harness, "GRANT USAGE ON SCHEMA qwen_embed TO {role}") as connection:
        assert "that app_" in (said := refused(connection, "x"))
        assert "GRANT SELECT" in said
        for query in ("SELECT _qwen_embed.query_vector('articles', 'x', 'postgres')", "TABLE _qwen_embed.query_secret",
                      "SELECT _qwen_embed.ask_worker('articles', 1, '', '', 'x')"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query)


@pytest.mark.parametrize("name", ["embed_query", "embeddings", "ef_search"])
def test_names_that_the_public_schema_uses_itself_are_refused(harness: Harness, name: str) -> None:
    harness.articles("one")
    said = harness.refused("attach", "articles", "--text", "body", "--name", name)
    assert f'"{name}" belongs to pg_qwen_embed itself' in said
    assert "--name" in said


@versions_and_layouts
def test_the_catalogue_shows_an_application_what_it_may_read(harness: Harness, layout: str) -> None:
    columns = "name, source, view, operator, dimensions, instruction, generation, index, backfill, coverage, lag"
    attach(harness, *LAYOUT_OPTIONS[layout], "--distance", "l2", "--instruction", "Find it")
    harness.execute("CREATE TABLE secrets (id bigint PRIMARY KEY, body text)")
    harness.ok("attach", "secrets", "--text", "body", "--name", "Sécrets %")
    with application(harness) as connection:

        def seen() -> list[Any]:
            rows = connection.execute(f"SELECT {columns} FROM qwen_embed.embeddings").fetchall()
            return [*rows[0][:-1], rows[0][-1].total_seconds() if rows[0][-1] else 0] if len(rows) == 1 else []

        first = ["articles", "public.articles", "qwen_embed.articles", "<->", 16, "Find it", 1]
        assert seen() == [*first, "none", "pending", 0, 0]
        harness.once()
        assert seen() == [*first, "valid", "done", 1, 0]
        harness.execute("INSERT INTO articles VALUES (1000, 't', 'new', 1)")
        *_, coverage, lag = seen()
        assert coverage == pytest.approx(30 / 31, abs=1e-4)
        assert lag > 0
        leak = (
            "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.1 AS "
            "$$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
        )
        connection.execute(leak)
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("SELECT name FROM qwen_embed.embeddings WHERE pg_temp.leak(name)")
        assert notices == ["articles"]
    names = {name for (name,) in harness.rows("SELECT name FROM qwen_embed.embeddings")}
    assert names == {"articles", "Sécrets %"}
    harness.execute("DROP VIEW qwen_embed.embeddings")
    assert "restored: the view qwen_embed.embeddings" in harness.ok("init")
    harness.execute("DROP TABLE secrets CASCADE")
    assert harness.rows("SELECT name, source FROM qwen_embed.embeddings WHERE coverage IS NOT NULL") == [
        ("articles", "public.articles")
    ]


def test_an_embedding_that_has_a_name_of_the_schema_itself_is_named_before_the_upgrade(harness: Harness) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--name", "embeddings2")
    harness.downgrade("0009")
    harness.execute("UPDATE _qwen_embed.embedding SET name = 'embeddings'")
    said = harness.refused("init")
    assert 'an embedding is called "embeddings"' in said
    assert "attach again with --name" in said
    harness.execute("UPDATE _qwen_embed.embedding SET name = 'embeddings2'")
    harness.ok("init")


@pytest.mark.parametrize("revision", ["0009", "0010", "0011", "0012"])
def test_a_database_of_an_earlier_revision_is_told_to_run_init(harness: Harness, revision: str) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body")
    harness.downgrade(revision)
    for command in (
        ("status",),
        ("search", "articles", "one"),
        ("attach", "articles", "--text", "body", "--name", "b"),
    ):
        assert harness.refused(*command).endswith("was set up by an older pg_qwen_embed; run: pg-qwen-embed init")
    harness.ok("init")
    harness.ok("attach", "articles", "--text", "body", "--name", "b", "--words", "english")


@pytest.mark.parametrize("undone", ["downgrade", "drop"])
def test_what_a_member_of_the_owner_installs_belongs_to_the_owner(harness: Harness, undone: str) -> None:
    objects = (
        "SELECT pg_get_userbyid(p.proowner), p.proname FROM pg_proc p WHERE p.pronamespace::regnamespace::text ~ 'qwen_embed' "
        "AND p.proname ~ '^(embed_query|query_vector|ask_worker|await_queries|answer_queries|progress|about_rows|ef_search"
        "|words|words_query)$' "
        "UNION SELECT pg_get_userbyid(c.relowner), c.relname FROM pg_class c "
        "WHERE c.relnamespace::regnamespace::text ~ 'qwen_embed' AND c.relkind IN ('r', 'v') "
        "AND c.relname ~ 'quer|embeddings|ann_index|evaluation' "
        "ORDER BY 2"
    )
    before = harness.rows(objects)
    if undone == "downgrade":
        harness.downgrade("0009")
    else:
        harness.execute("DROP VIEW qwen_embed.embeddings; DROP FUNCTION qwen_embed.embed_query")
    harness.ok("init", env={"PG_QWEN_EMBED_DATABASE_URL": as_role(harness.url, WORKER)})
    assert {owner for owner, _ in before} == {OWNER}
    assert harness.rows(objects) == before
