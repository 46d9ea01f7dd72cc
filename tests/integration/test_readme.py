"""The README's examples, run like a reader would: in one database, from the top of the page to its end."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import DEADLINE, Harness, eventually

from pg_qwen_embed.inference import launch

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
DRAWING = ""  # a block without a language is a drawing
RUN = {"console", "sql", "python"}
LEFT_OUT = {
    "make": "it installs, and runs this suite",
    "pip install": "the package is installed",
    "python -m sglang.launch_server": "it needs a GPU; its flags are compared with our own command's",
}
PORT, DATABASE_URL, DATABASE = "30000", "postgresql://localhost/shop", "shop"  # replaced by the test's own
TOLERANCE = 0.02  # of a decimal fraction: distances depend a little on the processor
FRACTION = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its lines."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line after `$`, and the lines that the README shows below it."""

    line: str
    shown: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def commands(block: Block) -> Iterator[Command]:
    assert block.text.startswith("$ "), block.text
    for part in re.split(r"^\$ ", block.text.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        yield Command(line, shown)


def left_out(command: Command) -> bool:
    return any(command.line.startswith(f"{start} ") for start in LEFT_OUT)


def agree(shown: str, said: str) -> bool:
    """Whether all lines are equal; decimal fractions may differ by the tolerance."""
    lines, others = ([line.rstrip() for line in text.splitlines()] for text in (shown, said.rstrip("\n")))
    if len(lines) != len(others):
        return False
    return all(_same(line, other) for line, other in zip(lines, others, strict=True))


def _same(line: str, other: str) -> bool:
    if FRACTION.sub("#", line) != FRACTION.sub("#", other):
        return False
    pairs = zip(FRACTION.findall(line), FRACTION.findall(other), strict=True)
    return all(abs(float(one) - float(two)) <= TOLERANCE for one, two in pairs)


class Reader:
    """A reader who types what the README shows, with the test's database and port."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        bindir = harness.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        self._psql = [str(Path(bindir) / "psql"), "--no-psqlrc", "--set", "ON_ERROR_STOP=1"]

    def follow(self, block: Block) -> None:
        match block.language:
            case "console":
                for command in commands(block):
                    if not left_out(command):
                        self.type(command)
            case "sql":
                self._run([*self._psql, self.harness.url, "--command", block.text])
            case "python":
                self.program(block.text)

    def type(self, command: Command) -> None:
        match shlex.split(command.line, comments=True):
            case ["export", assignment]:
                assert assignment == f"PG_QWEN_EMBED_DATABASE_URL={DATABASE_URL}"
            case ["pg-qwen-embed", *arguments, "&"]:
                self.start(arguments)
            case ["pg-qwen-embed", *arguments]:
                self._compare(command, [sys.executable, "-m", "pg_qwen_embed", *arguments])
            case ["psql", database, *arguments]:
                assert database == DATABASE
                self._compare(command, [*self._psql, self.harness.url, *arguments])
            case _:
                raise AssertionError(f"no rule says how to run: {command.line}")

    def start(self, arguments: list[str]) -> None:
        """A command in the background; `serve` gets a free port, and is waited for."""
        process = self.harness.process(*["0" if argument == PORT else argument for argument in arguments])
        if arguments[0] == "serve":
            assert PORT in arguments
            ready = eventually(lambda: re.search(r"on (http://\S+/v1)", process.said))
            self.harness.environment["PG_QWEN_EMBED_SERVER_URL"] = ready[1]

    def program(self, text: str) -> None:
        """A Python block with a psycopg `connection`. A line that prints shows its output in a comment."""
        shown = "".join(f"{line}\n" for line in re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE))
        assert shown.count("\n") == text.count("print(")
        preamble = f"import psycopg\nconnection = psycopg.connect({self.harness.url!r})\n"
        said = self._run([sys.executable, "-c", preamble + text])
        assert agree(shown, said), f"the README shows\n{shown}and it prints\n{said}"

    def _compare(self, command: Command, words: list[str]) -> None:
        if not command.shown:
            self._run(words)
            return
        reads = "SELECT" in command.line or "search" in words  # the vector follows its row some milliseconds later
        end = time.monotonic() + (DEADLINE if reads else 0)
        while not agree(command.shown, said := self._last_lines(command, words)) and time.monotonic() < end:
            time.sleep(0.1)
        assert agree(command.shown, said), f"$ {command.line}\nthe README shows\n{command.shown}and it prints\n{said}"

    def _last_lines(self, command: Command, words: list[str]) -> str:
        """The output of a command; of `backfill` only the last line, because the others show progress."""
        said = self._run(words)
        return said.splitlines()[-1] if "backfill" in words else said

    def _run(self, words: list[str]) -> str:
        env = {name: value for name, value in (os.environ | self.harness.variables).items() if value is not None}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout


def test_examples_of_the_readme_do_what_it_shows(bare: Harness) -> None:
    reader = Reader(bare)
    for block in blocks(README):
        reader.follow(block)


def test_no_example_of_the_readme_is_passed_over() -> None:
    found = blocks(README)
    assert README.count("```") == 2 * len(found)
    assert {block.language for block in found} == RUN | {DRAWING}
    (drawing,) = [block.text for block in found if block.language == DRAWING]
    assert "outbox" in drawing
    typed = [command for block in found if block.language == "console" for command in commands(block)]
    assert all(any(command.line.startswith(f"{start} ") for command in typed) for start in LEFT_OUT)
    assert not any(command.shown for command in typed if left_out(command))


def test_sglang_is_started_in_the_readme_with_flags_of_our_own_command() -> None:
    (line,) = re.findall(r"^\$ python -m sglang\.launch_server (.*)$", README.replace("\\\n", ""), re.MULTILINE)
    flags = {flag.name for flag in launch.flags("Qwen/Qwen3-Embedding-0.6B", None, "127.0.0.1", int(PORT))}
    assert {word for word in shlex.split(line) if word.startswith("--")} <= flags


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ("0.56 Gazpacho\n", "0.57 Gazpacho\n", True),
        ("0.56 Gazpacho\n", "0.66 Gazpacho\n", False),
        ("0.56 Gazpacho\n", "0.56 Shakshuka\n", False),
        ("installed version 5\n", "installed version 6\n", False),
        ("one\n", "one\ntwo\n", False),
        ("one\ntwo\n", "one\n", False),
    ],
)
def test_output_agrees_but_for_a_little_of_a_fraction(shown: str, said: str, same: bool) -> None:
    assert agree(shown, said) is same
