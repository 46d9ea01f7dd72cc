"""The template: which columns make a document, and the text between them. Pure.

This file parses and prints templates; postgres/expressions.py compiles them to SQL."""

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pg_qwen_embed.domain.errors import UsageError

PARAGRAPH = "\n\n"
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


@dataclass(frozen=True, slots=True)
class Placeholder:
    column: str


Part = str | Placeholder


@dataclass(frozen=True, slots=True)
class Template:
    """Literal text and columns in order; or, with a `separator`, columns alone, joined where they are not NULL.

    A document whose columns are all NULL is NULL."""

    parts: tuple[Part, ...]
    separator: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the document, each once, in order of appearance."""
        return tuple(dict.fromkeys(part.column for part in self.parts if isinstance(part, Placeholder)))

    def with_columns(self, name: Callable[[str], str]) -> "Template":
        """The same template with each column under the name that the function gives it."""
        return Template(
            tuple(Placeholder(name(p.column)) if isinstance(p, Placeholder) else p for p in self.parts), self.separator
        )

    def __str__(self) -> str:
        written = ("{" + p.column + "}" if isinstance(p, Placeholder) else p for p in self.parts)
        return (self.separator or "").join(written)

    def to_json(self) -> dict[str, Any]:
        """The JSON object that the registry keeps; `from_json` reads it."""
        parts = [{"column": p.column} if isinstance(p, Placeholder) else p for p in self.parts]
        return {"parts": parts, "separator": self.separator}


def from_json(value: dict[str, Any]) -> Template:
    parts = tuple(p if isinstance(p, str) else Placeholder(p["column"]) for p in value["parts"])
    return Template(parts, value["separator"])


def from_columns(columns: tuple[str, ...]) -> Template:
    """The template of `--text A --text B`: the columns that are not NULL, with a blank line between them."""
    return Template(tuple(Placeholder(column) for column in columns), separator=PARAGRAPH)


def parse(text: str) -> Template:
    r"""Parse '{title}\n\n{body}': columns in braces, `{{` and `}}` for braces, and the escapes \n, \t and \\.

    Raises UsageError for anything else."""
    parts: list[Part] = []
    try:
        for literal, column, spec, conversion in string.Formatter().parse(_unescape(text)):
            if literal:
                parts.append(literal)
            if column is None:
                continue
            if spec or conversion or not column:
                raise UsageError(f"template {text!r}: write the name of a column alone between braces, not {{{column}"
                                 f"{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}")  # fmt: skip
            parts.append(Placeholder(column))
    except ValueError as error:
        raise UsageError(f"template {text!r} cannot be read ({error}); write {{{{ for a brace") from None
    template = Template(tuple(parts))
    if not template.columns:
        raise UsageError(f"template {text!r} names no column; write it like '{{title}}\\n\\n{{body}}'")
    return template


def _unescape(text: str) -> str:
    return re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], text)
