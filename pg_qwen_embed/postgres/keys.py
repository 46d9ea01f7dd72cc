"""The columns that identify a row of a source, out of its unique indexes. Pure: a row of describe_sources is its input.

A key is the primary key, or columns that are NOT NULL and have a unique index: one that is valid, immediate, of all rows and
of columns only."""

from collections.abc import Mapping, Sequence
from typing import Any

from pg_qwen_embed.domain.errors import UsageError

Row = Mapping[str, Any]


def is_key(source: Row, names: Sequence[str]) -> bool:
    """Whether these columns, in any order, identify a row."""
    return any(set(names) == set(key) for key in keys(source))


def keys(source: Row) -> list[tuple[str, ...]]:
    """Every key, in the order of its index."""
    columns = {column["number"]: column for column in source["columns"]}
    found = [[columns[number] for number in index] for index in source["unique_keys"] or ()]
    return sorted({tuple(c["name"] for c in key) for key in found if all(c["not_null"] for c in key)})


def chosen(source: Row, wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted key in the order of its index, in which the table is scanned. Raises UsageError."""
    table, known = f"{source['schema']}.{source['name']}", [column["name"] for column in source["columns"]]
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f'{table} has no column "{unknown[0]}" for a key; it has: {", ".join(known)}')
    found = next((key for key in keys(source) if set(key) == set(wanted)), None)
    if found is None:
        raise UsageError(
            f"the columns ({', '.join(wanted)}) of {table} do not identify a row: they need a unique index that is not "
            f"deferrable and not partial, and each must be NOT NULL; {_those_that_do(source)}"
        )
    return found


def without_primary_key(source: Row) -> str:
    """What to do about a table that has no primary key."""
    advice = "vectors need one to follow rows"
    if other := keys(source):
        return f"has no primary key, and {advice}; add --key {','.join(other[0])}, which identifies a row too"
    return (
        f'has no primary key, and {advice}; run: ALTER TABLE "{source["schema"]}"."{source["name"]}" ADD PRIMARY KEY (...); '
        "or add --key with NOT NULL columns that have a unique index"
    )


def _those_that_do(source: Row) -> str:
    found = ["--key " + ",".join(key) for key in keys(source)]
    return f"possible are: {'; '.join(found)}" if found else "the table has no such columns"
