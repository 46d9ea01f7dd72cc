"""The statements: named, in .sql files beside this one, and the fragments that fill their holes.

A statement begins with `-- name: NAME`, then says its purpose and its hazard. `{holes}` are filled with identifiers
and fragments, which psycopg quotes; `%(values)s` are bound. At run time a statement carries its name as a comment,
so that pg_stat_activity and pg_stat_statements can be read."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from psycopg import sql

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def statement(name: str, placeholders: Mapping[str, sql.Composable] | None = None) -> sql.Composed:
    """The statement of that name, its holes filled, to be executed with values (if only `{}`): a percent sign in a name
    is doubled. KeyError if there is no such statement or hole."""
    return sql.SQL(_catalogue()[name]).format(
        **{key: _doubled(placeholder) for key, placeholder in (placeholders or {}).items()}
    )


def _doubled(placeholder: sql.Composable) -> sql.Composable:
    """A percent sign in a name or a literal is no placeholder."""
    if isinstance(placeholder, sql.Composed):
        return sql.Composed([_doubled(piece) for piece in placeholder])
    if isinstance(placeholder, sql.Identifier | sql.Literal):
        return sql.SQL(placeholder.as_string(None).replace("%", "%%"))
    return placeholder


def names() -> tuple[str, ...]:
    return tuple(_catalogue())


@cache
def _catalogue() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(resources.files(__package__).iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        _, *pieces = _NAME.split(file.read_text(encoding="utf-8"))
        for name, text in zip(pieces[::2], pieces[1::2], strict=True):
            if name in found:
                raise ValueError(f"{file.name}: the statement {name} is there twice")
            found[name] = f"/* pg_qwen_embed:{name} */ {_without_comments(text)}"
    return found


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--")).strip().rstrip(";")
