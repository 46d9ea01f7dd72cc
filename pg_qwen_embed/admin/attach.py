"""Attach and detach: everything an embedding needs in the database, made or removed in one short transaction.

The statements are sql/attach.sql; `ddl` is their order. What takes the strongest lock on the source comes last, so
that its writers are held up only while the transaction commits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.model import (
    MAX_DIMENSIONS,
    MIN_DIMENSIONS,
    Chunking,
    Distance,
    Embedding,
    Generation,
    Source,
    StoreKind,
    TooLong,
)
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION, PromptStyle, style_of
from pg_qwen_embed.domain.template import Template
from pg_qwen_embed.inference.boundaries import SHORTEST
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.connection import Connection, as_text, first_line
from pg_qwen_embed.postgres.sql import fragments, statement
from pg_qwen_embed.postgres.triggers import triggers

T = TypeVar("T")

LOCK_TIMEOUT = "2s"
ATTEMPTS = 5
DISTANCE = "qwen_embed_distance"  # what a search calls it, beside the view's columns
MAX_NAME_BYTES = 63  # NAMEDATALEN - 1


@dataclass(frozen=True, slots=True)
class Declaration:
    """What was asked for. `model` and `dimensions` are settled with the server before this is made, and what it says of
    the model is taken down."""

    table: str
    template: Template
    model: str
    dimensions: int
    name: str | None = None
    instruction: str | None = None
    prompt_style: PromptStyle | None = None
    distance: Distance = Distance.COSINE
    store: StoreKind = StoreKind.TABLE
    column: str = "embedding"
    too_long: TooLong = TooLong.TRUNCATE
    chunking: Chunking | None = None
    backfill: bool = True
    weight_version: str | None = None
    full_dimensions: int | None = None


def plan(connection: Connection, declaration: Declaration) -> tuple[int, Embedding]:
    """The source's oid and the embedding as it will be, with the next generation's number. Raises UsageError."""
    catalog.require_initialised(connection)
    _check_dimensions(declaration.dimensions)
    if declaration.chunking:
        _check_chunking(declaration.chunking, declaration)
    oid, source = catalog.find_source(connection, declaration.table)
    catalog.check_text_columns(connection, oid, declaration.template.columns)
    name = declaration.name or source.table.name
    _check_name(connection, name)
    _check_columns(declaration, source)
    if source.partitioned and declaration.store is StoreKind.COLUMN:
        raise UsageError(f"{source.table} is partitioned: an index on a column of it cannot be built while it is in use; "
                         "leave --store column out")  # fmt: skip
    hidden = {row[0] for row in connection.execute(statement("vector_columns"), {"source": oid})}
    source = replace(source, columns=tuple(column for column in source.columns if column.name not in hidden))
    style = declaration.prompt_style or style_of(declaration.model)
    if style is PromptStyle.PLAIN and declaration.instruction:
        raise UsageError(f"{declaration.model} is used with plain prompts, which carry no instruction; "
                         "leave --instruction out, or add --prompt-style qwen3")  # fmt: skip
    extension = catalog.vector_extension(connection)
    (next_id,) = connection.execute(statement("next_generation")).fetchone() or (1,)
    return oid, Embedding(
        name=name,
        source=source,
        generation=Generation(
            next_id, declaration.model, declaration.dimensions, declaration.distance, declaration.template,
            declaration.store, declaration.too_long, declaration.chunking,
            weight_version=declaration.weight_version, full_dimensions=declaration.full_dimensions,
        ),
        instruction=declaration.instruction or DEFAULT_INSTRUCTION,
        prompt_style=style,
        column=declaration.column,
        vector_schema=(extension and extension.schema) or "public",
    )  # fmt: skip


def attach(connection: Connection, declaration: Declaration) -> Embedding:
    """Create the embedding. All or nothing; gives up, with nothing created, when the source stays locked."""
    try:
        return _patiently(
            lambda: _attach(connection, declaration),
            f"{declaration.table} stayed locked for {ATTEMPTS} times {LOCK_TIMEOUT}; nothing was created: "
            "try again when its long transaction has ended",
        )
    except psycopg.errors.UniqueViolation:
        raise UsageError(_taken(declaration.name or declaration.table)) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"{declaration.table}: {first_line(error)}; attach as the table's owner and a member of the role that ran "
            "init, or with the rights that the README lists under Grants"
        ) from None


def _patiently(work: Callable[[], T], busy: str) -> T:
    """A short transaction, tried again when it could not get its locks in time. Raises UsageError, saying `busy`."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == ATTEMPTS:
                raise UsageError(busy) from None
    raise AssertionError("unreachable")


def _attach(connection: Connection, declaration: Declaration) -> Embedding:
    with connection.transaction():
        connection.execute(statement("limit_lock_wait"), {"timeout": LOCK_TIMEOUT})
        oid, planned = plan(connection, declaration)
        embedding = _register(connection, oid, planned, declaration.backfill)
        for command in ddl(embedding):
            connection.execute(command, {})
        (clones,) = [found.clones for found in catalog.embeddings(connection, embedding.name)]
        connection.execute(statement("note_partitions"), {"id": embedding.generation.id, "partitions": clones})
        connection.execute(statement("announce_change"))
    return embedding


def dry_run(connection: Connection, declaration: Declaration) -> str:
    """The statements attach would run, with the locks and the grants they need. Creates nothing."""
    _, embedding = plan(connection, declaration)
    source, generation = embedding.source.table, embedding.generation
    commands = ";\n\n".join(as_text(command) for command in ddl(embedding))
    view, store = as_text(fragments.public_view(embedding)), as_text(fragments.internal("store", generation))
    return (
        f"-- For reading: attach runs this in one transaction with lock_timeout {LOCK_TIMEOUT}, and writes the registry as well.\n"
        f"-- attach {source} as {embedding.name}\n"
        f"-- Locks: SHARE ROW EXCLUSIVE on {source} for the triggers: waits for writers in flight, then blocks them\n"
        f"--        until the commit{'; ACCESS EXCLUSIVE for the new column' if _in_column(embedding) else ''}.\n"
        f"-- Grants for a role that searches: GRANT USAGE ON SCHEMA qwen_embed TO r; GRANT SELECT ON {view}, {store} TO r;\n"
        f"--        and SELECT on {source}. A role that only writes to {source} needs nothing. To search with this\n"
        f"--        package also: GRANT USAGE ON SCHEMA _qwen_embed TO r;\n"
        f"--        GRANT SELECT ON _qwen_embed.embedding, _qwen_embed.generation TO r.\n"
        f"-- The number {generation.id} is the next generation's; attach takes it from the registry.\n\n{commands};"
    )


def detach(connection: Connection, name: str) -> None:
    """Remove everything attach created; the source is left as it was. All or nothing. Raises UsageError."""
    embedding = catalog.any_embedding(connection, name)

    def remove() -> None:
        with connection.transaction():
            connection.execute(statement("limit_lock_wait"), {"timeout": LOCK_TIMEOUT})
            for command in removal(embedding):
                connection.execute(command, {})
            connection.execute(statement("unregister_embedding"), {"name": name})
            connection.execute(statement("announce_change"))

    try:
        _patiently(
            remove,
            f"{name}: its tables stayed in use for {ATTEMPTS} times {LOCK_TIMEOUT} (a long transaction, or the index "
            "being built); nothing was removed: try again later",
        )
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(f"{name}: something of yours depends on it ({first_line(error)}); drop that first") from None


def restore_triggers(connection: Connection, embedding: Embedding) -> None:
    """Make the triggers and their functions anew, as attach did. All or nothing. Raises UsageError."""
    there = {column.name for column in embedding.source.columns}
    if not there.issuperset(embedding.generation.template.columns):
        raise UsageError(
            f"{embedding.name}: a column it embeds was renamed, so its triggers cannot be made anew; "
            f"run: pg-qwen-embed detach {embedding.name}, and attach again"
        )
    placeholders = fragments.placeholders(embedding) | fragments.ddl_placeholders(embedding)

    def restore() -> None:
        with connection.transaction():
            connection.execute(statement("limit_lock_wait"), {"timeout": LOCK_TIMEOUT})
            for trigger in triggers(embedding):
                own = placeholders | trigger.names(embedding)
                for command in (statement("drop_trigger", own), statement("drop_function", own)):
                    connection.execute(command, {})
                for command in trigger.ddl(embedding, placeholders):
                    connection.execute(command, {})

    _patiently(restore, f"{embedding.source.table} stayed locked; its triggers are as they were: try again later")


def ddl(embedding: Embedding) -> Iterator[sql.Composed]:
    """Every statement of attach after the registry's, in order."""
    placeholders = fragments.placeholders(embedding) | fragments.ddl_placeholders(embedding)
    for kind in ("outbox", "store", "failure"):
        creation = _creation(kind, embedding)
        yield statement(creation, placeholders)
        yield statement(f"comment_{kind}", placeholders | fragments.comment(embedding, _PURPOSE[kind]))
    if _in_column(embedding):
        yield statement("add_source_column", placeholders)
        yield statement("comment_source_column", placeholders | fragments.comment(embedding, "vectors"))
    else:
        yield statement("set_store_storage", placeholders)
    yield from _row_functions(embedding, placeholders)
    yield statement(f"create_view_on_{embedding.generation.layout}", placeholders)
    yield statement(
        "comment_view", placeholders | fragments.comment(embedding, "rows with their vectors; what applications query")
    )
    if embedding.generation.chunking:
        body = sql.Literal(as_text(statement("search_body", placeholders)))
        yield statement("create_search_function", placeholders | {"body": body})
        note = fragments.comment(embedding, "the rows nearest to a query, each with its best chunk, nearest first")
        yield statement("comment_search_function", placeholders | note)
    for trigger in triggers(embedding):
        yield from trigger.ddl(embedding, placeholders)


def removal(embedding: Embedding) -> Iterator[sql.Composed]:
    """Every statement of detach before the registry's. The triggers go first: writers stop appending."""
    placeholders = fragments.placeholders(embedding)
    has_source = bool(embedding.source.columns)  # a dropped table took its triggers with it
    for trigger in triggers(embedding) if has_source else ():
        yield statement("drop_trigger", placeholders | trigger.names(embedding))
    if embedding.generation.chunking:
        yield statement("drop_search_function", placeholders)
    yield statement("drop_view", placeholders)
    for trigger in triggers(embedding):
        yield statement("drop_function", trigger.names(embedding))
    for function in (placeholders["document_function"], *_key_functions(embedding)):
        yield statement("drop_row_function", {"function": function})
    for kind in ("outbox", "store", "failure"):
        yield statement("drop_table", {"table": placeholders[kind]})
    if has_source and _in_column(embedding):
        yield statement("drop_source_column", placeholders)


def _row_functions(embedding: Embedding, placeholders: fragments.Placeholders) -> Iterator[sql.Composed]:
    yield statement("create_document_function", placeholders)
    note = fragments.comment(embedding, "the document of a row")
    yield statement("comment_row_function", placeholders | note | {"function": placeholders["document_function"]})
    for column, function in zip(embedding.source.key, _key_functions(embedding), strict=True):
        own = {"key_function": function, "type": sql.SQL(column.type), "t_column": sql.Identifier("t", column.name)}
        yield statement("create_key_function", placeholders | own)
        note = fragments.comment(embedding, "a key column of a row")
        yield statement("comment_row_function", placeholders | note | {"function": function})


def _key_functions(embedding: Embedding) -> list[sql.Identifier]:
    return [fragments.key_function(embedding, n) for n in range(1, len(embedding.source.key) + 1)]


_PURPOSE = {
    "outbox": "keys of changed rows, until their vectors are written",
    "store": "vectors by key, with the version and the fingerprint of the document they were made of",
    "failure": "documents the embedding server refuses",
}


def _creation(kind: str, embedding: Embedding) -> str:
    return f"create_store_{embedding.generation.layout}" if kind == "store" else f"create_{kind}"


def _register(connection: Connection, oid: int, planned: Embedding, backfill: bool) -> Embedding:
    generation = planned.generation
    values = {
        "name": planned.name,
        "source": oid,
        "key": [column.name for column in planned.source.key],
        "column": planned.column,
        "instruction": planned.instruction,
        "prompt_style": planned.prompt_style,
        "model": generation.model,
        "dimensions": generation.dimensions,
        "distance": generation.distance,
        "template": Jsonb(generation.template.to_json()),
        "store": generation.store,
        "too_long": generation.too_long,
        "weight_version": generation.weight_version,
        "full_dimensions": generation.full_dimensions,
        "chunk_tokens": generation.chunking and generation.chunking.tokens,
        "chunk_overlap": generation.chunking.overlap if generation.chunking else 0,
    }
    (embedding_id,) = connection.execute(statement("register_embedding"), values).fetchone() or (0,)
    values["embedding_id"] = embedding_id
    (generation_id,) = connection.execute(statement("register_generation"), values).fetchone() or (0,)
    state = "pending" if backfill else "none"
    connection.execute(statement("register_backfill"), {"generation_id": generation_id, "state": state})
    return replace(planned, generation=replace(generation, id=generation_id))


def _check_dimensions(dimensions: int) -> None:
    if not MIN_DIMENSIONS <= dimensions <= MAX_DIMENSIONS:
        raise UsageError(f"{dimensions} dimensions: an index on halfvec holds {MIN_DIMENSIONS} to {MAX_DIMENSIONS}; "
                         "add --dimensions, 1024 for instance")  # fmt: skip


def _check_chunking(chunking: Chunking, declaration: Declaration) -> None:
    """Raises UsageError, with the reason."""
    tokens, overlap = chunking.tokens, chunking.overlap
    if tokens < SHORTEST:
        raise UsageError(f"chunks of {tokens} tokens are too short: a single character may need {SHORTEST}; "
                         "add --chunk-tokens 512, for instance")  # fmt: skip
    if not 0 <= overlap <= tokens // 2:
        raise UsageError(f"chunks of {tokens} tokens may overlap by 0 to {tokens // 2}, and not by {overlap}")
    if declaration.store is StoreKind.COLUMN:
        raise UsageError("a column holds one vector a row, and --chunk-tokens makes several; leave --store column out")
    if declaration.too_long is not TooLong.TRUNCATE:
        raise UsageError("with --chunk-tokens no document is too long for the model; leave --too-long out")


def _check_name(connection: Connection, name: str) -> None:
    if not name or len(name.encode()) > MAX_NAME_BYTES or "\0" in name:
        raise UsageError(f'"{name}" cannot name a view: 1 to {MAX_NAME_BYTES} bytes; add --name')
    (taken,) = connection.execute(statement("name_taken"), {"name": name}).fetchone() or (False,)
    if taken:
        raise UsageError(_taken(name))


def _taken(name: str) -> str:
    return f'the name "{name}" is taken by another embedding; add --name with another'


def _check_columns(declaration: Declaration, source: Source) -> None:
    """The view has the source's columns, the vector's and `stale`: no two of one name."""
    names = [column.name for column in source.columns]
    if declaration.column in names:
        raise UsageError(f'{source.table} has a column "{declaration.column}" already; add --column with another name')
    for own in ("stale", DISTANCE, *(("chunk", "span", "chunk_text") if declaration.chunking else ())):
        if own in names or declaration.column == own:
            raise UsageError(f'the view shows a column "{own}" of its own, and {source.table} has one; rename that one')


def _in_column(embedding: Embedding) -> bool:
    return embedding.generation.store is StoreKind.COLUMN
