"""Checks of the database: versions, privileges of this role, what blocks vacuum, poolers; and of each embedding."""

import shlex
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
from psycopg.rows import dict_row

from pg_qwen_embed.admin import status
from pg_qwen_embed.admin.doctor import boundaries
from pg_qwen_embed.admin.doctor.findings import Finding, State, judge
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import Error
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.next_step import command
from pg_qwen_embed.domain.report import IndexState
from pg_qwen_embed.postgres import catalog, leftovers, migrate, rights
from pg_qwen_embed.postgres.connection import Connection, as_text, connect, first_line
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

AREA = "database"
PURPOSE = "pg_qwen_embed doctor"
CONNECTIONS_NEEDED = 5  # of a worker: one leads, one listens, two write, one builds an index
QUEUE_FILLING = 0.1  # a healthy queue is nearly empty
OLD = 600.0  # seconds; an older transaction is reported
WRAPAROUND = 1_500_000_000  # transaction ids; PostgreSQL stops accepting writes at about 2.1 billion


def look_at_database(url: str) -> tuple[list[Finding], list[Embedding]]:
    """Findings, and the embeddings that the server must serve."""
    found: list[Finding] = []
    embeddings: list[Embedding] = []
    try:
        with connect(url, PURPOSE, tables_only=True) as connection:
            found += _guarded(AREA, lambda: _look(connection))
            found += _guarded(AREA, lambda: _look_at_replication(connection))
            found += _guarded(AREA, lambda: _look_at_pooler(connection, url))
            for look in (boundaries.look_at_connection, boundaries.look_at_roles, boundaries.look_at_our_schemas,
                         boundaries.look_at_locks):  # fmt: skip
                found += _guarded(boundaries.AREA, partial(look, connection))
            registered = _registered(connection, found)
            found += _guarded(AREA, lambda: _look_at_leftovers(connection))
            found += _guarded(AREA, lambda: _look_at_defaults(connection, registered))
            embeddings = [one.embedding for one in registered]
            for one in registered:
                found += _guarded(one.embedding.name, partial(_look_at_embedding, connection, one))
    except Error as error:
        found.append(Finding(AREA, State.WRONG, str(error)))
    except psycopg.Error as error:
        found.append(Finding(AREA, State.WRONG, f"PostgreSQL: {first_line(error)}"))
    return found, embeddings


def _guarded(area: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error of PostgreSQL ends it and is its last finding."""
    try:
        yield from look()
    except psycopg.OperationalError:
        raise  # the connection is lost
    except psycopg.Error as error:
        yield Finding(area, State.WRONG, f"PostgreSQL: {first_line(error)}")


def _look(connection: Connection) -> Iterator[Finding]:
    try:
        migrate.check_server(connection)
        yield Finding(AREA, State.OK, f"PostgreSQL {connection.info.parameter_status('server_version')}")
        extension = catalog.vector_extension(connection)
        for warning in migrate.judge_extension(extension):
            yield Finding(AREA, State.WARNING, warning.removeprefix("warning: "))
        if extension and extension.version:
            yield Finding(AREA, State.OK, f"pgvector {extension.version}")
    except Error as error:
        yield Finding(AREA, State.WRONG, str(error))
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(statement("look_at_server"), {"old": OLD}).fetchone() or {}
    yield judge(AREA, not row["standby"], "the server accepts writes" if not row["standby"] else "the server is a standby",
                "connect to the primary; target_session_attrs=read-write finds it among several hosts")  # fmt: skip
    yield judge(AREA, row["free"] >= CONNECTIONS_NEEDED, f"{row['free']} connections are free",
                f"a worker needs {CONNECTIONS_NEEDED}: raise max_connections", State.WARNING)  # fmt: skip
    yield judge(AREA, row["age"] < WRAPAROUND, f"the oldest transaction id is {row['age']:,} transactions old",
                "vacuum the database before it stops taking writes: VACUUM (FREEZE)", State.WARNING)  # fmt: skip
    text = f"the queue of notifications is {row['notifications']:.0%} full"
    if row["notifications"] >= QUEUE_FILLING and row["oldest_transaction"]:
        text += (
            f"; a session that listens holds it, probably {shown(row['oldest_transaction'], status.LONGEST_SESSION)}"
        )
    yield judge(AREA, row["notifications"] < QUEUE_FILLING, text,
                "end that transaction: a NOTIFY that finds the queue full fails its transaction", State.WARNING)  # fmt: skip
    if not row["sees_others"]:
        yield Finding(
            AREA, State.OK, "transactions of other roles cannot be seen without membership in pg_read_all_stats"
        )
    if row["holder"]:
        holder = shown(row["holder"], status.LONGEST_SESSION)
        yield Finding(AREA, State.WARNING, f"{holder} keeps vacuum from removing what is old",
                      "end it; the worker slows down while its outbox cannot be vacuumed")  # fmt: skip


def _look_at_replication(connection: Connection) -> Iterator[Finding]:
    """Internal tables do not belong into logical replication: both sides write them, so a subscription stands still."""
    for kind, name, tables, schemas in connection.execute(statement("look_at_replication")).fetchall():
        text = f"the {kind} {name} has {tables} internal tables in it: a conflict in one of them stops all of it"
        instead = f"publish the application's schemas only (CREATE PUBLICATION ... FOR TABLES IN SCHEMA {schemas or 'public'})"
        if kind == "subscription":
            instead = f"let the publisher {instead}, and the subscription {name} change over to it"
        yield Finding(
            AREA, State.WARNING, text, f'{instead}; see docs/operations.md, "Publish the application\'s schemas"'
        )


def _look_at_pooler(connection: Connection, url: str) -> Iterator[Finding]:
    """Find a pooler: it reports a made-up process id. In transaction mode it gives our backend to other clients."""
    mine = _backend(connection)
    if mine == connection.info.backend_pid:
        return
    with connect(url, PURPOSE) as second, second.transaction():
        shared = _backend(second) == mine
    yield judge(AREA, not shared, "there is a pooler in transaction mode in front of PostgreSQL" if shared else
                "there is a pooler in front of PostgreSQL, in session mode as far as can be seen",
                "give the worker a direct connection, or a pool in session mode: LISTEN and "
                "session locks need a session of their own")  # fmt: skip


def _backend(connection: Connection) -> int:
    (pid,) = connection.execute(statement("own_backend")).fetchone() or (0,)
    return int(pid)


def _registered(connection: Connection, found: list[Finding]) -> list[catalog.Registered]:
    try:
        catalog.require_initialised(connection)
    except Error as error:
        found.append(Finding(AREA, State.WRONG, str(error)))
        return []
    registered = catalog.registered(connection)
    advice = "attach a table: pg-qwen-embed attach TABLE --text COLUMN"
    found.append(judge(AREA, bool(registered), f"set up; embeddings: {len(registered)}", advice, State.WARNING))
    return registered


def _look_at_leftovers(connection: Connection) -> Iterator[Finding]:
    """Triggers without an embedding cost the application's statements something, and fill an outbox that nobody reads."""
    for left in leftovers.remains(connection):
        yield Finding(AREA, State.WRONG, f"there are {left.where}", "to remove them run: pg-qwen-embed init")


def _look_at_defaults(connection: Connection, registered: list[catalog.Registered]) -> Iterator[Finding]:
    """What a SELECT on a view returns is up to the session; without this setting a filter leaves it fewer rows."""
    (iterative, _) = connection.execute(statement("search_settings")).fetchone() or ("off", 40)
    if registered and iterative == "off":
        yield Finding(AREA, State.OK, "hnsw.iterative_scan is off for this role in this database: a SELECT on a view with a "
                      "filter may return fewer rows than its LIMIT",
                      "to set it for all, run: pg-qwen-embed init --database-defaults")  # fmt: skip
    elif registered:
        yield Finding(AREA, State.OK, f"hnsw.iterative_scan is {shown(iterative)}")


def _look_at_embedding(connection: Connection, one: catalog.Registered) -> Iterator[Finding]:
    name = one.embedding.name
    if one.problem:
        yield Finding(name, State.WRONG, f"is not followed: {one.problem.reason}", one.problem.advice(name))
        return
    yield from _guarded(name, partial(_look_at_rights, connection, one.embedding))
    yield from _guarded(name, partial(boundaries.look_at_source, connection, one.embedding))
    yield from _guarded(name, partial(_look_at_state, connection, name))
    yield from _guarded(name, partial(_look_at_words, connection, one.embedding))


def _look_at_rights(connection: Connection, embedding: Embedding) -> Iterator[Finding]:
    role, missing = connection.info.user, rights.lacking(connection, rights.of_worker(names_of(embedding)))
    advice = f"run: {'; '.join(one.grant for one in missing)}; or give the worker the role that attached it"
    text = (
        f"the role {role} lacks {', '.join(map(str, missing))}"
        if missing
        else f"the role {role} has the rights of a worker"
    )
    yield judge(embedding.name, not missing, text, advice)
    table = embedding.source.table
    values = {"schema": table.schema, "name": table.name}
    (hidden,) = connection.execute(statement("look_at_row_security"), values).fetchone() or (False,)
    if hidden:
        yield Finding(embedding.name, State.WRONG, f"row-level security hides rows of {embedding.source.table} from {role}",
                      f"run: ALTER ROLE {role} BYPASSRLS, or let the worker be the table's owner")  # fmt: skip


def _look_at_words(connection: Connection, embedding: Embedding) -> Iterator[Finding]:
    """Without its configuration an embedding keeps no words of what changes, and searches by words fail."""
    names = names_of(embedding)
    if not names.has_words:
        return
    row = connection.execute(
        statement("look_at_words", names), {"index": as_text(identifier(names.words_index))}
    ).fetchone()
    there, index = row or (False, "none")
    text = f"its text search configuration {embedding.live.spec.words} is {'there' if there else 'gone'}"
    yield judge(embedding.name, bool(there), text,
                f"create it again, and run: {command('verify {} --repair', embedding.name)}")  # fmt: skip
    yield judge(embedding.name, index != IndexState.INVALID, f"index of the words {index}",
                "a worker builds it again: see its log", State.WARNING)  # fmt: skip


def _look_at_state(connection: Connection, name: str) -> Iterator[Finding]:
    (one,) = status.status(connection, name)
    if one.unreadable:
        yield Finding(name, State.WRONG, f"its state cannot be seen: {one.unreadable}")
        return
    repair = f"run: {command('verify {} --repair', name)}"
    text = (
        f"{one.broken_triggers} of its 5 triggers are missing, disabled or out of date"
        if one.broken_triggers
        else "triggers as installed"
    )
    yield judge(name, not one.broken_triggers, text, repair)
    if one.namesake:
        text = f"follows {one.source}, and there is another table {one.namesake}"
        advice = f"if that took its place, run: {command(f'alter {{}} --table {shlex.quote(one.namesake)}', name)}"
        yield Finding(name, State.WARNING, text, advice)
    if one.missing:
        yield Finding(name, State.WRONG, f"{' and '.join(one.missing)} missing or not as created", repair)
    for stranger in one.strangers:
        yield Finding(name, State.WRONG, stranger)
    advice = "keep a worker running: pg-qwen-embed worker"
    yield judge(name, bool(one.leader), f"followed by {one.leader or 'no worker'}", advice, State.WARNING)
    fine = one.index is IndexState.VALID or (one.index is IndexState.NONE and not one.needs_index)
    advice = "a worker builds it, unless its --index-from is higher or a backlog comes first: see its log"
    yield judge(name, fine, f"index {one.index_report}", advice, State.WARNING)
    if one.not_found and one.index is IndexState.VALID:
        text = f"{one.not_found:,} of {one.looked_for:,} sampled vectors are unreachable in the index"
        yield Finding(name, State.WARNING, text, f"see: {command('index check {}', name)}; search --exact finds them")
    if one.spec.index.compressed:
        text = f"index of kind {one.spec.index.kind}: ORDER BY on the view compares every vector"
        advice = f"search with the functions of qwen_embed, with Client or with: {command('search {} TEXT', name)}"
        yield Finding(name, State.OK, f"{text}; {advice}")
    changes = "1 change" if one.pending == 1 else f"{one.pending:,} changes"
    pending = f"{changes} pending, the oldest for {one.lag_seconds:.1f} s" if one.pending else "nothing pending"
    failures = "1 failure" if one.failures == 1 else f"{one.failures:,} failures"
    text = f"{failures}, {pending}"
    yield judge(name, not one.failures, text, f"see: {command('failures list {}', name)}", State.WARNING)
