"""The command line starts at once: what a command does not need is not imported, and every command is listed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import examples
import pytest
from click.testing import CliRunner

from pg_qwen_embed.cli import COMMANDS, main

HEAVY = {"psycopg", "asyncio", "orjson", "difflib", "numpy", "aiohttp", "sqlalchemy", "alembic", "pg_qwen_embed.search",
         "pg_qwen_embed.worker"}  # fmt: skip
COMPLETION = "_PG_QWEN_EMBED_COMPLETE"
PAGE = Path(__file__).parents[2] / "docs" / "first-hour.md"


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
    assert not [
        name for name in modules if name.startswith("pg_qwen_embed.cli.") and not name.startswith("pg_qwen_embed.cli._")
    ]


def test_status_imports_neither_http_nor_migrations_nor_arrays() -> None:
    assert imported("status", "--help").isdisjoint(
        {"aiohttp", "sqlalchemy", "alembic", "numpy", "pg_qwen_embed.domain.events"}
    )


def completed(*words: str) -> dict[str, str]:
    """What a shell offers for the last of these words, which may be empty; each with its purpose."""
    line = ["pg-qwen-embed", *words]
    variables = {COMPLETION: "zsh_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    lines = program(**variables).splitlines()
    return dict(zip(lines[1::3], lines[2::3], strict=True))


def program(**variables: str) -> str:
    """The output of the program as a shell starts it."""
    words = [str(Path(sys.executable).with_name("pg-qwen-embed"))]
    return subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_the_documentation_is_produced_for_each_shell(shell: str) -> None:
    assert f"{COMPLETION}={shell}_source pg-qwen-embed" in PAGE.read_text(encoding="utf-8")
    script = program(**{COMPLETION: f"{shell}_source"})
    assert f"{COMPLETION}={shell}_complete" in script
    assert "pg-qwen-embed" in script


def test_a_shell_completes_commands_options_and_choices() -> None:
    assert completed("") == COMMANDS
    assert list(completed("sta")) == ["status"]
    assert {"check", "create", "drop", "list", "rebuild"} == set(completed("index", ""))
    assert "--recall" in completed("index", "check", "--re")
    assert list(completed("attach", "--distance", "")) == ["cosine", "ip", "l2"]


@pytest.mark.long
def test_postgresql_of_the_page_has_a_database_for_init(tmp_path: Path) -> None:
    (name,) = examples.written("first-hour.md", tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", name], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (stop,) = re.findall(r"`python -c '([^']+)'`", PAGE.read_text(encoding="utf-8"))
    try:
        url = done.stdout.split()[-1]
        assert url.startswith("postgresql://postgres:@/shop?host=")
        commands = [str(Path(sys.executable).with_name("pg-qwen-embed")), "init", "--database-url", url]
        assert "installed version" in subprocess.run(commands, capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run([sys.executable, "-W", "ignore", "-c", stop], cwd=tmp_path, check=True)
    assert not (tmp_path / "pgdata" / "postmaster.pid").exists()


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
