"""What an embedding needs in the database, found and created again where it was dropped or altered by hand.

One short transaction for each embedding, all or nothing. Vectors are left alone: a store that is empty afterwards is filled
by the worker, from the drift that `verify --repair` finds."""

from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from pg_qwen_embed.admin import guards
from pg_qwen_embed.admin.transaction import in_short_transaction, lock_embedding, run
from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.source import Remedy
from pg_qwen_embed.domain.text_form import TextForm
from pg_qwen_embed.postgres import catalog, ddl, interface
from pg_qwen_embed.postgres.connection import Connection, first_line
from pg_qwen_embed.postgres.key_names import PUBLIC_SCHEMA
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.triggers import triggers


@dataclass(frozen=True, slots=True)
class Interface:
    """The public interface as it was found. broken: its parts that are missing or not as created."""

    broken: tuple[str, ...]
    superseded: bool  # it calls functions of release 0.1, which take a whole row
    old_texts: bool  # its document function writes values as the session is set to
    calls_others: bool  # functions or operators that somebody has put in place of PostgreSQL's


def look_at_interface(connection: Connection, embedding: Embedding) -> Interface:
    names = names_of(embedding)
    functions = interface.functions(embedding)
    values = {"functions": [one.signature for one in functions], "bodies": [one.body for one in functions]}
    with connection.cursor(row_factory=dict_row) as cursor:
        query = statement("look_at_interface", names, foreign_object=statement("foreign_object"))
        row = cursor.execute(query, values).fetchone() or {}
    wanted = names.view_column_names
    public = f"{PUBLIC_SCHEMA}.{embedding.name}"
    broken = [f"the view {public}"] if row["columns"] != wanted or not row["security_invoker"] else []
    if not row["superseded"]:
        broken += [f"the function {one.shown}" for one in functions if one.signature in row["functions"]]
        broken += [f"functions of {public} as an earlier release made them"] if row["other_functions"] else []
        if not row["distance_function"]:
            broken.append(f"the function {PUBLIC_SCHEMA}.distance_{embedding.live.id}")
        if embedding.live.spec.index.compressed and not row["near_function"]:
            broken.append(f"the function {PUBLIC_SCHEMA}.near_{embedding.live.id}")
    if names.has_words:
        whole = connection.execute(statement("look_at_words_interface", names), {}).fetchone()
        broken += [] if whole and whole[0] else ["what its functions read words by"]
    by_function = any(column.form is TextForm.BY_FUNCTION for column in names.embedded)
    if row["calls_others"]:
        broken.append("the document function (it calls functions that are not PostgreSQL's)")
    old_texts = by_function and not row["calls_text_of"]
    return Interface(tuple(broken), row["superseded"], old_texts, row["calls_others"])


def broken_triggers(connection: Connection, target: Target) -> int:
    """How many of a generation's triggers are missing, disabled or out of date."""
    expected = triggers(target)
    values = {
        "triggers": [trigger.name(target) for trigger in expected],
        "bodies": [trigger.body(target) for trigger in expected],
        "whatever_columns": [not trigger.columns(target) for trigger in expected],
        "by_row": [trigger.by_row for trigger in expected],
        "columns_compared": [trigger.condition(target)[0] for trigger in expected],
        "rows_compared": [trigger.condition(target)[1] for trigger in expected],
    }
    query = statement("count_triggers", names_of(target.embedding), foreign_object=statement("foreign_object"))
    (whole,) = connection.execute(query, values).fetchone() or (0,)
    return len(expected) - int(whole)


def restore(connection: Connection, name: str) -> list[str]:
    """Create what is missing of the embedding of that name, or not as `attach` would create it. Raises UsageError.

    Returns what was created again, for a person to read."""
    busy = f"{name}: its tables stayed locked; nothing was restored: try again later"
    try:
        return in_short_transaction(connection, lambda: _restore(connection, name), busy)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(
            f"{name}: its view must be created again, and something of yours depends on it ({first_line(error)}); "
            "drop that first, and create it again afterwards"
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(f"{name}: {first_line(error)}; restore it as the role that ran attach") from None


def _restore(connection: Connection, name: str) -> list[str]:
    lock_embedding(connection, name)
    found = catalog.find(connection, name)
    embedding = found.embedding
    done: list[str] = []
    if found.problem and found.problem.remedy is not Remedy.REPAIR:
        raise UsageError(f"{name}: {found.problem.reason}; {found.problem.advice(name)}")
    connection.execute(statement("note_grants"), {"ids": [target.id for target in embedding.targets]})
    for target, state in found.targets:
        _restore_tables(connection, target, state.missing, done)
        done += guards.restore(connection, target)
    _restore_interface(connection, embedding, done)
    for target, _ in found.targets:
        _restore_triggers(connection, target, done)
        run(connection, ddl.drop_superseded(target))
    if done:
        give_recorded_grants(connection, name)
        connection.execute(statement("announce_change"))
    return done


def give_recorded_grants(connection: Connection, name: str) -> None:
    """Give the rights to view and store again that a worker, or `alter`, has recorded."""
    for (grant,) in connection.execute(statement("recorded_grants"), {"name": name}).fetchall():
        connection.execute(grant)


def _restore_tables(connection: Connection, target: Target, missing: tuple[str, ...], done: list[str]) -> None:
    for part in missing:
        run(connection, ddl.part(target, part))
        done.append(f"the {part}")
    if connection.execute(statement("restore_backfill"), {"id": target.id}).rowcount:
        done.append("the row of its backfill")


def _restore_interface(connection: Connection, embedding: Embedding, done: list[str]) -> None:
    found = look_at_interface(connection, embedding)
    if found.old_texts and not found.superseded:
        for target in embedding.targets:
            run(connection, ddl.document_function(target))
        done.append("the document function")
    if not found.broken and not found.superseded:
        return
    if found.calls_others:
        run(connection, interface.drop(embedding))
    for target in embedding.targets if found.superseded or found.calls_others else ():
        if found.calls_others:
            run(connection, ddl.drop_document_function(target))
        run(connection, ddl.document_function(target))
    try:
        with connection.transaction():
            run(connection, interface.create(embedding))
    except (psycopg.errors.InvalidTableDefinition, psycopg.errors.InvalidFunctionDefinition):
        # Other columns than before: OR REPLACE cannot take one away.
        run(connection, interface.drop(embedding))
        run(connection, interface.create(embedding))
    run(connection, [interface.drop_superseded(embedding)])
    done += found.broken or ["the view"]


def _restore_triggers(connection: Connection, target: Target, done: list[str]) -> None:
    if not broken_triggers(connection, target):
        return
    run(connection, ddl.follow_functions(target))  # often enough, and without a lock on the source
    if broken_triggers(connection, target):
        run(connection, ddl.exchange_triggers(target))
    done.append("the triggers")
