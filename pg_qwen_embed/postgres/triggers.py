"""The triggers on a source, which append its changed keys to the outbox: their names, functions and conditions."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Append:
    """How a trigger function appends to the outbox: each attribute is the name of a statement."""

    by_attached_name: str  # appends by the names that the key's columns have when the function is made
    probe: str  # fails where `by_attached_name` would
    by_present_name: str  # appends by the present names


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger on the source and the function it runs. `event` names both, with the generation's number."""

    event: str
    creation: str  # the statement that creates the trigger
    append: Append

    @property
    def by_row(self) -> bool:
        """Whether it fires for each row, not for each statement."""
        return self.append not in (_ROWS, _NO_KEY)

    def name(self, target: Target) -> str:
        return f"qwen_embed_{self.event}_{target.id}"

    def create(self, target: Target) -> Iterator[sql.Composed]:
        names, own = Names(target), self._own(target)
        yield from self.create_function(target)
        of_columns = expressions.update_of(self.columns(target))
        yield statement(self.creation, names, **own, of_columns=of_columns)
        yield statement("enable_trigger_always", names, **own)
        yield statement("comment_trigger", names, **own, comment=self._comment(names))

    def create_function(self, target: Target) -> Iterator[sql.Composed]:
        """Creates or replaces the function that the trigger runs."""
        names, own = Names(target), self._own(target)
        yield statement("create_follow_function", names, **own, body=sql.Literal(self.body(target)))
        yield statement("revoke_function", names, **own)
        yield statement("comment_function", names, **own, comment=self._comment(names))

    def _comment(self, names: Names) -> sql.Literal:
        what = {"truncate": "an entry without a key", "key_change": "both keys"}.get(self.event, "the row's key")
        return names.comment(f"after {self.event.replace('_', ' ')}: appends {what} to the outbox")

    def drop(self, target: Target) -> sql.Composed:
        return statement("drop_trigger", Names(target), **self._own(target))

    def drop_function(self, target: Target) -> sql.Composed:
        return statement("drop_function", **self._own(target))

    def body(self, target: Target) -> str:
        """The source code of its function."""
        names = Names(target)
        append = statement(self.append.by_attached_name, names)
        probe, append_renamed = statement(self.append.probe, names), statement(self.append.by_present_name, names)
        signal = statement("signal_worker", names) if target.spec.notify else statement("no_signal")
        return as_text(
            statement("follow_body", names, append=append, probe=probe, append_renamed=append_renamed, signal=signal)
        )

    def columns(self, target: Target) -> tuple[str, ...]:
        """The columns that an UPDATE must name to fire the trigger; none: every UPDATE fires it."""
        source = target.source
        if self.event not in ("update", "key_change") or source.before_update_triggers:
            return ()  # such triggers may change a column that the UPDATE does not name
        if self.event == "key_change":
            return tuple(column.name for column in source.key)
        return target.template.columns

    def condition(self, target: Target) -> tuple[int, int]:
        """How many columns its condition compares as they are, and how many as rows; none: there is no condition."""
        if self.event == "update":
            return expressions.comparisons(Names(target).embedded, key=False)
        return expressions.comparisons(target.source.key if self.event == "key_change" else (), key=True)

    def _own(self, target: Target) -> dict[str, sql.Composable]:
        return {
            "function": sql.Identifier(INTERNAL_SCHEMA, f"follow_{self.event}_{target.id}"),
            "trigger": sql.Identifier(self.name(target)),
        }


_ROWS = Append("append_changed_rows", "probe_changed_rows", "append_renamed_changed_rows")
_ROW = Append("append_row", "probe_row", "append_renamed_row")
_OLD_ROW = Append("append_old_row", "probe_old_row", "append_renamed_old_row")
_BOTH_KEYS = Append("append_both_keys", "probe_row", "append_renamed_both_keys")
_NO_KEY = Append("append_truncation", "probe_outbox", "append_nothing")
_UPDATE = Trigger("update", "create_update_trigger", _ROW)
_KEY_CHANGE = Trigger("key_change", "create_key_trigger", _BOTH_KEYS)
_TRUNCATE = Trigger("truncate", "create_truncate_trigger", _NO_KEY)
_BY_STATEMENT = (
    Trigger("insert", "create_insert_trigger", _ROWS),
    _UPDATE,
    _KEY_CHANGE,
    Trigger("delete", "create_delete_trigger", _ROWS),
    _TRUNCATE,
)
_BY_ROW = (
    Trigger("insert", "create_insert_row_trigger", _ROW),
    _UPDATE,
    _KEY_CHANGE,
    Trigger("delete", "create_delete_row_trigger", _OLD_ROW),
    _TRUNCATE,
)


def triggers(target: Target) -> tuple[Trigger, ...]:
    """The triggers of a generation, in the order in which they are created."""
    return _BY_ROW if target.source.by_row else _BY_STATEMENT
