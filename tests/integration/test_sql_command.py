"""`sql attach`, `sql grants`, `sql locks`: what they print without a connection is what the database would have said."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from harness import Harness, both_versions, sentence

from pg_qwen_embed.admin import locks
from pg_qwen_embed.cli import COMMANDS, main
from pg_qwen_embed.postgres import ddl, sql, written

ROOT = Path(__file__).resolve().parents[2]
MODEL = ("--model", "stand-in", "--dimensions", "16")
NOWHERE = {"PG_QWEN_EMBED_DATABASE_URL": "postgresql://127.0.0.1:1/shop", "PG_QWEN_EMBED_SERVER_URL": "http://127.0.0.1:1/v1",
           "PG_QWEN_EMBED_MODEL": None, "DATABASE_URL": None}  # fmt: skip


def unconnected(*arguments: str) -> str:
    """What a command prints where there is no database and no server."""
    result = CliRunner().invoke(main, ["sql", *arguments], env=NOWHERE)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def rejected(*arguments: str) -> str:
    return sentence(CliRunner().invoke(main, ["sql", *arguments], env=NOWHERE))


# sql attach

# The table as SQL creates it, the same as options describe it, and the options of attach.
TABLES: dict[str, tuple[str, str, list[str], list[str]]] = {
    "bigint key": (
        "CREATE TABLE articles (id bigint PRIMARY KEY, title text, views int NOT NULL DEFAULT 0)",
        "articles",
        ["--key", "id bigint", "--columns", "title text", "--columns", "views int"],
        ["--text", "title"],
    ),
    "composite key with odd names": (
        """CREATE SCHEMA "App"; CREATE TABLE "App"."100% ""Odd"" x" (
            "bö dy%(x)s" varchar(200), "Lang%s" text COLLATE "C", "Größe" numeric(10), "k%%" smallint,
            PRIMARY KEY ("Lang%s", "k%%"))""",
        '"App"."100% ""Odd"" x"',
        ["--key", '"Lang%s"', "--key", '"k%%" int2', "--columns", '"bö dy%(x)s" varchar(200)',
         "--columns", '"Lang%s" text COLLATE "C"', "--columns", '"Größe" decimal(10)', "--columns", '"k%%" smallint'],
        ["--text", "bö dy%(x)s", "--text", "Größe", "--name", "ödd % name", "--distance", "ip"],
    ),
    "a column for the vectors": (
        "CREATE TABLE articles (id uuid PRIMARY KEY, body text)",
        "public.articles",
        ["--key", "id uuid", "--columns", "body text"],
        ["--template", "{body}!", "--store", "column", "--column", "vector"],
    ),
    "chunks": (
        "CREATE TABLE articles (id int PRIMARY KEY, body text)",
        "articles",
        ["--key", "id int", "--columns", "body text"],
        ["--text", "body", "--chunk-tokens", "64", "--chunk-overlap", "8"],
    ),
    "partitioned": (
        "CREATE TABLE articles (id bigint, day date, body text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "articles",
        ["--key", "id bigint", "--key", "day date", "--columns", "body text", "--partitioned"],
        ["--text", "body", "--comment", "a note"],
    ),
    "key of a domain": (
        "CREATE DOMAIN code AS varchar(8) CHECK (value <> ''); CREATE TABLE articles (code code PRIMARY KEY, body text)",
        "articles",
        ["--key", "code public.code AS varchar(8)", "--columns", "body text"],
        ["--text", "body"],
    ),
    "triggers of its own": (
        """CREATE TABLE articles (id bigint PRIMARY KEY, body text);
        CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER own BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION own()""",
        "articles",
        ["--key", "id bigint", "--columns", "body text", "--before-update-triggers"],
        ["--text", "body"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES.keys())
def test_a_described_table_prints_exactly_what_a_dry_run_prints(
    harness: Harness, case: tuple[str, str, list[str], list[str]]
) -> None:
    create, table, description, options = case
    harness.execute(create)
    dry_run = harness.ok("attach", table, *options, "--dry-run")
    assert unconnected("attach", table, *description, *options, *MODEL) == dry_run
    assert harness.ok("sql", "attach", table, *options) == dry_run


def test_a_file_describes_a_table_as_options_do(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text("""
        [table]
        name = '"App"."100% ""Odd"" x"'
        key = ["Lang%s", "k%%"]
        [columns]
        "bö dy%(x)s" = "varchar(200)"
        "Lang%s" = 'text COLLATE "C"'
        "Größe" = "numeric(10)"
        "k%%" = "smallint"
    """)
    _, table, description, options = TABLES["composite key with odd names"]
    by_options = unconnected("attach", table, *description, *options, *MODEL)
    assert unconnected("attach", "--file", str(file), *options, *MODEL) == by_options
    assert unconnected("attach", table, "--file", str(file), *options, *MODEL) == by_options
    file.write_text(
        file.read_text().replace("[columns]", "partitioned = true\nbefore_update_triggers = true\n[columns]")
    )
    flags = ("--partitioned", "--before-update-triggers")
    by_options = unconnected("attach", table, *description, *flags, *options, *MODEL)
    assert unconnected("attach", "--file", str(file), *options, *MODEL) == by_options


@both_versions
def test_what_only_a_database_knows_can_be_given(bare: Harness) -> None:
    bare.execute('CREATE SCHEMA "Extra"; CREATE EXTENSION vector SCHEMA "Extra"')
    bare.ok("init")
    bare.articles("one")
    bare.ok("attach", "articles", "--text", "body")
    options = ("--text", "body", "--name", "second")
    described = ("--key", "id bigint", "--columns", "body text", "--columns", "views integer")
    known = ("--generation", "2", "--vector-schema", "Extra")
    assert unconnected("attach", "articles", *described, *known, *options, *MODEL) == bare.ok(
        "sql", "attach", "articles", *options
    )


TYPES = (
    "int, int2, int4, int8, integer, smallint, bigint, serial, bigserial, bool, float, float4, float8, real, "
    "double precision, numeric, numeric(10), decimal(10, 2), dec(3), text, TEXT, varchar, varchar(7), character varying(7), "
    "char varying(7), char, char(3), character, character(3), bpchar, name, uuid, json, jsonb, xml, inet, bit, bit(3), "
    "varbit, varbit(4), bit varying, timestamp, timestamptz, timestamp(3), timestamp(3) with time zone, "
    "timestamp without time zone, timestamp with time zone, time, timetz, time(2) without time zone, date, interval, "
    'interval(3), bytea, money, int[], int[][], int[3], text[], varchar(5)[], timestamptz[], numeric(4,1)[], "char", '
    'pg_catalog.int4, pg_catalog.text, oid, point, halfvec(3), "Odd Type", app."Odd Type", app.plain, citext_like'
)  # fmt: skip


def test_types_are_read_as_postgresql_prints_them(harness: Harness) -> None:
    harness.execute('CREATE SCHEMA app; CREATE TYPE "Odd Type" AS ENUM (); CREATE TYPE app."Odd Type" AS ENUM ()')
    harness.execute("CREATE TYPE app.plain AS ENUM (); CREATE DOMAIN citext_like AS text")
    types = re.split(r", (?![^(]*\))", TYPES)
    assert "numeric(4,1)[]" in types
    harness.execute(f"CREATE TABLE every ({', '.join(f'c{n} {text}' for n, text in enumerate(types))})")
    catalog = harness.rows("""SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                              WHERE attrelid = 'every'::regclass AND attnum > 0 ORDER BY attnum""")
    printed = {text: found for text, (found,) in zip(types, catalog, strict=True)}
    assert {text: written.type_("c", text) for text in types} == printed


DESCRIBED = ("articles", "--key", "id bigint", "--columns", "body text")
WRONG = {
    "no model": ([*DESCRIBED, "--text", "body"], "add --model and --dimensions"),
    "no dimensions": ([*DESCRIBED, "--text", "body", "--model", "x/y"], "add --model and --dimensions"),
    "too many dimensions": ([*DESCRIBED, "--text", "body", "--model", "x", "--dimensions", "4001"], "1 to 4000"),
    "nothing to embed": ([*DESCRIBED, *MODEL], "either --text COL"),
    "a column that is not described": (
        [*DESCRIBED, *MODEL, "--text", "title"],
        'column "title" of public.articles is not described; described are: id, body',
    ),
    "a template's column": ([*DESCRIBED, *MODEL, "--template", "{title}"], 'column "title"'),
    "a name of an object": (
        [*DESCRIBED, "--columns", "at regclass", *MODEL, "--text", "at"],
        "name of an object of the database",
    ),
    "no key": (["articles", "--columns", "body text", *MODEL, "--text", "body"], "without a primary key"),
    "a key without a type": (
        ["articles", "--key", "id", "--columns", "body text", *MODEL, "--text", "body"],
        'key column "id" is not among the columns',
    ),
    "a column without a type": ([*DESCRIBED, "--columns", "title", *MODEL, "--text", "body"], '"title" has no type'),
    "a column with a constraint": ([*DESCRIBED, "--columns", "n int NOT NULL", *MODEL, "--text", "body"], "not a valid type"),
    "what is no column": ([*DESCRIBED, "--columns", "1", *MODEL, "--text", "body"], "is not a column"),
    "a column twice": ([*DESCRIBED, "--columns", "body text", *MODEL, "--text", "body"], "described twice"),
    "a key column twice": ([*DESCRIBED, "--key", "id bigint", *MODEL, "--text", "body"], "named twice"),
    "two types": ([*DESCRIBED, "--columns", "id int", *MODEL, "--text", "body"], "as integer and, in the key, as bigint"),
    "no table": (["--key", "id bigint", *MODEL, "--text", "id"], "name the table"),
    "neither described nor named": (["--text", "id"], "name the table"),
    "what is no table's name": (["a b", "--key", "id bigint", *MODEL, "--text", "id"], "not a valid name in SQL"),
    "three parts": (["a.b.c", "--key", "id bigint", *MODEL, "--text", "id"], "not a valid table name"),
    "a number without a description": (["articles", "--generation", "2", "--text", "body"], "--generation is for a table"),
    "the view's own column": (
        [*DESCRIBED, "--columns", "stale text", *MODEL, "--text", "body", "--view-columns", "all"],
        'two columns "stale"',
    ),
    "the vectors' column": ([*DESCRIBED, *MODEL, "--text", "body", "--column", "body"], 'has a column "body" already'),
    "a column of a partitioned table": (
        [*DESCRIBED, "--partitioned", *MODEL, "--text", "body", "--store", "column"], "leave --store column out",
    ),
    "chunks in a column": (
        [*DESCRIBED, *MODEL, "--text", "body", "--store", "column", "--chunk-tokens", "64"], "leave --store column out",
    ),
    "two descriptions": ([*DESCRIBED, "--file", "table.toml", *MODEL, "--text", "body"], "describe the table once"),
    "a file that is not there": (["--file", "no.toml", *MODEL, "--text", "body"], "no.toml cannot be read: No such file"),
    "a folder": (["--file", ".", *MODEL, "--text", "body"], ". cannot be read: Is a directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_description_is_one_sentence(case: tuple[list[str], str]) -> None:
    arguments, said = case
    assert said in rejected("attach", *arguments)


TOML = '[table]\nname = "articles"\nkey = ["id"]\n[columns]\nid = "bigint"\nbody = "text"\n'
WRONG_FILES = {
    "no TOML": ("id bigint", "is not TOML"),
    "no text": (b"\xff\xfe", "is not TOML"),
    "empty": ("", "there is no section [table]"),
    "no columns": ('[table]\nname = "articles"\nkey = ["id"]', "there is no section [columns]"),
    "columns that are no section": ('columns = 1\n[table]\nname = "articles"', "there is no section [columns]"),
    "no name": (TOML.replace('name = "articles"\n', ""), "[table] has no name"),
    "an odd name": (TOML.replace('"articles"', '"a b"'), "not a valid name in SQL"),
    "an unknown entry": (TOML.replace("key =", "keys ="), "[table] cannot have keys"),
    "a key that is no list": (TOML.replace('["id"]', '"id"'), "[table] cannot have key = 'id'"),
    "no key": (TOML.replace('key = ["id"]\n', ""), "without a primary key"),
    "an empty key": (TOML.replace('["id"]', "[]"), "without a primary key"),
    "a key that is not among the columns": (
        TOML.replace('["id"]', '["Id"]'),
        'key column "Id" is not among the columns',
    ),
    "a key of numbers": (TOML.replace('["id"]', "[1]"), "are texts"),
    "a type that is a number": (TOML.replace('"bigint"', "8"), "are texts"),
    "a type that is none": (TOML.replace('"bigint"', '"bigint PRIMARY KEY"'), "not a valid type in SQL"),
    "another table": (TOML.replace('"articles"', '"recipes"'), "describes public.recipes, not articles"),
}


@pytest.mark.parametrize("case", WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path: Path, case: tuple[str | bytes, str]) -> None:
    content, said = case
    file = tmp_path / "table.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = rejected("attach", "articles", "--file", str(file), *MODEL, "--text", "body")
    assert said in found
    assert found.startswith(str(file))


def test_an_option_of_an_unknown_value_is_rejected() -> None:
    for wrong in (
        ("--store", "row"),
        ("--distance", "far"),
        ("--generation", "0"),
        ("--generation", "x"),
        ("--no-such",),
    ):
        result = CliRunner().invoke(main, ["sql", "attach", *DESCRIBED, *MODEL, "--text", "body", *wrong], env=NOWHERE)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


# sql grants

ROLES = ("owner", "worker", "reader", "app")


@pytest.fixture
def roles(bare: Harness) -> Iterator[dict[str, str]]:
    """Roles that may do nothing yet; app owns the application's tables."""
    names = {role: f"{role}_{bare.value('SELECT current_database()')}" for role in ROLES}
    for role, name in names.items():
        bare.execute(f"CREATE ROLE {name} {'NOLOGIN' if role == 'app' else 'LOGIN'}")
    yield names
    for name in names.values():
        bare.execute(f"DROP OWNED BY {name} CASCADE")
    for name in names.values():
        bare.execute(f"DROP ROLE {name}")


def as_role(harness: Harness, role: str) -> dict[str, str | None]:
    return {"PG_QWEN_EMBED_DATABASE_URL": harness.url.replace("user=postgres", f"user={role}")}


@both_versions
@pytest.mark.parametrize(
    "options", [(), ("--store", "column"), ("--chunk-tokens", "16")], ids=["table", "column", "chunked"]
)
@pytest.mark.long
def test_each_role_can_do_its_work_with_the_grants_that_are_printed(
    bare: Harness, roles: dict[str, str], options: tuple[str, ...]
) -> None:
    """And no work of another: the roles start with nothing."""
    owner, worker, reader, app = (roles[role] for role in ROLES)
    bare.execute(f"""CREATE EXTENSION vector; CREATE SCHEMA app;
                     CREATE TABLE app.articles (id bigint PRIMARY KEY, body text);
                     INSERT INTO app.articles VALUES (1, 'one'), (2, 'two'); ALTER TABLE app.articles OWNER TO {app}""")
    attach = ("attach", "app.articles", "--text", "body", *options)
    store = options if "--store" in options else ()
    named = ("--role-owner", owner, "--role-worker", worker)
    assert "permission denied" in bare.refused("init", env=as_role(bare, owner))
    bare.execute(
        unconnected("grants", "app.articles", "--table-owner", app, *store, *named, "--database", database(bare))
    )
    bare.ok("init", env=as_role(bare, owner))
    assert "lacks" in bare.refused(*attach, env=as_role(bare, reader))
    bare.ok(*attach, env=as_role(bare, owner))

    bare.ok("worker", "--once", "--index-from", "0", env=as_role(bare, worker))
    assert bare.drift(env=as_role(bare, owner))[0] == 0
    assert bare.value(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{index_of(bare)}'::regclass")

    assert "lacks" in bare.refused("search", "articles", "two", env=as_role(bare, reader))
    bare.execute(unconnected("grants", "app.articles", *store, "--role-reader", reader))
    assert "two" in bare.ok("search", "articles", "two", "--limit", "1", env=as_role(bare, reader))
    with psycopg.connect(bare.url.replace("user=postgres", f"user={reader}"), autocommit=True) as connection:
        found = connection.execute(
            "SELECT a.id FROM app.articles a JOIN qwen_embed.articles e USING (id) WHERE NOT e.stale"
        )
        assert sorted(found.fetchall()) == [(1,), (2,)]
        for forbidden in ("TABLE _qwen_embed.outbox_1", "DELETE FROM app.articles", "TABLE _qwen_embed.backfill"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)

    bare.execute("UPDATE app.articles SET body = 'three' WHERE id = 1")
    bare.ok("worker", "--once", "--index-from", "0", env=as_role(bare, worker))
    assert "three" in bare.ok("search", "articles", "three", "--limit", "1", env=as_role(bare, reader))
    bare.ok("detach", "articles", "--yes", env=as_role(bare, owner))


def database(harness: Harness) -> str:
    return str(harness.value("SELECT current_database()"))


def index_of(harness: Harness) -> str:
    return str(
        harness.value("SELECT indexrelid::regclass FROM pg_index WHERE indexrelid::regclass::text ~ 'store_1_hnsw'")
    )


@pytest.mark.parametrize("store", ["table", "column"])
def test_grants_of_an_embedding_are_those_of_its_description(harness: Harness, store: str) -> None:
    harness.execute('CREATE SCHEMA "App"; CREATE TABLE "App".articles (id int PRIMARY KEY, body text)')
    harness.ok("attach", '"App".articles', "--text", "body", "--name", "100%", "--store", store)
    connected = harness.ok("sql", "grants", "--embedding", "100%")
    about = ("--name", "100%", "--store", store, "--table-owner", "postgres", "--database", database(harness))
    assert unconnected("grants", '"App".articles', *about) == connected
    described = ("--key", "id int", "--columns", "body text")
    assert unconnected("grants", '"App".articles', *described, *about) == connected
    assert '"qwen_embed"."100%", "App"."articles"' in connected.replace('""', '"')


def test_grants_without_a_table_are_what_every_embedding_needs() -> None:
    printed = unconnected("grants")
    assert 'GRANT CREATE ON DATABASE "shop" TO "qwen_embed_owner";' in printed
    assert "store_" not in printed
    assert [line for line in printed.splitlines() if not line.startswith(("-- ", "GRANT ")) and line] == []


def test_the_examples_of_the_documentation_can_be_run_without_a_connection() -> None:
    page = (ROOT / "docs" / "objects-locks-grants.md").read_text()
    examples = re.findall(r"^\$ pg-qwen-embed sql ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        arguments = shlex.split(example.replace("\\\n", " "))
        assert "--embedding" in arguments or unconnected(*arguments)


def test_roles_are_created_on_request_and_none_is_a_superuser() -> None:
    assert "CREATE ROLE" not in unconnected("grants")
    printed = unconnected("grants", "--create-roles")
    for role in ("qwen_embed_owner", "qwen_embed_worker", "qwen_embed_reader"):
        assert f'CREATE ROLE "{role}" LOGIN;' in printed
    assert "SUPERUSER" not in printed
    assert unconnected("grants", "--create-roles", "--role-reader", "web").count("CREATE ROLE") == 1


def test_only_the_roles_that_are_named_are_printed() -> None:
    printed = unconnected("grants", "articles", "--role-reader", "Web App")
    statements = [line for line in printed.splitlines() if line.startswith("GRANT")]
    assert statements
    assert all(line.endswith('TO "Web App";') for line in statements)


def test_each_group_of_grants_says_what_it_is_for() -> None:
    _, *groups = unconnected("grants", "articles", "--table-owner", "app").strip().split("\n\n")
    assert len(groups) == 5
    assert [group for group in groups if not re.match(r"-- (Owner|Worker|Reader): ", group)] == []


WRONG_GRANTS = {
    "a worker without an owner": (["--role-worker", "w"], "add --role-owner"),
    "an option of no table": (["--table-owner", "app"], "--table-owner is for a table"),
    "a number of no table": (["--generation", "2"], "--generation is for a table"),
    "an embedding and a table": (["articles", "--embedding", "articles"], "leave TABLE and what describes it out"),
    "an embedding and its number": (["--embedding", "articles", "--generation", "2"], "--generation is read from the"),
    "an odd name": (["a b"], "not a valid name in SQL"),
    "a file that is not there": (["--file", "no.toml"], "no.toml cannot be read"),
    "an embedding without a database": (["--embedding", "articles"], "PostgreSQL does not answer"),
}


@pytest.mark.parametrize("case", WRONG_GRANTS.values(), ids=WRONG_GRANTS.keys())
def test_wrong_options_of_grants_are_one_sentence(case: tuple[list[str], str]) -> None:
    arguments, said = case
    assert said in rejected("grants", *arguments)


def test_grants_need_the_databases_name_for_the_owner_only() -> None:
    nameless = NOWHERE | {"PG_QWEN_EMBED_DATABASE_URL": "host=127.0.0.1"}
    said = sentence(CliRunner().invoke(main, ["sql", "grants"], env=nameless))
    assert "add --database NAME" in said
    assert CliRunner().invoke(main, ["sql", "grants", "--database", "shop"], env=nameless).exit_code == 0
    assert CliRunner().invoke(main, ["sql", "grants", "--role-reader", "r"], env=nameless).exit_code == 0


# sql locks

STRENGTH = [
    "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
]  # fmt: skip


def strongest(connection: psycopg.Connection[Any], relation: str) -> str:
    """The strongest lock that the open transaction has on a relation."""
    rows = connection.execute(
        "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = %s::regclass", [relation]
    )
    modes = {re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper() for (mode,) in rows}
    return max(modes, key=STRENGTH.index)


def promised(command: str) -> str:
    (lock,) = (one.lock for one in locks.LOCKS if one.command == command)
    return lock


@both_versions
@pytest.mark.parametrize("store", ["table", "column"])
def test_the_locks_on_a_source_are_those_that_are_printed(harness: Harness, store: str) -> None:
    harness.articles("one")
    harness.ok("attach", "articles", "--text", "body", "--store", store)
    harness.once()
    embedding = harness.embedding()
    inside = harness.connect(autocommit=False)
    for statement in (*ddl.unfollow(embedding.target), *ddl.follow(embedding.target)):
        inside.execute(statement, {})
    assert strongest(inside, "articles") == promised("verify --repair of triggers")
    inside.rollback()
    inside.execute("INSERT INTO articles VALUES (2, 'two')")
    assert strongest(inside, harness.internal("outbox")) == promised("an INSERT, UPDATE, DELETE of yours")
    inside.rollback()
    for statement in ddl.detach(embedding):
        inside.execute(statement, {})
    assert strongest(inside, "articles") == promised("detach")
    for statement in ddl.attach(embedding):
        inside.execute(statement, {})
    inside.rollback()
    harness.ok("detach", "articles", "--yes")
    for statement in ddl.attach(embedding):
        inside.execute(statement, {})
    assert strongest(inside, "articles") == promised("attach --store column" if store == "column" else "attach")


def test_every_command_is_in_the_table_of_locks() -> None:
    named = " ".join(lock.command for lock in locks.LOCKS)
    assert [command for command in COMMANDS if not re.search(rf"\b{command}\b", named)] == []
    assert unconnected("locks").splitlines()[1:] == locks.as_text().splitlines()[1:]
    assert {lock.lock for lock in locks.LOCKS} <= {*STRENGTH, "none"}


def test_the_timeouts_of_the_table_of_locks_stand_where_they_are_set() -> None:
    texts = {one.name: one.text for file in sql.files() for one in file.statements}
    assert f"set_config('lock_timeout', '{locks.WORKER}', false)" in texts["configure_worker_session"]
    assert "set_config('lock_timeout', '0', false)" in texts["configure_session"]
    assert "set_config('lock_timeout', '0', false)" in texts["prepare_index_session"]
    assert f"SET LOCAL lock_timeout = '{locks.MIGRATIONS}'" in (ROOT / "migrations" / "env.py").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["attach", "articles", "--key", f"{'k' * 64} int", "--columns", "body text"],
        ["attach", "t" * 64, "--key", "id int", "--columns", "body text"],
        ["attach", "articles", "--key", "id int", "--columns", "body text", "--vector-schema", "s" * 64],
        ["attach", "articles", "--key", "id int", "--columns", "body text", "--column", "é" * 32],
        *(["grants", f"--role-{role}", "r" * 64, "--database", "d"] for role in ("owner", "worker", "reader")),
        ["grants", "--role-owner", "r", "--database", "d" * 64],
        ["grants", "articles", "--table-owner", "r" * 64, "--database", "d"],
        ["grants", "articles", "--name", "n" * 64, "--database", "d"],
    ],
)
def test_names_that_postgresql_would_shorten_are_rejected(arguments: list[str]) -> None:
    more = ["--text", "body", "--model", "m", "--dimensions", "8"] if arguments[0] == "attach" else []
    result = CliRunner().invoke(main, ["sql", *arguments, *more])
    assert result.exit_code == 1
    assert "1 to 63 bytes" in result.stderr
