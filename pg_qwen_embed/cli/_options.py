"""Options that several commands share."""

import os
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import orjson

from pg_qwen_embed.domain.foreign import escaped
from pg_qwen_embed.domain.source import check_name
from pg_qwen_embed.settings import VARIABLES, Settings, resolve

SECRETS = "pg_qwen_embed.secrets"  # in the context: what an error must not show

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


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def say(text: str, *, err: bool = False) -> None:
    """Print lines of text. What rows, roles or servers have put into it does not reach the terminal as a control."""
    click.echo(escaped(text, keep="\n"), err=err)


def print_json(value: Any) -> None:
    """Print as JSON, with times in ISO 8601. A value that JSON has no type for becomes its text."""

    def other(thing: object) -> str:
        return thing.isoformat() if isinstance(thing, datetime) else str(thing)

    options = orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATETIME
    click.echo(orjson.dumps(value, default=other, option=options).decode())


def valid_name(_: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback for options that take a name in PostgreSQL. Raises UsageError."""
    if name is not None:
        check_name(name, option.opts[0])
    return name
