"""The triggers on a source that append its changed keys to the outbox: what they are called, what they run, and when."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from pg_qwen_embed.domain.model import Embedding
from pg_qwen_embed.postgres.connection import as_text
from pg_qwen_embed.postgres.sql import fragments, statement


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger on the source and the function it runs. `event` names both, with the generation's number."""

    event: str
    creation: str  # the statement that creates the trigger
    append: str  # the statement by which its function appends to the outbox

    def names(self, embedding: Embedding) -> fragments.Placeholders:
        return {
            "function": sql.Identifier(fragments.INTERNAL_SCHEMA, f"follow_{self.event}_{embedding.generation.id}"),
            "trigger": sql.Identifier(self.name(embedding)),
        }

    def name(self, embedding: Embedding) -> str:
        return f"qwen_embed_{self.event}_{embedding.generation.id}"

    def ddl(self, embedding: Embedding, placeholders: fragments.Placeholders) -> Iterator[sql.Composed]:
        placeholders = placeholders | self.names(embedding)
        what = {"truncate": "an entry without a key", "key_change": "both keys"}.get(self.event, "the row's key")
        note = fragments.comment(embedding, f"after {self.event.replace('_', ' ')}: appends {what} to the outbox")
        yield statement("create_follow_function", placeholders | {"body": sql.Literal(self.body(embedding))})
        yield statement("revoke_function", placeholders)
        yield statement("comment_function", placeholders | note)
        yield statement(self.creation, placeholders | {"of_columns": self._of_columns(embedding)})
        yield statement("enable_trigger_always", placeholders)
        yield statement("comment_trigger", placeholders | note)

    def body(self, embedding: Embedding) -> str:
        """The source of its function."""
        placeholders = fragments.placeholders(embedding) | {
            "r_key": fragments.keys_of(embedding, fragments.TRANSITION_ROW),
            "new_key": fragments.keys_of(embedding, sql.SQL("new")),
            "old_key": fragments.keys_of(embedding, sql.SQL("old")),
        }
        return as_text(statement("follow_body", placeholders | {"append": statement(self.append, placeholders)}))

    def columns(self, embedding: Embedding) -> tuple[str, ...]:
        """The columns that an UPDATE must name to fire it; none: whatever it names."""
        source = embedding.source
        if self.event not in ("update", "key_change") or source.before_update_triggers:
            return ()  # such triggers may change a column that the UPDATE does not name
        if self.event == "key_change":
            return tuple(column.name for column in source.key)
        return embedding.generation.template.columns

    def _of_columns(self, embedding: Embedding) -> sql.Composable:
        names = self.columns(embedding)
        return fragments.update_of(names) if names else fragments.UPDATE


def triggers(embedding: Embedding) -> tuple[Trigger, ...]:
    by_row = embedding.source.partitioned
    return (
        Trigger("insert", *(("create_insert_row_trigger", "append_row") if by_row else
                            ("create_insert_trigger", "append_changed_rows"))),
        Trigger("update", "create_update_trigger", "append_row"),
        Trigger("key_change", "create_key_trigger", "append_both_keys"),
        Trigger("delete", *(("create_delete_row_trigger", "append_old_row") if by_row else
                            ("create_delete_trigger", "append_changed_rows"))),
        Trigger("truncate", "create_truncate_trigger", "append_truncation"),
    )  # fmt: skip
