"""The command line: each command parses, calls one use case, and prints."""

import importlib
import io
import signal
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from pg_qwen_embed.cli import _examples
from pg_qwen_embed.domain.errors import Error
from pg_qwen_embed.domain.foreign import LINE, shown
from pg_qwen_embed.domain.texts import is_storable

SECRETS = "pg_qwen_embed.secrets"  # in the context: what an error must not show

# In the order in which a user meets them. Each lives in the file of its name, imported only when used: --help stays quick.
COMMANDS = {
    "init": "Set up the database.",
    "attach": "Declare an embedding on a table.",
    "alter": "Alter a table that has an embedding.",
    "instructions": "The pool of instructions: list, add, remove.",
    "detach": "Remove an embedding.",
    "worker": "Fill embeddings, and keep them in step with the text.",
    "backfill": "Start a backfill, or watch it.",
    "status": "Rows, vectors, lag, failures and index of each embedding.",
    "search": "Find the rows nearest to a text.",
    "index": "ANN indexes: list, build, drop, measure.",
    "evaluate": "Measure what finds the right rows, and what would find more.",
    "generation": "Change model, dimensions or template, without downtime.",
    "verify": "Count missing, stale and orphaned vectors; repair them.",
    "failures": "Documents that the server rejects: list, retry, discard.",
    "doctor": "Check settings, database, embeddings and servers.",
    "sql": "Print the SQL, the grants or the locks of a command.",
    "serve": "Serve embeddings on this machine, without a GPU.",
    "mcp": "Serve searches to an agent (Model Context Protocol).",
    "sglang-command": "Print the command that starts SGLang.",
    "demo": "See it work, with a PostgreSQL and a server of its own.",
}


class Commands(click.Group):
    """Lists the commands in the order of COMMANDS. An Error becomes one sentence on stderr and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Likewise: a shell does not wait for the import of every command."""
        found = [
            CompletionItem(name, help=purpose) for name, purpose in COMMANDS.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and (near := _near(args[0])):
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"pg_qwen_embed.cli.{name}"), name)
        _examples.add(cmd_name, command)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see __main__.py; from here on click handles it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Characters that the terminal's encoding lacks are written as escapes."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return super().main(*args, **extra)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        for argument in args:
            if not is_storable(argument):  # Python keeps bytes that are no characters as halves of surrogate pairs
                raise click.ClickException(
                    f"the argument {ascii(argument)[:100]} is not valid UTF-8; write it in UTF-8"
                )
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Error as error:
            raise _one_sentence(ctx, str(error)) from None
        except Exception as error:
            said = _said_by_postgresql(error)
            if said is None:
                raise
            raise _one_sentence(ctx, f"PostgreSQL: {said}") from None


# What only an error needs is imported for an error: --help stays quick.
def _near(typed: str) -> list[str]:
    import difflib

    return difflib.get_close_matches(typed, COMMANDS, n=1)


def _said_by_postgresql(error: Exception) -> str | None:
    import psycopg

    return error.diag.message_primary or str(error) if isinstance(error, psycopg.Error) else None


def _one_sentence(ctx: click.Context, text: str) -> click.ClickException:
    from pg_qwen_embed.domain.secrets import Secrets

    secrets: Secrets = ctx.meta.get(SECRETS) or Secrets()
    return click.ClickException(shown(secrets.hidden(text), LINE))


@click.group(cls=Commands, epilog=_examples.FIRST_STEPS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pg-qwen-embed")
def main() -> None:
    """Declare an embedding on a PostgreSQL table, and its vectors follow the text.

    Start with `init`, then `attach` a table and keep a `worker` running; or see it all with `demo`.
    """
