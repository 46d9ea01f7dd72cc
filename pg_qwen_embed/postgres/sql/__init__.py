"""The statements: each has a name and a purpose, and lives in a file of this folder. Python only fills in placeholders.

A placeholder `{store}` is an attribute of the `Names` that a statement is rendered with; `{key:s}` calls one with an
argument. Where a name was filled in, a percent sign is doubled, because psycopg reads it as a bound value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import takewhile
from string import Formatter
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from pg_qwen_embed.postgres.key_names import KeyNames

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as it is written. purpose: the comment after its name, hazard included, as one paragraph."""

    name: str
    purpose: str
    text: str


@dataclass(frozen=True, slots=True)
class StatementFile:
    """A file of statements. purpose: the comment at its top."""

    name: str
    purpose: str
    statements: tuple[Statement, ...]


def statement(name: str, names: "KeyNames | None" = None, /, **pieces: sql.Composable) -> sql.Composed:
    """The statement of that name, rendered; to be executed with values (if only `{}`).

    names: an object whose attributes are its placeholders. pieces: placeholders that `names` lacks, or that replace its own.
    Raises KeyError if there is no such statement, AttributeError if there is no such placeholder."""
    rendered: list[sql.Composable] = []
    for literal, placeholder, argument, _ in Formatter().parse(_catalogue()[name]):
        rendered.append(sql.SQL(literal))
        if placeholder is not None:
            value: Any = pieces[placeholder] if placeholder in pieces else getattr(names, placeholder)
            rendered.append(_doubled(value(argument) if argument else value))
    return sql.Composed(rendered)


def _doubled(value: sql.Composable) -> sql.Composable:
    """A percent sign in a name or a literal is no placeholder of psycopg's."""
    if isinstance(value, sql.Composed):
        return sql.Composed([_doubled(piece) for piece in value])
    if isinstance(value, sql.Identifier | sql.Literal):
        return sql.SQL(value.as_string(None).replace("%", "%%"))
    return value


def names() -> tuple[str, ...]:
    """The name of every statement."""
    return tuple(_catalogue())


def files() -> Iterator[StatementFile]:
    """Every file with its statements, as they are written."""
    for file in sorted(resources.files(__package__).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            yield _read(file.name, file.read_text(encoding="utf-8"))


def _read(name: str, text: str) -> StatementFile:
    top, *pieces = _NAME.split(text)
    written = zip(pieces[::2], pieces[1::2], strict=True)
    statements = (Statement(own, _purpose(piece), _without_comments(piece)) for own, piece in written)
    return StatementFile(name, _purpose(top), tuple(statements))


@cache
def _catalogue() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files():
        for one in file.statements:
            if one.name in found:
                raise ValueError(f"{file.name}: the statement {one.name} is there twice")
            found[one.name] = f"/* pg_qwen_embed:{one.name} */ {one.text}"
    return found


def _purpose(text: str) -> str:
    lines = takewhile(lambda line: line.startswith("--"), text.splitlines())
    return " ".join(line.removeprefix("--").strip() for line in lines)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--")).strip().rstrip(";")
