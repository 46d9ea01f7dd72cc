"""The triggers on a source, which append its changed keys to the outbox: their names, functions and conditions."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.postgres import expressions
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.names import INTERNAL_SCHEMA, Names
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger on the source and the function it runs. `event` names both, with the generation's number."""

    event: str
    creation: str  # the statement that creates the trigger
    append: str  # the statement by which its function appends to the outbox

    def name(self, target: Target) -> str:
        return f"qwen_embed_{self.event}_{target.id}"

    def create(self, target: Target) -> Iterator[sql.Composed]:
        names = Names(target)
        own = self._own(target)
        what = {"truncate": "an entry without a key", "key_change": "both keys"}.get(self.event, "the row's key")
        comment = names.comment(f"after {self.event.replace('_', ' ')}: appends {what} to the outbox")
        yield statement("create_follow_function", names, **own, body=sql.Literal(self.body(target)))
        yield statement("revoke_function", names, **own)
        yield statement("comment_function", names, **own, comment=comment)
        of_columns = expressions.update_of(self.columns(target))
        yield statement(self.creation, names, **own, of_columns=of_columns)
        yield statement("enable_trigger_always", names, **own)
        yield statement("comment_trigger", names, **own, comment=comment)

    def drop(self, target: Target) -> sql.Composed:
        return statement("drop_trigger", Names(target), **self._own(target))

    def drop_function(self, target: Target) -> sql.Composed:
        return statement("drop_function", **self._own(target))

    def body(self, target: Target) -> str:
        """The source code of its function."""
        names = Names(target)
        return as_text(statement("follow_body", names, append=statement(self.append, names)))

    def columns(self, target: Target) -> tuple[str, ...]:
        """The columns that an UPDATE must name to fire the trigger; none: every UPDATE fires it."""
        source = target.source
        if self.event not in ("update", "key_change") or source.before_update_triggers:
            return ()  # such triggers may change a column that the UPDATE does not name
        if self.event == "key_change":
            return tuple(column.name for column in source.key)
        return target.spec.template.columns

    def _own(self, target: Target) -> dict[str, sql.Composable]:
        return {
            "function": sql.Identifier(INTERNAL_SCHEMA, f"follow_{self.event}_{target.id}"),
            "trigger": sql.Identifier(self.name(target)),
        }


_UPDATE = Trigger("update", "create_update_trigger", "append_row")
_KEY_CHANGE = Trigger("key_change", "create_key_trigger", "append_both_keys")
_TRUNCATE = Trigger("truncate", "create_truncate_trigger", "append_truncation")
_BY_STATEMENT = (
    Trigger("insert", "create_insert_trigger", "append_changed_rows"),
    _UPDATE,
    _KEY_CHANGE,
    Trigger("delete", "create_delete_trigger", "append_changed_rows"),
    _TRUNCATE,
)
_BY_ROW = (
    Trigger("insert", "create_insert_row_trigger", "append_row"),
    _UPDATE,
    _KEY_CHANGE,
    Trigger("delete", "create_delete_row_trigger", "append_old_row"),
    _TRUNCATE,
)


def triggers(target: Target) -> tuple[Trigger, ...]:
    """The triggers of a generation, in the order in which they are created."""
    return _BY_ROW if target.source.partitioned else _BY_STATEMENT
