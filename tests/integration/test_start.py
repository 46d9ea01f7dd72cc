"""The command line starts at once: what a command does not need is not imported, and every command is listed."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from pg_qwen_embed.cli import COMMANDS, main

HEAVY = ("numpy", "aiohttp", "sqlalchemy", "alembic", "pg_qwen_embed.search", "pg_qwen_embed.worker")


def imported(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    program = (
        "import sys, atexit; from pg_qwen_embed.cli import main; "
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_no_command_and_nothing_heavy() -> None:
    modules = imported("--help")
    assert "click" in modules
    assert modules.isdisjoint(HEAVY)
    assert not [name for name in modules if name.startswith("pg_qwen_embed.cli.") and not name.endswith("._options")]


def test_status_imports_neither_http_nor_migrations() -> None:
    assert imported("status", "--help").isdisjoint({"aiohttp", "sqlalchemy", "alembic"})


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_one_short_line_for_each(name: str) -> None:
    said = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{name} ")]
    assert line.endswith(".")
    assert not line.endswith("...")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("stat", "status"), ("atach", "attach"), ("failures lst", "list"), ("status --jsn", "--json")],
)
def test_an_unknown_command_or_option_suggests_the_near_one(typed: str, meant: str) -> None:
    result = CliRunner().invoke(main, typed.split())
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.output


def test_a_name_that_resembles_nothing_is_an_error_without_a_suggestion() -> None:
    result = CliRunner().invoke(main, ["xyzzy"])
    assert (result.exit_code, "Did you mean" in result.output) == (2, False)
    assert isinstance(result.exception, SystemExit | click.UsageError)
