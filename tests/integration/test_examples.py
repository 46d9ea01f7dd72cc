"""The examples in the help of commands: each is a command that parses, and a table `articles` is taken through them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from harness import Harness

import pg_qwen_embed
from pg_qwen_embed.cli import COMMANDS, main
from pg_qwen_embed.cli._examples import EXAMPLES, PROGRAM

WITH_EXAMPLES = {"init", "attach", "worker", "backfill", "status", "search", "index", "sql", "doctor"}
WIDTH = 80
TYPED = [(path, one.typed) for path, examples in EXAMPLES.items() for one in examples]
MODEL = "Qwen/Qwen3-Embedding-0.6B"
PREPARE = """
CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, likes int NOT NULL DEFAULT 0);
INSERT INTO articles SELECT n, 'title ' || n, 'error 0x80070057 in body ' || n, n FROM generate_series(1, 20) n
"""


BEFORE = {  # 20 vectors have no index until somebody wants one
    "index list": ["index create articles"],
    "index create articles": ["index drop articles"],
    "index check articles --recall 0.995": ["index create articles"],
}


def words(typed: str) -> list[str]:
    return shlex.split(typed.replace("\\\n", " "))


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> list[str]:
    """Parse as the command line does, and run nothing. Returns the names of the commands. Raises click.UsageError."""
    context = command.make_context(command.name, arguments, parent)
    if not isinstance(command, click.Group):
        return []
    name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    assert name is not None
    assert inner is not None
    return [name, *parse(inner, rest, context)]


@pytest.mark.parametrize(("path", "typed"), TYPED)
def test_each_example_is_a_command_that_parses(path: str, typed: str) -> None:
    assert " ".join(parse(main, words(typed))).startswith(path)


def test_an_example_that_does_not_parse_is_noticed() -> None:
    for typed in ("attach articles --txt body", "index chek articles", "status --max-lag soon"):
        with pytest.raises(click.UsageError):
            parse(main, words(typed))


def commands(group: click.Group, context: click.Context, path: str = "") -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, context, f"{path}{name} ")


def test_commands_that_are_used_most_have_examples_and_each_is_shown() -> None:
    paths = list(commands(main, click.Context(main)))
    assert WITH_EXAMPLES <= set(EXAMPLES) <= set(paths)
    for path, examples in EXAMPLES.items():
        said = CliRunner().invoke(main, [*path.split(), "--help"], terminal_width=WIDTH, prog_name=PROGRAM).output
        assert [one.typed for one in examples if one.typed.splitlines()[0] not in said] == []
        shown = said.split("Examples:")[1].splitlines()
        assert [line for line in shown if len(line) > WIDTH] == []
    assert {path.split()[0] for path in EXAMPLES} <= set(COMMANDS)


def is_left_out(typed: str) -> bool:
    """It never ends, waits for a worker, or names another server or database."""
    command, *rest = words(typed)
    return (
        command in ("serve", "backfill", "generation")
        or (command == "worker" and "--once" not in rest)
        or "://" in typed
    )


@pytest.mark.long
def test_examples_in_their_order_are_a_session(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.csv").write_text("query,key\nwhich body has the error,7\n", encoding="utf-8")
    (tmp_path / "queries.txt").write_text("a first query\na second one\n", encoding="utf-8")
    harness.server.model, harness.server.dimensions = MODEL, 1024
    harness.execute(PREPARE)
    harness.execute("CREATE ROLE web")
    for _, typed in TYPED:
        if is_left_out(typed):
            continue
        for before in BEFORE.get(typed, []):
            harness.ok(*words(before))
        result = harness.cli(*words(typed))
        assert result.exit_code == 0, f"{typed}: {result.output}{result.stderr}"


PACKAGE = Path(pg_qwen_embed.__file__).parent
RAW = re.compile(r"pg-qwen-embed (?:[a-z-]+ )+\{(?:\w+\.)*name\}")


def test_no_message_writes_a_name_into_a_command_as_it_is() -> None:
    """domain/next_step.py quotes it for the shell."""
    files = [file for folder in PACKAGE.iterdir() if folder.is_dir() for file in folder.rglob("*.py")]
    assert [(file.name, found) for file in files for found in RAW.findall(file.read_text(encoding="utf-8"))] == []
    assert RAW.search('f"run: pg-qwen-embed verify {one.name} --repair"')


@pytest.mark.parametrize("name", ["Two words", "it's", "-x"])
def test_commands_that_attach_names_run_as_they_stand(harness: Harness, name: str) -> None:
    harness.articles("one", "two")
    said = harness.ok("attach", "articles", "--text", "body", "--name", name)
    worker, search, sql = re.findall(r"pg-qwen-embed ([^\n]+?)(?=, or in SQL|\n)|in SQL: pg-qwen-embed (.*)", said)
    assert parse(main, words(worker[0])) == ["worker"]
    harness.once()
    assert "one" in harness.ok(*words(search[0]))
    assert "FROM" in harness.ok(*words(sql[1]))
    assert harness.ok("status", "--", name).startswith(f"{name}  ")
