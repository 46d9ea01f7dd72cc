"""The moves of a life: what administrators and other teams do to a database, each as docs/operations.md says it is done."""

import signal
from collections.abc import Callable

from harness import Cluster, Harness, eventually, quoted
from life import NAME, Life, value

EVENTS = ("insert", "update", "key_change", "delete", "truncate")


# Databases


def restored_elsewhere(life: Life) -> None:
    url = life._new_database()
    file = life.folder / "backup"
    life.tool("pg_dump", "-Fc", "-f", file, life.harness.url)
    life.tool("pg_restore", "--exit-on-error", "-d", url, file)
    life.go_on_in(url)


def schema_then_data(life: Life) -> None:
    url = life._new_database()
    schema, data = life.folder / "schema.sql", life.folder / "data.sql"
    life.tool("pg_dump", "--schema-only", "-f", schema, life.harness.url)
    life.tool("pg_dump", "--data-only", "-f", data, life.harness.url)
    replica = ("-c", "SET session_replication_role = replica")
    life.tool("psql", "-qX1", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", schema, *replica, "-f", data)
    life.go_on_in(url)


def copied_as_template(life: Life) -> None:
    life.end_worker()
    life.session.close()
    life.harness.connection.close()
    url = life._new_database(life.database)
    life.harness._connection = None
    life.go_on_in(url)


def older_backup_restored_over_it(life: Life) -> None:
    """With the worker stopped, or running."""
    running = life.rng.random() < 0.5
    file = life.folder / "older"
    life.tool("pg_dump", "-Fc", "-f", file, life.harness.url)
    life.application()
    if life.rng.random() < 0.5:
        life.come_to_rest()
    if not running:
        life.end_worker()
    life.say("-- the worker runs" if running else "-- the worker is stopped")
    life.tool("pg_restore", "--clean", "--if-exists", "--exit-on-error", "-1", "-d", life.harness.url, file)
    life.session.close()
    life.session = life.harness.connect()  # plans of tables that are not there any more
    if not running:
        life.start_worker()


def switched_over(life: Life) -> None:
    """To the next cluster, if that is not of an older version."""
    target = life.clusters[(life.clusters.index(life.cluster) + 1) % len(life.clusters)]
    if target is life.cluster or _version(target) < _version(life.cluster):
        return
    url = life._new_database(cluster=target)
    new = Harness(url, life.server, life.folder, life.stack)
    slot = f"slot_{new.connection.info.dbname}"
    new.stack.callback(new.execute, "DROP SUBSCRIPTION IF EXISTS shop")
    schema, data = life.folder / "schema.sql", life.folder / "internal.sql"
    life.tool("pg_dump", "--schema-only", "-f", schema, life.harness.url, source=new)
    life.tool("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", schema, source=new)
    schemas = ", ".join(sorted({"public", quoted(life.table.schema)}))
    life.do(f"CREATE PUBLICATION shop FOR TABLES IN SCHEMA {schemas}")
    subscribe = f"CREATE SUBSCRIPTION shop CONNECTION '{life.harness.url}' PUBLICATION shop WITH (slot_name = {slot})"
    life.say(subscribe)
    new.execute(subscribe)
    eventually(lambda: new.value("SELECT coalesce(bool_and(srsubstate = 'r'), true) FROM pg_subscription_rel"), 60)
    life.application()
    life.end_worker()
    life.run("worker", "--once")
    sent = life.harness.value("SELECT pg_current_wal_lsn()")
    arrived = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s"
    eventually(lambda: value(life.harness.connection, arrived, sent, slot), 60)
    life.say("-- DROP SUBSCRIPTION, internal tables emptied and carried over")
    new.execute("DROP SUBSCRIPTION shop")
    new.execute("""DO $$ DECLARE internal regclass; BEGIN
        FOR internal IN SELECT oid::regclass FROM pg_class
                        WHERE relnamespace = '_qwen_embed'::regnamespace AND relkind = 'r' LOOP
            EXECUTE format('TRUNCATE %s CASCADE', internal);
        END LOOP; END $$""")
    life.tool("pg_dump", "--data-only", "--schema=_qwen_embed", "-f", data, life.harness.url, source=new)
    life.tool("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", data, source=new)
    life.do("DROP PUBLICATION shop")
    life.go_on_in(url, target)


def _version(cluster: Cluster) -> int:
    import psycopg

    with psycopg.connect(cluster.url) as connection:
        return int(connection.info.server_version) // 10_000


# The application's table


def columns_that_are_not_embedded(life: Life) -> None:
    t, new = life.table, f"extra {len(life.steps)}"
    if t.extra and life.rng.random() < 0.6:
        column = life.rng.choice(t.extra)
        if life.rng.random() < 0.3:
            t.extra.remove(column)
            life.do(f"ALTER TABLE {t.sql} DROP COLUMN {quoted(column)}")
        elif life.rng.random() < 0.5:
            t.extra[t.extra.index(column)] = new
            life.do(f"ALTER TABLE {t.sql} RENAME COLUMN {quoted(column)} TO {quoted(new)}")
        else:
            life.do(f"ALTER TABLE {t.sql} ALTER COLUMN {quoted(column)} TYPE text")
    else:
        t.extra.append(new)
        kind = life.rng.choice(
            ["int NOT NULL DEFAULT 5", "timestamptz DEFAULT clock_timestamp()", "bigserial", "text DEFAULT 'x'"]
        )
        life.do(f"ALTER TABLE {t.sql} ADD COLUMN {quoted(new)} {kind}")


def text_renamed(life: Life) -> None:
    new = f"text {len(life.steps)}"
    life.do(f"ALTER TABLE {life.table.sql} RENAME COLUMN {quoted(life.table.text)} TO {quoted(new)}")
    life.table.text = new
    _perhaps_repaired(life)


def key_renamed(life: Life) -> None:
    new = f"key {len(life.steps)}"
    life.do(f"ALTER TABLE {life.table.sql} RENAME COLUMN {quoted(life.table.key)} TO {quoted(new)}")
    life.table.key = new
    _perhaps_repaired(life)


def table_renamed(life: Life) -> None:
    new = f"table {len(life.steps)}"
    life.do(f"ALTER TABLE {life.table.sql} RENAME TO {quoted(new)}")
    life.table.name = new
    _perhaps_repaired(life)


def schema_changed(life: Life) -> None:
    new = "app" if life.table.schema == "public" else "public"
    life.do("CREATE SCHEMA IF NOT EXISTS app")
    life.do(f"ALTER TABLE {life.table.sql} SET SCHEMA {new}")
    life.table.schema = new
    _perhaps_repaired(life)


def _perhaps_repaired(life: Life) -> None:
    life.application()
    if life.rng.random() < 0.4:
        life.verify_repair()


def text_altered(life: Life) -> None:
    t, text = life.table, quoted(life.table.text)
    swap = (
        f"ALTER TABLE {t.sql} ADD COLUMN next text; UPDATE {t.sql} SET next = {text} || CASE WHEN {quoted(t.key)} % 3 = 0 "
        f"THEN ' swapped' ELSE '' END; ALTER TABLE {t.sql} DROP COLUMN {text}; ALTER TABLE {t.sql} RENAME COLUMN next TO {text}"
    )
    kinds = [f"ALTER TABLE {t.sql} ALTER COLUMN {text} TYPE varchar(2000)", f"ALTER TABLE {t.sql} ALTER COLUMN {text} TYPE text",
             f"ALTER TABLE {t.sql} ALTER COLUMN {text} TYPE text USING upper({text})", swap]  # fmt: skip
    life.run("alter", NAME, "--sql", life.rng.choice(kinds))


def _primary_key(life: Life) -> str:
    query = "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'"
    return quoted(life.harness.value(query, life.table.sql))


def key_swapped(life: Life) -> None:
    """The key column is exchanged for one of another type, in a transaction of the application."""
    t, key = life.table, quoted(life.table.key)
    other = "bigint" if t.type == "int" else "int"
    old = f"old {len(life.steps)}"
    life.do("BEGIN")
    life.do(f"ALTER TABLE {t.sql} ADD next {other}")
    life.do(f"UPDATE {t.sql} SET next = {key}")
    life.do(f"ALTER TABLE {t.sql} DROP CONSTRAINT {_primary_key(life)}")
    life.do(f"ALTER TABLE {t.sql} RENAME COLUMN {key} TO {quoted(old)}")
    life.do(f"ALTER TABLE {t.sql} RENAME COLUMN next TO {key}")
    life.do(f"ALTER TABLE {t.sql} ADD PRIMARY KEY ({t.keys}), ALTER COLUMN {quoted(old)} DROP NOT NULL")
    life.do("COMMIT")
    t.type = other
    _rekeyed(life)
    life.do(f"ALTER TABLE {t.sql} DROP COLUMN {quoted(old)}")


def key_widened_or_narrowed(life: Life) -> None:
    t, key = life.table, quoted(life.table.key)
    if t.tenant:
        life.do(f"DELETE FROM {t.sql} WHERE tenant <> 0")
        life.do(f"ALTER TABLE {t.sql} DROP CONSTRAINT {_primary_key(life)}, ADD PRIMARY KEY ({key})")
        life.do(f"ALTER TABLE {t.sql} ALTER tenant SET DEFAULT 0")
        t.tenant = False
        _rekeyed(life)
        life.do(f"ALTER TABLE {t.sql} DROP COLUMN tenant")
    else:
        life.do(f"ALTER TABLE {t.sql} ADD tenant int NOT NULL DEFAULT 0")
        life.do(f"ALTER TABLE {t.sql} DROP CONSTRAINT {_primary_key(life)}, ADD PRIMARY KEY (tenant, {key})")
        t.tenant = True
        _rekeyed(life)


def _rekeyed(life: Life) -> None:
    life.application()
    life.run("alter", NAME, "--rekey")


def table_swapped(life: Life) -> None:
    t, old = life.table, f"old {len(life.steps)}"
    new = f"{quoted(t.schema)}.next"
    life.do(f"CREATE TABLE {new} (LIKE {t.sql} INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY ({t.keys}))")
    life.do(f"INSERT INTO {new} SELECT * FROM {t.sql}")
    life.do(f"ALTER TABLE {t.sql} RENAME TO {quoted(old)}")
    life.do(f"ALTER TABLE {new} RENAME TO {quoted(t.name)}")
    life.application()
    life.run("alter", NAME, "--table", t.sql)
    life.application()
    for column in t.extra:  # a serial's sequence stays with the old table
        life.do(
            f"ALTER TABLE {t.sql} ALTER COLUMN {quoted(column)} DROP DEFAULT, ALTER COLUMN {quoted(column)} DROP NOT NULL"
        )
    life.do(f"DROP TABLE {quoted(t.schema)}.{quoted(old)}")


# What is ours


def sequence_set_back(life: Life) -> None:
    outbox = life.harness.internal("outbox", NAME)
    sequence = life.harness.value("SELECT pg_get_serial_sequence(%s, 'seq')", outbox)
    life.administer(
        life.rng.choice(
            [f"ALTER SEQUENCE {sequence} RESTART", f"SELECT setval('{sequence}', {life.rng.randint(1, 40)})"]
        )
    )


def outbox_emptied(life: Life) -> None:
    life.administer(f"TRUNCATE {life.harness.internal('outbox', NAME)} RESTART IDENTITY")
    life.application()
    life.verify_repair()


def triggers_toggled(life: Life) -> None:
    t = life.table
    life.do(f"ALTER TABLE {t.sql} DISABLE TRIGGER ALL")
    life.application()
    life.do(f"ALTER TABLE {t.sql} ENABLE TRIGGER ALL")
    life.application()
    life.verify_repair()


def objects_dropped(life: Life) -> None:
    id_, event = life.harness.embedding(NAME).live.id, life.rng.choice(EVENTS)
    harm = [
        f"DROP VIEW qwen_embed.{NAME} CASCADE", f"ALTER VIEW qwen_embed.{NAME} SET (security_invoker = false)",
        f"DROP TABLE _qwen_embed.outbox_{id_}", f"DROP TABLE _qwen_embed.store_{id_} CASCADE",
        f"DROP TABLE _qwen_embed.failure_{id_}", f"DROP FUNCTION _qwen_embed.document_{id_} CASCADE",
        f"DROP FUNCTION _qwen_embed.follow_{event}_{id_} CASCADE", f"TRUNCATE _qwen_embed.store_{id_}",
        f"DROP TRIGGER qwen_embed_{event}_{id_} ON {life.table.sql}", f"DELETE FROM _qwen_embed.store_{id_} WHERE random() < 0.5",
    ]  # fmt: skip
    if life.layout == "column":
        harm.append(f"ALTER TABLE {life.table.sql} DROP COLUMN embedding CASCADE")
    for statement in life.rng.sample(harm, life.rng.randint(1, 2)):
        try:
            life.administer(statement)
        except Exception as error:
            if "does not exist" not in str(error):  # one of them may have gone with the other
                raise
    life.application()
    life.verify_repair()


def extension_moved(life: Life) -> None:
    life.do("CREATE SCHEMA IF NOT EXISTS ext")
    now = life.harness.value("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector'")
    life.administer(f"ALTER EXTENSION vector SET SCHEMA {'public' if now == 'ext' else 'ext'}")


def worker_killed(life: Life) -> None:
    life.end_worker(life.rng.choice([signal.SIGKILL, signal.SIGTERM]))
    life.application()
    life.start_worker()


def set_up_again(life: Life) -> None:
    life.run("init")


def filled_again(life: Life) -> None:
    life.run("backfill", NAME)


MOVES: dict[str, Callable[[Life], None]] = {
    move.__name__.replace("_", " "): move
    for move in (
        restored_elsewhere, schema_then_data, copied_as_template, older_backup_restored_over_it, switched_over,
        columns_that_are_not_embedded, text_renamed, key_renamed, table_renamed, schema_changed, text_altered, key_swapped,
        key_widened_or_narrowed, table_swapped, sequence_set_back, outbox_emptied, triggers_toggled, objects_dropped,
        extension_moved, worker_killed, set_up_again, filled_again,
    )
}  # fmt: skip
