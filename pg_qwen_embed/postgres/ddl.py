"""The objects of an embedding: a generation with its triggers here, the public interface in interface.py.

The halves are separate, so that the interface can be replaced alone. Each function yields its statements in order."""

from collections.abc import Iterator

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.postgres import expressions, interface
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.postgres.triggers import triggers


def attach(embedding: Embedding) -> Iterator[sql.Composed]:
    """Creates everything of an embedding with one generation.

    The triggers come last: they take the strongest lock on the source, and its writers wait until the commit."""
    yield from generation(embedding.target)
    yield from interface.create(embedding)
    yield from follow(embedding.target)


def generation(target: Target) -> Iterator[sql.Composed]:
    """Creates the tables and the document function of a generation. `follow` adds the triggers."""
    yield from _outbox(target)
    yield from _store(target)
    yield from _failure(target)
    if Names(target).layout.in_source:
        yield from _source_column(target)
    yield from document_function(target)
    yield from guard(target)


def follow(target: Target) -> Iterator[sql.Composed]:
    """Creates the triggers by which a generation follows its source."""
    for trigger in triggers(target):
        yield from trigger.create(target)


def follow_functions(target: Target) -> Iterator[sql.Composed]:
    """Creates the functions of the triggers, or replaces them: triggers that are there use them at once."""
    for trigger in triggers(target):
        yield from trigger.create_function(target)


def exchange_triggers(target: Target) -> Iterator[sql.Composed]:
    """Creates the triggers again. Their functions are replaced: they keep their owner, who must be able to drop them."""
    for trigger in triggers(target):
        yield trigger.drop(target)
    yield from follow(target)


def unfollow(target: Target) -> Iterator[sql.Composed]:
    """Drops the triggers and their functions."""
    for trigger in triggers(target):
        yield trigger.drop(target)
        yield trigger.drop_function(target)


def detach(embedding: Embedding) -> Iterator[sql.Composed]:
    """Drops everything of an embedding. The triggers go first: writers stop appending.

    A source that was dropped has no columns, and took its triggers with it."""
    has_source = bool(embedding.source.columns)
    for target in embedding.targets if has_source else ():
        yield from (trigger.drop(target) for trigger in triggers(target))
    yield from interface.drop(embedding)
    for target in embedding.targets:
        yield from _drop_generation(target, has_source=has_source)


def drop_generation(target: Target) -> Iterator[sql.Composed]:
    """Drops everything of a generation that is not live. The triggers go first, as in `detach`."""
    has_source = bool(target.source.columns)
    yield from (trigger.drop(target) for trigger in triggers(target) if has_source)
    yield from _drop_generation(target, has_source=has_source)


def _drop_generation(target: Target, *, has_source: bool) -> Iterator[sql.Composed]:
    names = Names(target)
    yield from (trigger.drop_function(target) for trigger in triggers(target))
    yield statement("drop_row_functions", names)
    for table in (names.outbox, names.store, names.former, names.failure):
        yield statement("drop_table", table=table)
    if has_source and names.layout.in_source:
        yield statement("drop_source_column", names)


def part(target: Target, name: str) -> Iterator[sql.Composed]:
    """Creates one part of a generation, by the name that `SourceState.missing` has for it. What is left of it goes first."""
    names = Names(target)
    if name in ("outbox", "failure table"):
        yield statement("drop_table", table=names.outbox if name == "outbox" else names.failure)
    yield from _PARTS[name](target)


def _outbox(target: Target) -> Iterator[sql.Composed]:
    names = Names(target)
    comment = names.comment("keys of changed rows, until their vectors are written")
    yield statement("create_outbox", names)
    yield statement("index_outbox", names)
    yield statement("identify_entries", names)
    yield statement("comment_outbox", names, comment=comment)


def _store(target: Target) -> Iterator[sql.Composed]:
    names = Names(target)
    purpose = "vectors by key, with the version and the fingerprint of the document they were made of"
    yield statement(names.layout.create_store, names)
    yield statement("comment_store", names, comment=names.comment(purpose))
    yield statement("grant_store", names)
    if not names.layout.in_source:
        yield statement("set_store_storage", names)


def _vectors(target: Target) -> Iterator[sql.Composed]:
    """A store whose vectors went with the extension is made again: what is left of it says that there are vectors."""
    yield statement("drop_table", table=Names(target).store)
    yield from _store(target)


def _column_of_words(target: Target) -> Iterator[sql.Composed]:
    yield statement("add_words_column", Names(target))


def _failure(target: Target) -> Iterator[sql.Composed]:
    names = Names(target)
    yield statement("create_failure", names)
    yield statement("comment_failure", names, comment=names.comment("documents the embedding server rejects"))


def guard(target: Target) -> Iterator[sql.Composed]:
    """Lets the policies of the source decide which rows of store and failure table a role sees."""
    names = Names(target)
    force = sql.SQL("FORCE" if target.source.row_security_forced else "NO FORCE")
    columns = joined(sql.Identifier("t", column.name) for column in names.embedded)
    # Where the index of the key can be used behind policies, a row at a time; else the planner may read the source once.
    row_by_row = sql.SQL(" OFFSET 0" if expressions.is_leakproof(target.source.key) else "")
    comment = names.comment("others see what the policies of the source show them")
    for kind, table in (("store", names.store), ("failure", names.failure)):
        same_row = names.same_key(f"source_key:t=key:{kind}_{target.id}")
        yield statement("enable_row_security", table=table, force=force)
        yield statement(
            "create_policy", names, table=table, document_columns=columns, same_row=same_row, row_by_row=row_by_row
        )
        yield statement("comment_policy", table=table, comment=comment)


def unguard(target: Target) -> Iterator[sql.Composed]:
    """Drops the policies. Nobody but the owner sees a row until there are others."""
    for table in (Names(target).store, Names(target).failure):
        yield statement("drop_policy", table=table)


def open_store(target: Target) -> Iterator[sql.Composed]:
    """Lets every role read the store, as far as its policy shows it."""
    yield statement("grant_store", Names(target))


def _source_column(target: Target) -> Iterator[sql.Composed]:
    names = Names(target)
    yield statement("add_source_column", names)
    yield statement("comment_source_column", names, comment=names.comment("vectors"))


def document_function(target: Target) -> Iterator[sql.Composed]:
    """Creates the function that makes a row's document."""
    names = Names(target)
    yield statement("create_document_function", names)
    yield statement("comment_document_function", names, comment=names.comment("the document of a row"))


def drop_document_function(target: Target) -> Iterator[sql.Composed]:
    """Drops the document function in every form that a release has given it."""
    yield statement("drop_row_functions", Names(target))


def drop_superseded(target: Target) -> Iterator[sql.Composed]:
    """Drops the functions of release 0.1 that nothing calls any more."""
    yield statement("drop_superseded_functions", Names(target))


_PARTS = {
    "outbox": _outbox, "store": _store, "vectors": _vectors, "failure table": _failure, "column of vectors": _source_column,
    "document function": document_function, "column of words": _column_of_words,
}  # fmt: skip
