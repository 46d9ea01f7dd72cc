"""Options that several commands share."""

import json
import math
import os
import sys
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import orjson

from pg_qwen_embed.cli import SECRETS
from pg_qwen_embed.domain.foreign import escaped
from pg_qwen_embed.domain.source import check_name
from pg_qwen_embed.settings import VARIABLES, Settings, resolve

P = ParamSpec("P")
R = TypeVar("R")


def with_settings(*names: str) -> Callable[[Callable[Concatenate[Settings, P], R]], Callable[..., R]]:
    """Give a command these settings as options, and all settings as its first argument."""

    def decorate(command: Callable[Concatenate[Settings, P], R]) -> Callable[..., R]:
        @wraps(command)
        def run(*args: Any, **values: Any) -> R:
            settings = resolve(os.environ, **{name: values.pop(name) for name in names})
            click.get_current_context().meta[SECRETS] = settings.secrets
            return command(settings, *args, **values)

        decorated: Callable[..., R] = run
        for name in reversed(names):
            variables, meaning = VARIABLES[name]
            decorated = click.option(
                f"--{name.replace('_', '-')}",
                metavar="FILE" if name.endswith("_file") else "URL",
                help=f"{meaning}  [env: {', '.join(variables)}]",
            )(decorated)
        return decorated

    return decorate


class InOrder(click.Group):
    """Lists its commands in the order in which they are defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def say(text: str, *, err: bool = False) -> None:
    """Print lines of text. What rows, roles or servers have put into it does not reach the terminal as a control."""
    click.echo(escaped(text, keep="\n"), err=err)


def print_json(value: Any) -> None:
    """Print as JSON, with times in ISO 8601. A value that JSON has no type for becomes its text."""
    click.echo(_json(value, sys.stdout.encoding or "utf-8"))


def _json(value: Any, encoding: str) -> str:
    try:
        text = orjson.dumps(value, default=_text, option=orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATETIME).decode()
        text.encode(encoding)
    except (TypeError, UnicodeEncodeError):
        # An integer over 64 bits, half a surrogate pair, or a character that the terminal lacks: in ASCII with escapes.
        return json.dumps(_without_nan(value), default=_text, indent=2)
    return text


def _text(thing: object) -> str:
    return thing.isoformat() if isinstance(thing, datetime) else str(thing)


def _without_nan(value: Any) -> Any:
    """With null in place of numbers that JSON does not have, as orjson writes them."""
    match value:
        case dict():
            return {key: _without_nan(one) for key, one in value.items()}
        case list() | tuple():
            return [_without_nan(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value


def valid_name(_: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback for options that take a name in PostgreSQL. Raises UsageError."""
    if name is not None:
        check_name(name, option.opts[0])
    return name
