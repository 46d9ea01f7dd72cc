"""Write the generated parts of the documentation: docs/commands.md, docs/sql.md, docs/licences.md, and the tables between
markers in other pages.

    python -m tools.generate_docs [--check]

With --check it writes nothing and fails when something is out of date."""

import sys
from pathlib import Path

import click

from pg_qwen_embed.admin import locks
from pg_qwen_embed.cli import COMMANDS, main
from pg_qwen_embed.settings import VARIABLES
from tools import licences, sql_page

ROOT = Path(__file__).resolve().parent.parent
COMMANDS_PAGE = ROOT / "docs" / "commands.md"
SQL_PAGE = ROOT / "docs" / "sql.md"
CONFIGURATION_PAGE = ROOT / "docs" / "operations.md"
LOCKS_PAGE = ROOT / "docs" / "objects-locks-grants.md"
END = "<!-- end -->"
WIDTH = 100


def commands() -> str:
    """docs/commands.md: the help of every command."""
    parts = ["# Commands\n\nGenerated from `pg-qwen-embed COMMAND --help` by `make docs`.\n"]
    with main.make_context("pg-qwen-embed", [], resilient_parsing=True) as parent:
        for name in COMMANDS:
            command = main.get_command(parent, name)
            if command is None:
                raise SystemExit(f"the command {name} is not there")
            context = click.Context(command, parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
            parts.append(f"## {name}\n\n```\n{command.get_help(context)}\n```\n")
            for inner in command.commands.values() if isinstance(command, click.Group) else ():
                context_of = click.Context(inner, context, info_name=inner.name, max_content_width=WIDTH)
                parts.append(f"### {name} {inner.name}\n\n```\n{inner.get_help(context_of)}\n```\n")
    return "\n".join(parts)


def configuration() -> str:
    """The table of the settings."""
    rows = ["| option | environment | meaning |", "|---|---|---|"]
    for name, (variables, meaning) in VARIABLES.items():
        option = (
            f"`--{name.replace('_', '-')}`"
            if not name.endswith("api_key")
            else "none: it would show in the process list"
        )
        rows.append(f"| {option} | {', '.join(f'`{v}`' for v in variables)} | {meaning} |")
    return "\n".join(rows)


def with_part(page: Path, name: str, part: str) -> str:
    """The page, with this text between the markers of that name."""
    begin = f"<!-- generated: {name} -->"
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    _, after = rest.split(END, 1)
    return f"{before}{begin}\n{part}\n{END}{after}"


def wanted() -> dict[Path, str]:
    """Each generated page as it should be."""
    return {
        COMMANDS_PAGE: commands(),
        SQL_PAGE: sql_page.page(),
        licences.PAGE: licences.page(),
        CONFIGURATION_PAGE: with_part(CONFIGURATION_PAGE, "configuration", configuration()),
        LOCKS_PAGE: with_part(LOCKS_PAGE, "locks", locks.as_markdown()),
    }


if __name__ == "__main__":
    for file, text in wanted().items():
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{file.relative_to(ROOT)} is out of date; run: make docs")
