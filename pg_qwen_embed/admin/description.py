"""A table that a person describes, in place of the catalog: by options, or in a TOML file. It opens no connection.

    [table]
    name = 'app."Odd Name"'        # as in SQL; the schema is public if none is written
    key = ["lang", "id"]           # the primary key's columns, in its order
    partitioned = true             # these two are false if they are left out
    before_update_triggers = true

    [columns]                      # every column of the table, in its order
    lang = 'text COLLATE "C"'
    id = "bigint"
    title = "text"

A name in the file stands for itself; in an option it is written as in SQL."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Column, QualifiedName, Source
from pg_qwen_embed.domain.text_form import TextForm, no_text
from pg_qwen_embed.postgres import written

FIRST_GENERATION = 1

_TABLE_ENTRIES = {"name": str, "key": list, "partitioned": bool, "before_update_triggers": bool}


@dataclass(frozen=True, slots=True)
class Description:
    """The description as given. keys, columns: each `NAME TYPE`; a key can be `NAME` alone if the columns have its type.

    generation, vector_schema: what the registry and the catalog would say; None: the default."""

    table: str | None = None
    keys: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    partitioned: bool = False
    before_update_triggers: bool = False
    file: str | None = None
    generation: int | None = None
    vector_schema: str | None = None

    @property
    def describes(self) -> bool:
        """Whether more than the name is described."""
        return bool(self.file or self.keys or self.columns or self.partitioned or self.before_update_triggers)

    @property
    def number(self) -> int:
        return FIRST_GENERATION if self.generation is None else self.generation

    @property
    def extension_schema(self) -> str:
        return self.vector_schema or written.DEFAULT_SCHEMA

    def require_nothing_assumed(self) -> None:
        """Raises UsageError for options whose values the database knows."""
        for option, value in (("--generation", self.generation), ("--vector-schema", self.vector_schema)):
            if value is not None:
                raise UsageError(f"{option} is for a table that is described, by --key and --columns or by --file; leave it "
                                 "out, the database knows it")  # fmt: skip

    def source(self) -> Source:
        """The table as it is described. Raises UsageError, with the reason."""
        if self.file is None:
            return self._from_options()
        if self.keys or self.columns or self.partitioned or self.before_update_triggers:
            raise UsageError("describe the table once: with --file, or with --key and --columns")
        source = from_file(self.file)
        if self.table is not None and written.table(self.table) != source.table:
            raise UsageError(f"{self.file} describes {source.table}, not {self.table}; leave TABLE out")
        return source

    def name(self) -> QualifiedName:
        """The table's name. The rest of the description is checked too. Raises UsageError."""
        return self.source().table if self.describes else written.table(_given(self.table))

    def _from_options(self) -> Source:
        table = written.table(_given(self.table))
        columns = _typed(self.columns)
        keys = [written.column(key) for key in self.keys]
        return _source(table, _with_keys(columns, keys), [name for name, _ in keys], self.partitioned,
                       self.before_update_triggers)  # fmt: skip


def from_file(file: str) -> Source:
    """The table that a file describes. Raises UsageError, with the reason."""
    try:
        content = tomllib.loads(Path(file).read_bytes().decode())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from None
    try:
        return _from_toml(content)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def check_text_columns(source: Source, columns: Sequence[str]) -> None:
    """Raises UsageError for a column that is not described, or whose values have no text of their own."""
    described = {column.name: column for column in source.columns}
    for name in columns:
        if name not in described:
            raise UsageError(
                f'column "{name}" of {source.table} is not described; described are: {", ".join(described)}'
            )
        if described[name].form is TextForm.NONE:
            raise UsageError(no_text(name, described[name].type))


def _from_toml(content: Mapping[str, Any]) -> Source:
    table, columns = _section(content, "table"), _section(content, "columns")
    for entry, value in table.items():
        if type(value) is not _TABLE_ENTRIES.get(entry):
            raise UsageError(f"[table] cannot have {entry} = {value!r}; it has name, key = [...], partitioned = true and "
                             "before_update_triggers = true")  # fmt: skip
    if "name" not in table:
        raise UsageError('[table] has no name; add name = "articles"')
    if not all(isinstance(text, str) for text in (*columns.values(), *table.get("key", ()))):
        raise UsageError('a column\'s name and its type are texts, like id = "bigint" and key = ["id"]')
    return _source(
        written.table(table["name"]),
        [written.column_of(name, text) for name, text in columns.items()],
        table.get("key", ()),
        table.get("partitioned", False),
        table.get("before_update_triggers", False),
    )


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict) or not section:
        raise UsageError(f"there is no section [{name}]; a file has [table] and [columns]")
    return section


def _source(
    table: QualifiedName, columns: Sequence[Column], key: Sequence[str], partitioned: bool, before_update: bool
) -> Source:
    by_name = {column.name: column for column in columns}
    if len(by_name) < len(columns):
        raise UsageError(f"a column of {table} is described twice")
    if not key:
        raise UsageError(f"{table} is described without a primary key, and vectors need one to follow rows; "
                         "add --key 'id bigint', or key = [\"id\"] to the file")  # fmt: skip
    for name in key:
        if name not in by_name:
            raise UsageError(f'key column "{name}" is not among the columns of {table}, so its type is not known; '
                             f"described are: {', '.join(by_name) or 'none'}")  # fmt: skip
    if len(set(key)) < len(key):
        raise UsageError(f"a key column of {table} is named twice")
    return Source(table, tuple(by_name[name] for name in key), tuple(columns), partitioned, before_update)


def _with_keys(columns: list[Column], keys: Sequence[tuple[str, Column | None]]) -> list[Column]:
    """All columns; key columns that are not among the described ones come first."""
    known = {column.name: column for column in columns}
    for name, column in keys:
        if column and known.get(name, column) != column:
            raise UsageError(f'column "{name}" is described as {known[name].type} and, in the key, as {column.type}')
    return [*dict.fromkeys(column for name, column in keys if column and name not in known), *columns]


def _typed(columns: Sequence[str]) -> list[Column]:
    read = [written.column(text) for text in columns]
    for name, column in read:
        if column is None:
            raise UsageError(f"column \"{name}\" has no type; write --columns '{name} text'")
    return [column for _, column in read if column]


def _given(table: str | None) -> str:
    if table is None:
        raise UsageError("name the table: TABLE, or --file with a [table]")
    return table
