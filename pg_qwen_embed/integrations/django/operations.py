"""Operations of Django's migrations: an embedding is created, altered and removed in the migration's own transaction.

    operations = [
        migrations.CreateModel("Article", ...),
        InitEmbeddings(),
        AttachEmbedding("Article", text="body", model="Qwen/Qwen3-Embedding-0.6B", dimensions=1024),
    ]

Models do not say which embeddings they have, so `makemigrations` writes none of these, and finds nothing to undo."""

from typing import Any

import psycopg
from django.db import router
from django.db.migrations.operations.base import Operation

from pg_qwen_embed.admin.init import initialise
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.integrations import declaring


class _Embedding(Operation):
    """What the operations share. They change no model's state."""

    reduces_to_sql = False
    reversible = True
    elidable = False

    def state_forwards(self, app_label: str, state: Any) -> None:
        """An embedding is no part of a model."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        raise NotImplementedError

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        raise NotImplementedError


class InitEmbeddings(_Embedding):
    """What `pg-qwen-embed init` does, in the migration's transaction: a test database is made by migrations alone.

    Undone, it leaves the fixed part of the database where it is: other embeddings may need it."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            initialise(_driver_connection(schema_editor, "init"))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Nothing."""

    def describe(self) -> str:
        return "Sets up the database for embeddings"

    @property
    def migration_name_fragment(self) -> str:
        return "init_embeddings"


class AttachEmbedding(_Embedding):
    """Declares an embedding on a model's table. options: those of `pg-qwen-embed attach`, with the names of columns."""

    def __init__(self, model_name: str, **options: Any) -> None:
        self.model_name, self.options = model_name, options

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        _attach(app_label, schema_editor, to_state, self.model_name, self.options)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        _detach(app_label, schema_editor, from_state, self.model_name, self.options.get("name"))

    def references_model(self, name: str, app_label: str) -> bool:
        return name.lower() == self.model_name.lower()

    def describe(self) -> str:
        return f"Attaches an embedding to {self.model_name}"

    @property
    def migration_name_fragment(self) -> str:
        return f"attach_{self.model_name.lower()}"


class DetachEmbedding(_Embedding):
    """Removes an embedding. options: how it was attached, with which the operation can be undone."""

    def __init__(self, model_name: str, **options: Any) -> None:
        self.model_name, self.options = model_name, options
        self.reversible = "model" in options

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        _detach(app_label, schema_editor, from_state, self.model_name, self.options.get("name"))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        _attach(app_label, schema_editor, to_state, self.model_name, self.options)

    def describe(self) -> str:
        return f"Removes the embedding of {self.model_name}"

    @property
    def migration_name_fragment(self) -> str:
        return f"detach_{self.model_name.lower()}"


class AlterEmbedding(_Embedding):
    """Gives an embedding another instruction. before: the one to go back to; None: the default one."""

    def __init__(self, name: str, *, instruction: str | None, before: str | None = None) -> None:
        self.name, self.instruction, self.before = name, instruction, before

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._change(app_label, schema_editor, self.instruction)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._change(app_label, schema_editor, self.before)

    def _change(self, app_label: str, schema_editor: Any, instruction: str | None) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            declaring.change_instruction(_driver_connection(schema_editor, self.name), self.name, instruction)

    def describe(self) -> str:
        return f"Changes the instruction of {self.name}"

    @property
    def migration_name_fragment(self) -> str:
        return "alter_embedding"


class EmbeddingSuspended(_Embedding):
    """Runs other operations, such as AlterField, on columns that the embedding has embedded."""

    def __init__(self, name: str, operations: list[Operation]) -> None:
        self.name, self.operations = name, operations

    def state_forwards(self, app_label: str, state: Any) -> None:
        for operation in self.operations:
            operation.state_forwards(app_label, state)

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._run(app_label, schema_editor, from_state, "database_forwards", self.operations)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        states = [to_state]  # before the first operation, after it, and so on
        for operation in self.operations:
            state = states[-1].clone()
            operation.state_forwards(app_label, state)
            states.append(state)
        with self._suspended(app_label, schema_editor):
            for n in reversed(range(len(self.operations))):
                self.operations[n].database_backwards(app_label, schema_editor, states[n + 1], states[n])

    def _run(self, app_label: str, schema_editor: Any, state: Any, method: str, operations: list[Operation]) -> None:
        with self._suspended(app_label, schema_editor):
            for operation in operations:
                after = state.clone()
                operation.state_forwards(app_label, after)
                getattr(operation, method)(app_label, schema_editor, state, after)
                state = after

    def _suspended(self, app_label: str, schema_editor: Any) -> Any:
        return declaring.suspended(_driver_connection(schema_editor, self.name), self.name)

    def describe(self) -> str:
        return f"Alters the table of the embedding {self.name}"

    @property
    def migration_name_fragment(self) -> str:
        return "embedding_suspended"


def _attach(app_label: str, schema_editor: Any, state: Any, model_name: str, options: dict[str, Any]) -> None:
    model = state.apps.get_model(app_label, model_name)
    if router.allow_migrate_model(schema_editor.connection.alias, model):
        table = model._meta.db_table
        declaring.attach(_driver_connection(schema_editor, table), table, **options)


def _detach(app_label: str, schema_editor: Any, state: Any, model_name: str, name: str | None) -> None:
    model = state.apps.get_model(app_label, model_name)
    if router.allow_migrate_model(schema_editor.connection.alias, model):
        name = name or model._meta.db_table
        declaring.detach(_driver_connection(schema_editor, name), name)


def _driver_connection(schema_editor: Any, name: str) -> psycopg.Connection[Any]:
    if schema_editor.collect_sql:
        raise UsageError(f"{name}: its migration must look at the database, so sqlmigrate cannot print it; "
                         "pg-qwen-embed sql attach prints the statements for reading")  # fmt: skip
    if not schema_editor.connection.in_atomic_block:
        raise UsageError(f"{name}: an embedding is created or altered in one transaction; "
                         "leave atomic = False out of this migration")  # fmt: skip
    for command in schema_editor.deferred_sql:  # constraints and indexes of tables that this migration has created
        schema_editor.execute(command, None)
    schema_editor.deferred_sql.clear()
    return driver_connection(schema_editor.connection)


def driver_connection(connection: Any) -> psycopg.Connection[Any]:
    """The psycopg connection of a database of Django's. Raises UsageError for another driver."""
    connection.ensure_connection()
    found = connection.connection
    if not isinstance(found, psycopg.Connection):
        raise UsageError(f"the database {connection.alias} is used through {connection.vendor} and {type(found).__module__}; "
                         "an embedding needs PostgreSQL with psycopg 3")  # fmt: skip
    return found
