"""`alter`: parses; admin/alter.py alters the table, or exchanges the store."""

from functools import partial

import click

from pg_qwen_embed.admin import alter as altering
from pg_qwen_embed.admin import instruction as instructing
from pg_qwen_embed.cli._declaration import names
from pg_qwen_embed.cli._options import say, with_settings
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.postgres.connection import connect
from pg_qwen_embed.settings import Settings


@click.command()
@click.argument("name")
@click.option("--sql", "command", metavar="SQL", help="Run ALTER TABLE on an embedded column, or several statements.")
@click.option("--rekey", is_flag=True, help="Follow the primary key that the table has now.")
@click.option(
    "--key",
    default="",
    metavar="COLS",
    help="With --rekey or --table: another key, 'tenant,id': NOT NULL columns with a unique index.",
)
@click.option("--table", metavar="TABLE", help="Follow another table, which took the place of the one followed.")
@click.option("--instruction", metavar="TEXT", help="Put another instruction in front of queries, from now on.")
@with_settings("database_url")
def alter(
    settings: Settings,
    name: str,
    command: str | None,
    rekey: bool,
    key: str,
    table: str | None,
    instruction: str | None,
) -> None:
    """Alter the embedding NAME, or its table where the embedding would be in the way. Vectors and grants are kept.

    With --sql, what depends on the embedded columns is dropped and created again in the transaction of SQL. Run it as the
    owner of the table. The worker then embeds the rows whose document changed, and no others.
    """
    if sum((command is not None, rekey, table is not None, instruction is not None)) != 1:
        raise UsageError(
            "say what to alter: --sql 'ALTER TABLE ...', or --rekey, or --table TABLE, or --instruction TEXT"
        )
    if key and not (rekey or table):
        raise UsageError("--key is for --rekey or --table; leave it out")
    with connect(settings.database_url, "pg_qwen_embed alter") as connection:
        if instruction is not None:
            instructing.change(connection, name, instruction)
            say(f"{name}: queries have the new instruction")
            return
        if command is not None:
            altering.run_sql(connection, name, command)
            say(f"{name}: altered; the worker compares all rows, and embeds those whose document changed")
            return
        follow = altering.rekey if rekey else partial(altering.follow_table, table=table or "")
        done = follow(connection, name, key=names(key))
    say(f"{name}: follows ({', '.join(done.key)}); {done.kept:,} rows keep their vectors, the worker embeds the others")
