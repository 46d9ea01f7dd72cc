"""`sql attach`, `grants` and `locks`: parses a description; admin/sql.py and admin/locks.py write the text."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.admin import locks as taken
from pg_qwen_embed.admin import query_form
from pg_qwen_embed.admin import sql as printing
from pg_qwen_embed.admin.description import Description
from pg_qwen_embed.admin.query_form import Driver
from pg_qwen_embed.cli._declaration import DeclarationOptions, declaration_options
from pg_qwen_embed.cli._options import InOrder, valid_name, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.spec import StoreKind
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings

R = TypeVar("R")
PURPOSE = "pg_qwen_embed sql"

_DESCRIPTION = (
    click.argument("table", required=False),
    click.option("--key", "keys", multiple=True, metavar="'NAME TYPE'",
                 help="Describe TABLE: a column of its key, in the order of the unique index."),
    click.option("--columns", "described_columns", multiple=True, metavar="'NAME TYPE'",
                 help="Describe TABLE: another column. Repeat it for all columns, in their order."),
    click.option("--partitioned", is_flag=True, help="Describe TABLE: it is partitioned."),
    click.option("--before-update-triggers", is_flag=True, help="Describe TABLE: it has BEFORE UPDATE row triggers."),
    click.option("--file", metavar="FILE", help="Describe TABLE by a TOML file instead."),
    click.option("--generation", type=click.IntRange(min=1), metavar="N",
                 help="With a description: number of the generation.  [default: 1]"),
    click.option("--vector-schema", callback=valid_name, metavar="NAME",
                 help="With a description: schema of pgvector.  [default: public]"),
)  # fmt: skip


def description_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options that describe a table, which it gets as one argument, `description`."""

    @wraps(command)
    def run(*args: Any, described_columns: tuple[str, ...], **values: Any) -> R:
        names = ("table", "keys", "partitioned", "before_update_triggers", "file", "generation", "vector_schema")
        given = {name: values.pop(name) for name in names}
        return command(*args, description=Description(columns=described_columns, **given), **values)

    decorated: Callable[..., R] = run
    for option in reversed(_DESCRIPTION):
        decorated = option(decorated)
    return decorated


@click.group(cls=InOrder)
def sql() -> None:
    """Print the SQL of attach, the rights of each role, the locks of each command, or a query.

    Nothing is created. A described table needs no connection: write its columns as in SQL, 'id bigint', '"Odd Name" text',
    'lang text COLLATE "C"', 'code shop.code AS text' (a domain over text); or give a TOML file with

    \b
        [table]
        name = "public.articles"
        key = ["id"]
        partitioned = true      # if it is; and before_update_triggers = true
        [columns]
        id = "bigint"
        title = "text"
    """


@sql.command(short_help="Print what `attach` runs: the statements, locks and grants.")
@declaration_options
@description_options
@with_settings("database_url", "server_url", "ca_file")
def attach(settings: Settings, description: Description, options: DeclarationOptions) -> None:
    """Print what `attach` runs for TABLE: the statements, their locks and the grants.

    If TABLE is not described, the output is that of `attach --dry-run`. If it is described, neither the database nor the
    server is needed; --model and --dimensions are.
    """
    if description.describes:
        click.echo(printing.attach(description, options.unconfirmed(settings, description.table or "")))
        return
    description.require_nothing_assumed()
    if description.table is None:
        raise UsageError("name the table: TABLE, or --file with a [table]")
    declaration = options.resolved(settings, description.table)
    with connect(settings.database_url, PURPOSE) as connection:
        click.echo(attaching.dry_run(connection, declaration))


@sql.command()
@description_options
@click.option("--embedding", metavar="NAME", help="An attached embedding; the rest is read from the database.")
@click.option("--name", callback=valid_name, help="With TABLE: name of the embedding.  [default: the table's name]")
@click.option("--store", type=click.Choice([kind.value for kind in StoreKind]), help="With TABLE: as in attach.")
@click.option("--table-owner", callback=valid_name, metavar="ROLE", help="With TABLE: the role that owns it.")
@click.option(
    "--database",
    callback=valid_name,
    metavar="NAME",
    help="Name of the database.  [default: the one in the database URL]",
)
@click.option("--role-owner", callback=valid_name, metavar="ROLE", help="The role that runs init and attach.")
@click.option("--role-worker", callback=valid_name, metavar="ROLE", help="The role that runs the worker.")
@click.option("--role-reader", callback=valid_name, metavar="ROLE", help="The role that queries.")
@click.option("--create-roles", is_flag=True, help="Print CREATE ROLE for each of them too.")
@with_settings("database_url")
def grants(
    settings: Settings,
    description: Description,
    embedding: str | None,
    database: str | None,
    role_owner: str | None,
    role_worker: str | None,
    role_reader: str | None,
    name: str | None,
    store: str | None,
    table_owner: str | None,
    create_roles: bool,
) -> None:
    """Print GRANT statements for three roles: owner, worker and reader.

    Only the roles that you name are printed. If you name none, all three are: qwen_embed_owner, qwen_embed_worker and
    qwen_embed_reader. A connection is needed only with --embedding. TABLE, or a file, adds the rights on that table.
    """
    roles = printing.roles(role_owner, role_worker, role_reader)
    about = printing.About(description, name, StoreKind(store) if store else None, table_owner)
    if embedding is None:
        subject = about.subject()
    else:
        about.require_nothing()
        with connect(settings.database_url, PURPOSE) as connection:
            subject = printing.subject(connection, embedding)
            database = database or connection.info.dbname
    click.echo(printing.grants(roles, subject, database, settings.database_url, create=create_roles))


@sql.command()
@click.argument("name")
@click.option("--where", metavar="CONDITION", help="A condition on the rows of the table, as in SQL; the table is t.")
@click.option(
    "--for",
    "driver",
    type=click.Choice([one.value for one in Driver]),
    default=Driver.PSQL.value,
    show_default=True,
    help="How the application talks to PostgreSQL.",
)
@with_settings("database_url")
def query(settings: Settings, name: str, where: str | None, driver: str) -> None:
    """Print a SELECT that searches the embedding NAME by text.

    It is planned and not run. For psql set the text first: \\set query 'how do I reset my password'.
    """
    with connect(settings.database_url, PURPOSE) as connection:
        click.echo(query_form.query(connection, name, where, Driver(driver)), nl=False)


@sql.command()
def locks() -> None:
    """Print which locks each command takes, on what, and for how long."""
    click.echo(taken.as_text())
