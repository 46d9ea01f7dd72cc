"""The revision of the database against those that this package has.

Only roles that may read Alembic's table are checked: a reader need not know of migrations. A `Client` is not checked
either, so that an application keeps its searches while its next release is on the way."""

from functools import cache
from importlib import resources
from pathlib import Path

from pg_qwen_embed.domain.errors import SetupError
from pg_qwen_embed.postgres.connection import AsyncConnection, Connection, as_text
from pg_qwen_embed.postgres.sql import statement


def check(connection: Connection) -> None:
    """Raises SetupError if a newer release has set up the database."""
    (readable,) = connection.execute(statement("may_read_revision")).fetchone() or (False,)
    if readable:
        _check(connection.execute(statement("read_revision")).fetchone(), connection.info.dbname)


async def check_async(connection: AsyncConnection) -> None:
    (readable,) = await (await connection.execute(statement("may_read_revision"))).fetchone() or (False,)
    if readable:
        _check(await (await connection.execute(statement("read_revision"))).fetchone(), connection.info.dbname)


def shown_by_the_tables() -> str:
    """The statement that tells the revision where Alembic has no record of it."""
    return as_text(statement("tell_revision"))


def newer(database: str, detail: str) -> SetupError:
    """The one sentence about a database that this package is too old for."""
    return SetupError(f"the database {database} was set up by a newer pg_qwen_embed ({detail}); upgrade this package")


def scripts() -> Path:
    """The migrations: inside the installed package, or next to it in a checkout."""
    package = Path(str(resources.files("pg_qwen_embed")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _check(row: tuple[str] | None, database: str) -> None:
    if row and row[0] not in _known():
        raise newer(database, f"its revision is {row[0]}, and the newest one here is {max(_known())}")


@cache
def _known() -> frozenset[str]:
    """Every revision of this package: the first part of the name of its file."""
    return frozenset(file.name.partition("_")[0] for file in (scripts() / "versions").glob("[0-9]*_*.py"))
