"""Declarations from other people's migrations: names and plain values, as a migration file holds them.

No server is there when a migration runs, so a declaration names its model and its dimensions. What happens to the
database is in admin/; this file hands it the connection of the migration, in the migration's transaction."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import psycopg
from psycopg import sql

from pg_qwen_embed.admin import alter, instruction
from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.domain import template as templates
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.spec import Chunking, Spec
from pg_qwen_embed.inference.resolve_model import ResolvedModel
from pg_qwen_embed.postgres.borrowed import borrowed, require_transaction, source_as_written

# Properties of a spec that a declaration gives in another way, or that only a server knows.
_OTHERWISE = {"model", "dimensions", "template", "chunking", "weight_version", "full_dimensions", "post"}
_PROPERTIES = tuple(field.name for field in fields(Spec) if field.name not in _OTHERWISE)


def declaration(
    table: str, *, model: str, dimensions: int, schema: str | None = None, text: str | Sequence[str] = (),
    template: str | None = None, name: str | None = None, instruction: str | None = None, column: str = "embedding",
    key: str | Sequence[str] = (), backfill: bool = True, view_columns: str | Sequence[str] = (),
    view_names: Mapping[str, str] | None = None, chunk_tokens: int | None = None, chunk_overlap: int | None = None,
    post: str | None = None, **properties: Any,
) -> attaching.Declaration:  # fmt: skip
    """What admin/attach.py takes, from the options of `pg-qwen-embed attach`.

    text: one column or several. template: or a text with columns in braces. view_columns: names, or "all". properties:
    further ones of the spec, as the registry keeps them: distance="l2", store="column". Raises UsageError."""
    if bool(text) == (template is not None):
        raise UsageError(f"{table}: say what to embed: either text, one column or several, or template")
    made = templates.parse(template) if template is not None else templates.from_columns(_names(text))
    if not model or type(dimensions) is not int:
        raise UsageError(f"{table}: no server is asked when a migration runs; give model and dimensions")
    if chunk_tokens is None and chunk_overlap is not None:
        raise UsageError(f"{table}: chunk_overlap is for chunks: add chunk_tokens, or leave it out")
    chunking = None if chunk_tokens is None else Chunking(chunk_tokens, chunk_overlap or 0)
    spec = ResolvedModel(model, dimensions).spec(made, chunking=chunking, post=post)
    return attaching.Declaration(
        table=_written(table, schema),
        spec=_with(spec, properties, table),
        name=name,
        instruction=instruction,
        column=column,
        backfill=backfill,
        view_columns=None if view_columns == "all" else _names(view_columns),
        view_names=tuple(sorted((view_names or {}).items())),
        key=_names(key),
    )


def attach(connection: psycopg.Connection[Any], table: str, schema: str | None = None, **options: Any) -> Embedding:
    """Create the embedding in the transaction of this connection; the worker fills it after the commit.

    The table may have been created in the same transaction. options: as of `declaration`. Raises UsageError, SetupError
    before `init`."""
    declared = declaration(table, schema=schema, **options)
    require_transaction(connection)
    written = source_as_written(connection, declared.table)
    with borrowed(connection) as ours:
        return attaching.attach(ours, replace(declared, table=written))


def detach(connection: psycopg.Connection[Any], name: str) -> None:
    """Remove the embedding in the transaction of this connection. Raises UsageError."""
    with borrowed(connection) as ours:
        attaching.detach(ours, name)


def change_instruction(connection: psycopg.Connection[Any], name: str, text: str | None) -> None:
    """Give the embedding another instruction, or `@name` of the pool; None: the default one. Raises UsageError."""
    with borrowed(connection) as ours:
        instruction.change(ours, name, text)


@contextmanager
def suspended(connection: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """Inside, every column of the embedding's table can be altered, on this connection and in its transaction.

    Where there is no such embedding, as in a database that is just being made, there is nothing to suspend."""
    with borrowed(connection, pinned=False) as ours:
        if not alter.is_attached(ours, name):
            yield
            return
        with alter.suspended(ours, name):
            yield


def _with(spec: Spec, properties: Mapping[str, Any], table: str) -> Spec:
    written = spec.to_json()
    for name, value in properties.items():
        if name not in _PROPERTIES:
            raise UsageError(f"{table}: an embedding has no option {name}; it has: {', '.join(OPTIONS)}")
        if value is None:
            continue
        try:
            spec = Spec.from_json(written | {name: value})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{table}: {name} cannot be {value!r} ({error})") from None
        written = spec.to_json()
    return spec


def _written(table: str, schema: str | None) -> str:
    return sql.Identifier(*([schema] if schema else []), table).as_string(None)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names of columns: one alone, or several."""
    return (given,) if isinstance(given, str) else tuple(given)


_GIVEN = inspect.signature(declaration).parameters
OPTIONS = tuple(sorted({*_GIVEN, *_PROPERTIES} - {"table", "properties"}))
