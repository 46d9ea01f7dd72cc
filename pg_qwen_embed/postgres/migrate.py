"""`init`: creates or upgrades the fixed part of the database with Alembic, after checks of PostgreSQL and pgvector."""

import re
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from psycopg import sql

from pg_qwen_embed.domain.errors import SetupError
from pg_qwen_embed.postgres import catalog, queries, revision, trust
from pg_qwen_embed.postgres.borrowed import borrowed
from pg_qwen_embed.postgres.connection import Connection, as_text, connect, first_line, own_search_path
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA
from pg_qwen_embed.postgres.sql import statement

OLDEST_POSTGRES = 150000
OLDEST_PGVECTOR = (0, 8, 0)
SOUND_PGVECTOR = (0, 8, 4)


def init(database_url: str) -> list[str]:
    """Bring the database up to date; idempotent. Returns lines for a person to read. Raises SetupError."""
    with connect(database_url, "pg_qwen_embed init") as connection:
        check_server(connection)
        trust.require_none(connection)  # before anything there is read
        revision.check(connection)
        said = ensure_extension(connection)
    before, after = upgrade(database_url)
    with connect(database_url, "pg_qwen_embed init") as connection:
        said += queries.restore(connection)
    said.append(f"already at version {after}" if before == after else f"installed version {after}")
    return said


def init_within(theirs: psycopg.Connection[Any]) -> list[str]:
    """The same in the transaction of a connection that is not ours. Returns and raises as `init`."""
    with borrowed(theirs) as connection:
        check_server(connection)
        trust.require_none(connection)
        revision.check(connection)
        extension = catalog.vector_extension(connection)
    if extension is not None and extension.version is None:
        with borrowed(theirs, pinned=False) as connection:  # it is created in a schema of their path
            _create_extension(connection)
    with borrowed(theirs) as connection:
        said = judge_extension(catalog.vector_extension(connection))
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=sa.StaticPool)
        with engine.connect() as own:
            command.upgrade(_config(own), "head")
        return said + queries.restore(connection)


def check_server(connection: Connection) -> None:
    number, version, encoding, database = connection.execute(statement("server_version")).fetchone() or (0, "", "", "")
    if number < OLDEST_POSTGRES:
        raise SetupError(f"PostgreSQL {version} is too old; pg_qwen_embed needs 15 or later")
    if encoding != "UTF8":
        raise SetupError(f"the database {database} is encoded in {encoding}; pg_qwen_embed needs UTF8")


def ensure_extension(connection: Connection) -> list[str]:
    """Create pgvector if it is missing, and check its version. Returns warnings; the SetupError says what to run."""
    extension = catalog.vector_extension(connection)
    if extension is not None and extension.version is None:
        _create_extension(connection)
        extension = catalog.vector_extension(connection)
    return judge_extension(extension)


def judge_extension(extension: catalog.Extension | None) -> list[str]:
    """Warnings about a pgvector that is usable. Raises SetupError if it is not, with what to run."""
    if extension is None:
        raise SetupError(
            "this PostgreSQL server has no pgvector; install the package pgvector for it, then run: pg-qwen-embed init"
        )
    if extension.version is None:
        raise SetupError("the extension vector is not created in this database; run: pg-qwen-embed init")
    version = _numbers(extension.version)
    if version < OLDEST_PGVECTOR:
        raise SetupError(
            f"pgvector {extension.version} is too old, 0.8.0 brought iterative scans; "
            f"run in the database: ALTER EXTENSION vector UPDATE;  (the server has {extension.available})"
        )
    if version < SOUND_PGVECTOR:
        return [
            f"warning: pgvector {extension.version} has faults that 0.8.2 to 0.8.4 fixed (overflow in parallel HNSW "
            "builds, corruption on vacuum, unrepaired graphs); upgrade it, then run: ALTER EXTENSION vector UPDATE;"
        ]
    return []


def upgrade(database_url: str, to: str = "head") -> tuple[str | None, str | None]:
    """Run the migrations; returns the revision before and after. Raises SetupError."""
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(database_url, "pg_qwen_embed init", autocommit=False),
        poolclass=sa.NullPool,
    )
    try:
        with engine.connect() as connection:
            before = _revision(connection)
            command.upgrade(_config(connection), to)
            connection.commit()
            return before, _revision(connection)
    except CommandError as error:  # the database is at a revision that this package does not have
        raise SetupError(f"the database was set up by a newer pg_qwen_embed ({error}); upgrade this package") from None
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable) and (holder := _holder(database_url)):
            raise SetupError(f"another session holds the lock of init, and nothing was changed: {holder}") from None
        reason = first_line(error.orig) if isinstance(error.orig, psycopg.Error) else str(error.orig)
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            reason += _lacking(database_url)
        raise SetupError(f"the migrations stopped, and nothing was changed: {reason}") from None
    finally:
        engine.dispose()


def _holder(database_url: str) -> str | None:
    with connect(database_url, "pg_qwen_embed init") as connection:
        return trust.holder_of_init(connection)


def _lacking(database_url: str) -> str:
    """What a role needs that may not run the migrations."""
    with connect(database_url, "pg_qwen_embed init") as connection:
        (may,) = connection.execute(statement("may_create_schemas")).fetchone() or (False,)
        if may:
            return "; run init as a member of the roles that ran init and attach before, or as a superuser"
        database, role = sql.Identifier(connection.info.dbname), sql.Identifier(connection.info.user)
    grant = as_text(statement("grant_create_in_database", database=database, role=role))
    return f": this role lacks CREATE on it; run: {grant}"


def revisions() -> list[str]:
    """Every revision, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()][::-1]


def _create_extension(connection: Connection) -> None:
    try:
        with connection.transaction(), own_search_path(connection):  # it is created in a schema of the path
            connection.execute(statement("create_vector_extension"))
    except psycopg.errors.UniqueViolation:
        return  # somebody else has just created it: IF NOT EXISTS does not see an uncommitted one
    except psycopg.errors.InsufficientPrivilege:
        raise SetupError(
            f"the extension vector is missing and this role may not create it; let a superuser run in the database "
            f"{connection.info.dbname}: CREATE EXTENSION vector;"
        ) from None


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table_schema": INTERNAL_SCHEMA}).get_current_revision()


def _config(connection: sa.Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(revision.scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])
