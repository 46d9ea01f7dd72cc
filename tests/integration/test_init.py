"""init: it creates the fixed part of the database, for every role, run again, and from every version."""

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from harness import OWNER, Cluster, Harness, both_versions, eventually
from psycopg.conninfo import make_conninfo

from pg_qwen_embed.postgres import migrate, schema
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA


@both_versions
def test_init_twice_says_so_and_changes_nothing(bare: Harness) -> None:
    assert "installed version" in bare.ok("init")
    before = bare.dump()
    assert "already at version" in bare.ok("init")
    assert bare.dump() == before


def test_two_inits_at_once_both_succeed(bare: Harness) -> None:
    # Both find no extension, and wait behind an attempt to create it that is rolled back.
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(bare.url) as connection:
        connection.execute("CREATE EXTENSION vector")
        processes = [bare.process("init") for _ in range(2)]
        eventually(lambda: bare.value(waiting) == 2)
        connection.rollback()
    statuses = [process.popen.wait(30) for process in processes]
    assert statuses == [0, 0], "\n".join(process.said for process in processes)


@both_versions
@pytest.mark.long
def test_migrations_one_by_one_add_up_to_all_at_once(bare: Harness, postgres: Cluster) -> None:
    bare.execute("CREATE EXTENSION vector")
    for revision in migrate.revisions():
        migrate.upgrade(bare.url, revision)
    one_by_one = bare.dump()
    with postgres.database() as url:
        tool = bare.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'") + "/pg_dump"
        text = subprocess.run([tool, url], capture_output=True, check=True, text=True).stdout
    all_at_once = sorted(
        line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict", "SELECT "))
    )
    assert [line for line in one_by_one if not line.startswith("SELECT ")] == all_at_once


def test_the_migrations_add_up_to_what_sqlalchemy_describes(harness: Harness) -> None:
    engine = harness.engine()

    def ours(name: str | None, kind: str, _: object) -> bool:
        return name == INTERNAL_SCHEMA if kind == "schema" else name != "alembic_version"

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_schemas": True, "include_name": ours, "version_table_schema": INTERNAL_SCHEMA,
                  "compare_type": True, "compare_server_default": True},
        )  # fmt: skip
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_init_can_be_undone_migration_by_migration(bare: Harness) -> None:
    bare.execute("CREATE EXTENSION vector")
    migrate.upgrade(bare.url)
    bare.downgrade("base")
    left = bare.rows(
        "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname ~ 'qwen_embed'"
    )
    assert {name for (name,) in left} <= {"alembic_version", "alembic_version_pkc"}


@pytest.fixture
def owner(bare: Harness) -> Iterator[str]:
    """A role that may log in and nothing else."""
    name = f"owner_{bare.value('SELECT current_database()')}"
    bare.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    bare.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


def as_role(harness: Harness, name: str) -> dict[str, str | None]:
    return {"PG_QWEN_EMBED_DATABASE_URL": harness.url.replace("user=postgres", f"user={name}")}


def test_init_without_rights_rejects_with_one_sentence(bare: Harness, owner: str) -> None:
    assert "CREATE EXTENSION vector;" in bare.refused("init", env=as_role(bare, owner))
    bare.execute("CREATE EXTENSION vector")
    assert "permission denied" in bare.refused("init", env=as_role(bare, owner))
    assert bare.rows("SELECT FROM pg_namespace WHERE nspname ~ 'qwen_embed'") == []


def test_a_role_that_may_create_in_the_database_can_do_everything(bare: Harness, owner: str) -> None:
    bare.execute("CREATE EXTENSION vector")
    bare.execute(f"GRANT CREATE ON DATABASE {bare.value('SELECT current_database()')} TO {owner}")
    bare.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    bare.environment.update({k: v for k, v in as_role(bare, owner).items() if v})
    bare.ok("init")
    with psycopg.connect(as_role(bare, owner)["PG_QWEN_EMBED_DATABASE_URL"] or "", autocommit=True) as connection:
        connection.execute("CREATE TABLE articles (id int PRIMARY KEY, body text)")
        connection.execute("INSERT INTO articles VALUES (1, 'one')")
    bare.ok("attach", "articles", "--text", "body")
    bare.once()
    assert bare.drift()[0] == 0
    assert "one" in bare.ok("search", "articles", "one")
    bare.ok("detach", "articles", "--yes")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:s3cret@127.0.0.1:1/db", "host=/nowhere user=u password=s3cret", "postgresql://u:s3cret@[::1/db",
     "nonsense s3cret", "postgresql://u:s3cret@127.0.0.1:none/db"],
)  # fmt: skip
def test_init_without_a_server_rejects_with_one_sentence_and_keeps_the_password(bare: Harness, url: str) -> None:
    said = bare.refused("init", env={"PG_QWEN_EMBED_DATABASE_URL": url})
    assert "PG_QWEN_EMBED_DATABASE_URL" in said
    assert "s3cret" not in said


def test_init_of_a_database_that_is_not_there_rejects_with_one_sentence(bare: Harness) -> None:
    url = bare.url.replace(bare.value("SELECT current_database()"), "not_there")
    assert '"not_there" does not exist' in bare.refused("init", env={"PG_QWEN_EMBED_DATABASE_URL": url})


def test_init_rejects_an_encoding_that_cannot_hold_every_text(postgres: Cluster, bare: Harness) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        url = bare.url.replace(bare.value("SELECT current_database()"), "latin")
        assert "encoded in LATIN1" in bare.refused("init", env={"PG_QWEN_EMBED_DATABASE_URL": url})
    finally:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("DROP DATABASE latin WITH (FORCE)")


def test_the_extension_may_live_in_another_schema(bare: Harness) -> None:
    bare.execute('CREATE SCHEMA "Extra"; CREATE EXTENSION vector SCHEMA "Extra"')
    bare.ok("init")
    bare.articles("one", "two")
    for store in ("table", "column"):
        bare.ok("attach", "articles", "--text", "body", "--store", store)
        bare.once()
        assert bare.drift()[0] == 0
        assert "two" in bare.ok("search", "articles", "two", "--limit", "1")
        bare.ok("detach", "articles", "--yes")


def test_init_of_a_database_that_is_newer_than_the_package_is_one_sentence(harness: Harness) -> None:
    harness.execute("UPDATE _qwen_embed.alembic_version SET version_num = '9999'")
    said = harness.refused("init")
    assert said.startswith(f"the database {harness.connection.info.dbname} was set up by a newer pg_qwen_embed (")
    assert said.endswith("; upgrade this package")


@both_versions
def test_database_defaults_let_a_filter_leave_as_many_rows_as_are_wanted(bare: Harness) -> None:
    name = bare.value("SELECT current_database()")
    assert "iterative_scan" not in bare.ok("init")
    assert f"new sessions of the database {name} have hnsw.iterative_scan = strict_order" in bare.ok(
        "init", "--database-defaults"
    )
    assert "strict_order" in bare.ok("init", "--database-defaults")  # again
    bare.articles("one")
    bare.ok("attach", "articles", "--text", "body")
    with psycopg.connect(bare.url) as fresh:
        (setting,) = fresh.execute("SELECT current_setting('hnsw.iterative_scan')").fetchone() or ("",)
    assert setting == "strict_order"
    assert "hnsw.iterative_scan is strict_order" in bare.cli("doctor").stdout
    bare.execute(f"ALTER DATABASE {name} RESET hnsw.iterative_scan")
    said = bare.cli("doctor").stdout
    assert "hnsw.iterative_scan is off" in said
    assert "run: pg-qwen-embed init --database-defaults" in said


def test_database_defaults_need_the_owner_of_the_database(of_roles: Harness) -> None:
    """The owner of our objects need not own the database."""
    name = of_roles.value("SELECT current_database()")
    said = of_roles.refused("init", "--database-defaults")
    assert f"the defaults of the database {name} were not set" in said
    assert f"ALTER DATABASE \"{name}\" SET hnsw.iterative_scan = 'strict_order'" in said
    with psycopg.connect(make_conninfo(of_roles.url, user="postgres"), autocommit=True) as superuser:
        superuser.execute(f"ALTER DATABASE {name} OWNER TO {OWNER}".encode())
        try:
            assert "strict_order" in of_roles.ok("init", "--database-defaults")
        finally:
            superuser.execute(f"ALTER DATABASE {name} OWNER TO postgres".encode())
