"""The migrations of an application on a PostgreSQL release with the fix of CVE-2026-6460, which Debian has without pgvector.

What `attach` creates is printed by `sql attach` and run with an array in place of the vectors' type. It runs where such a
release is installed (Debian: postgresql-15)."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pg_qwen_embed.cli import main
from pg_qwen_embed.postgres import migrate

FOLDERS = Path("/usr/lib/postgresql")
FIXED = {15: 20}  # the first minor release of each major one
TYPES = "CREATE TYPE address AS (street text); CREATE TABLE place (name text)"
TABLE = "CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, price int, home address, spot place)"
DESCRIBED = [
    "articles",
    "--key",
    "id bigint",
    "--columns",
    "title text",
    "--columns",
    "body text",
    "--columns",
    "price int",
    "--columns",
    "home address",
    "--columns",
    "spot place",
]
MODEL = ["--model", "m", "--dimensions", "8"]
DISTANCE = """
CREATE FUNCTION distance(real[], real[]) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT 0.0';
CREATE OPERATOR <=> (LEFTARG = real[], RIGHTARG = real[], FUNCTION = distance)
"""
MIGRATIONS = [  # what Django's and Rails' AddField send, and others that rewrite the table
    "ALTER TABLE articles ADD COLUMN a text NOT NULL DEFAULT 'x'",
    "ALTER TABLE articles ADD COLUMN b timestamptz DEFAULT clock_timestamp()",
    "ALTER TABLE articles ADD COLUMN c bigserial",
    "ALTER TABLE articles ADD COLUMN d int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE articles ADD COLUMN e int GENERATED ALWAYS AS (price * 2) STORED",
    "ALTER TABLE articles ALTER COLUMN a TYPE varchar(20)",
    "ALTER TABLE articles DROP COLUMN e, ALTER COLUMN price TYPE bigint",
    "ALTER TABLE articles RENAME COLUMN title TO heading",
    "ALTER TYPE address ADD ATTRIBUTE code text",
    "ALTER TABLE place ADD COLUMN opened date",
    "INSERT INTO articles (id, heading, body) VALUES (1, 'one', 'first')",
    "UPDATE articles SET body = 'changed'",
    "UPDATE articles SET spot.opened = '2024-01-01'",
]


def fixed_release() -> Path | None:
    """The folder of the programs of such a release; None: there is none."""
    for major, minor in FIXED.items():
        folder = FOLDERS / str(major) / "bin"
        if (folder / "postgres").exists():
            found = re.search(r"(\d+)\.(\d+)", subprocess.check_output([folder / "postgres", "--version"], text=True))
            if found and int(found[2]) >= minor:
                return folder
    return None


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    programs = fixed_release()
    if programs is None:
        pytest.skip("no PostgreSQL release with the fix is installed; Debian: apt-get install postgresql-15")
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # PostgreSQL does not run as root
    folder = Path(tempfile.mkdtemp(prefix="fixed_", dir="/tmp"))  # a socket's path is short
    try:
        if user:
            shutil.chown(folder, "postgres")
        name = user.get("user", pwd.getpwuid(os.geteuid()).pw_name)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, **user}
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-A", "trust", "-N", "-E", "UTF8"], check=True, **quiet
        )
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        control = [programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], check=True, **quiet)
        try:
            yield f"host={folder} user={name} dbname=postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, **quiet)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "layout", [[], ["--store", "column"], ["--chunk-tokens", "64"]], ids=["table", "column", "chunked"]
)
def test_columns_are_added_with_defaults_where_a_parsed_function_may_not_use_a_row_type(
    url: str, layout: list[str]
) -> None:
    printed = CliRunner().invoke(
        main, ["sql", "attach", *DESCRIBED, *MODEL, "--template", "{title}{body}{home}{spot}", *layout]
    )
    assert printed.exit_code == 0, printed.output
    ddl = re.sub(r'"public"\."halfvec"(\(\d+\))?', "real[]", printed.stdout)
    ddl = re.sub(r'a OPERATOR\("public"\.<=>\) b', "0::float8", ddl)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DOMAIN public.halfvec AS real[]")
    migrate.upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS qwen_embed")
        connection.execute(TYPES)
        connection.execute(TABLE)
        try:
            connection.execute(DISTANCE)
            connection.execute(ddl.encode())
            for migration in MIGRATIONS:
                connection.execute(migration.encode())
            (entries,) = connection.execute("SELECT count(*) FROM _qwen_embed.outbox_1").fetchone() or (0,)
            assert entries == 3
        finally:
            connection.execute(
                "DROP SCHEMA qwen_embed, _qwen_embed CASCADE; DROP TABLE articles, place; DROP TYPE address; "
                "DROP FUNCTION distance CASCADE; DROP DOMAIN public.halfvec CASCADE"
            )
