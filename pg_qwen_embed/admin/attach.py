"""Attach and detach: everything that an embedding needs in the database, created or removed in one short transaction.

The statements and their order are those of postgres/ddl.py. The worker does the rest: it fills the store."""

from dataclasses import dataclass, replace

import psycopg
from psycopg.types.json import Jsonb

from pg_qwen_embed.admin import instructions
from pg_qwen_embed.admin.transaction import (
    ATTEMPTS,
    FURTHER_LOCKS,
    LOCK_TIMEOUT,
    in_short_transaction,
    lock_embedding,
    run,
)
from pg_qwen_embed.domain import index, post
from pg_qwen_embed.domain.embedding import Embedding, Generation, GenerationState, View
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.prompt import DEFAULT_INSTRUCTION, PromptStyle
from pg_qwen_embed.domain.report import BackfillState
from pg_qwen_embed.domain.source import MAX_NAME_BYTES, RESERVED_NAMES, Source, check_name
from pg_qwen_embed.domain.spec import SHORTEST_CHUNK, Chunking, Spec, StoreKind, TooLong
from pg_qwen_embed.postgres import call_names, catalog, configurations, ddl, grants, leftovers, trust
from pg_qwen_embed.postgres.connection import Connection, as_text, first_line
from pg_qwen_embed.postgres.key_names import identifier
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Declaration:
    """What to attach. The model and dimensions of the spec were resolved with the server where it answered.

    instruction: its text, or `@name` of the pool. key: the columns that identify a row; none: the primary key.
    view_columns: of the source, beyond the key; None: all. view_names: other names for the view's own columns. readers:
    roles that get the rights to search."""

    table: str
    spec: Spec
    name: str | None = None
    instruction: str | None = None
    column: str = "embedding"
    backfill: bool = True
    view_columns: tuple[str, ...] | None = ()
    view_names: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


def plan(connection: Connection, declaration: Declaration) -> tuple[int, Embedding]:
    """The source's oid, and the embedding as it will be, with the next generation's number. Raises UsageError, SetupError."""
    trust.require_trusted(connection)
    catalog.require_initialised(connection)
    spec = declaration.spec
    check_spec(spec)
    declaration = replace(declaration, instruction=instructions.resolved(connection, declaration.instruction))
    if spec.words is not None:
        spec = replace(spec, words=configurations.configuration(connection, spec.words))
        declaration = replace(declaration, spec=spec)
    oid, source = catalog.find_source(connection, declaration.table, declaration.key)
    catalog.check_text_columns(connection, oid, spec.template.columns)
    _check_documents(connection, declaration, source)
    _check_name_is_free(connection, declaration.name or source.table.name)
    hidden = {row[0] for row in connection.execute(statement("vector_columns"), {"source": oid})}
    extension = catalog.vector_extension(connection)
    (next_id,) = connection.execute(statement("next_generation")).fetchone() or (1,)
    embedding = declared(declaration, source, next_id, (extension and extension.schema) or "public")
    shown = tuple(column for column in source.columns if column.name not in hidden)
    return oid, replace(embedding, source=replace(source, columns=shown))


def declared(declaration: Declaration, source: Source, generation_id: int, vector_schema: str) -> Embedding:
    """The embedding that a declaration describes on this source. Pure. Raises UsageError."""
    spec, name = declaration.spec, declaration.name or source.table.name
    check_embedding_name(name)
    check_name(declaration.column, "a column", "; add --column")
    for _, shown in declaration.view_names:
        check_name(shown, "a column", "; give --view-name another")
    view = _view(declaration, source)
    if source.partitioned and spec.store is StoreKind.COLUMN:
        raise UsageError(f"{source.table} is partitioned: an index on a column of it cannot be built while it is in use; "
                         "leave --store column out")  # fmt: skip
    if spec.prompt_style is PromptStyle.PLAIN and declaration.instruction:
        raise UsageError(f"{spec.model} is used with plain prompts, which carry no instruction; "
                         "leave --instruction out, or add --prompt-style qwen3")  # fmt: skip
    return Embedding(
        name=name,
        source=source,
        instruction=declaration.instruction or DEFAULT_INSTRUCTION,
        live=Generation(generation_id, GenerationState.LIVE, spec),
        column=declaration.column,
        vector_schema=vector_schema,
        view=view,
    )


def attach(connection: Connection, declaration: Declaration) -> Embedding:
    """Create the embedding, all or nothing. Raises UsageError, also when the source stays locked; SetupError before `init`."""
    try:
        return in_short_transaction(
            connection,
            lambda: _attach(connection, declaration),
            f"{declaration.table} stayed locked for {ATTEMPTS} times {LOCK_TIMEOUT}; nothing was created: "
            "try again when its long transaction has ended",
        )
    except psycopg.errors.UndefinedObject as error:
        if not declaration.readers:
            raise
        raise UsageError(
            f"{first_line(error)}; nothing was created: create it first, or leave --grant-to out"
        ) from None
    except psycopg.errors.UniqueViolation:
        raise UsageError(_taken(declaration.name or declaration.table)) from None
    except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateFunction) as error:
        raise UsageError(_in_the_way(f"objects that no embedding has ({first_line(error)})")) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"{declaration.table}: {first_line(error)}; attach as the table's owner and a member of the role that ran "
            "init, or with the rights listed in docs/objects-locks-grants.md"
        ) from None


def _attach(connection: Connection, declaration: Declaration) -> Embedding:
    oid, planned = plan(connection, declaration)
    embedding = _register(connection, oid, planned, declaration.backfill)
    run(connection, ddl.attach(embedding))
    note_partitions(connection, embedding.name, embedding.live.id)
    for role in declaration.readers:
        run(connection, grants.reader(role, embedding))
    connection.execute(statement("announce_change"))
    return embedding


def note_partitions(connection: Connection, name: str, generation: int) -> None:
    """Record the current partitions as checked: the backfill of this generation reads them."""
    state = catalog.find(connection, name).states[generation]
    partitions = None if state.partitions is None else sorted(state.partitions)
    connection.execute(statement("note_partitions"), {"id": generation, "partitions": partitions})


def dry_run(connection: Connection, declaration: Declaration) -> str:
    """The statements that attach would run, with their locks and grants. Creates nothing. Raises as `attach`."""
    return described(plan(connection, declaration)[1])


def described(embedding: Embedding) -> str:
    """The statements that attach an embedding, for a person to read."""
    names, source = names_of(embedding), embedding.source.table
    commands = ";\n\n".join(as_text(command) for command in ddl.attach(embedding))
    view = as_text(names.view)
    return (
        f"-- For reading only: attach runs this in one transaction with lock_timeout {LOCK_TIMEOUT}, and writes the registry.\n"
        f"-- attach {source} as {embedding.name}\n"
        f"-- Locks: SHARE ROW EXCLUSIVE on {source} for the triggers: attach waits for writers in flight, then blocks them\n"
        f"--        until the commit{'; ACCESS EXCLUSIVE for the new column' if names.layout.in_source else ''}.\n"
        f"-- Grants for a role that searches: GRANT USAGE ON SCHEMA qwen_embed TO r; GRANT SELECT ON {view} TO r;\n"
        f"--        and SELECT on {source}. A role that only writes to {source} needs nothing. To search with this\n"
        f"--        package also: GRANT USAGE ON SCHEMA _qwen_embed TO r;\n"
        f"--        GRANT SELECT ON _qwen_embed.embedding, _qwen_embed.generation TO r.\n"
        f"-- The number {embedding.live.id} is the next generation's; attach takes it from the registry.\n\n{commands};"
    )


def detach(connection: Connection, name: str) -> None:
    """Remove everything that attach created; the source stays as it was. All or nothing. Raises UsageError."""
    trust.require_trusted(connection, name)
    catalog.require_initialised(connection)
    catalog.find(connection, name)

    def remove() -> None:
        lock_embedding(connection, name)
        embedding = catalog.find(connection, name).embedding
        if embedding.source.columns:  # it was not dropped
            connection.execute(statement("lock_source", names_of(embedding)), {})
        connection.execute(statement("limit_lock_wait"), {"timeout": FURTHER_LOCKS})
        run(connection, ddl.detach(embedding))
        connection.execute(statement("unregister_embedding"), {"name": name})
        connection.execute(statement("forget_queries"))
        connection.execute(statement("announce_change"))

    try:
        in_short_transaction(
            connection,
            remove,
            f"{name}: its tables stayed in use for {ATTEMPTS} times {LOCK_TIMEOUT} (a long transaction, or the index "
            "being built); nothing was removed: try again later",
        )
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(f"{name}: something of yours depends on it ({first_line(error)}); drop that first") from None


def _register(connection: Connection, oid: int, planned: Embedding, backfill: bool) -> Embedding:
    values = {
        "name": planned.name,
        "source": oid,
        "key": [column.name for column in planned.source.key],
        "column": planned.column,
        "instruction": planned.instruction,
        "column_numbers": Jsonb({column.name: column.number for column in planned.source.columns}),
        "view": Jsonb(planned.view.to_json()),
    }
    (embedding_id,) = connection.execute(statement("register_embedding"), values).fetchone() or (0,)
    live = planned.live
    values = {"embedding_id": embedding_id, "state": live.state.value, "spec": Jsonb(live.spec.to_json())}
    (generation_id,) = connection.execute(statement("register_generation"), values).fetchone() or (0,)
    state = BackfillState.PENDING if backfill else BackfillState.NONE
    connection.execute(statement("register_backfill"), {"generation_id": generation_id, "state": state.value})
    return replace(planned, live=replace(live, id=generation_id))


def check_spec(spec: Spec) -> None:
    """Raises UsageError for properties that are impossible, or impossible together."""
    index.check(spec.index, spec.dimensions)
    if spec.chunking:
        _check_chunking(spec.chunking, spec)


def _check_documents(connection: Connection, declaration: Declaration, source: Source) -> None:
    """Raises UsageError for a table that is too small for its post-processing to be fitted now. It may grow, if nobody waits
    for a backfill."""
    if declaration.backfill:
        advice = (
            "leave --post out, or choose fewer --dimensions, or add --no-backfill: then the worker waits for as many"
        )
        check_documents(connection, declaration.name or source.table.name, source, declaration.spec.post, advice)


def check_documents(connection: Connection, name: str, source: Source, wanted: post.Post | None, advice: str) -> None:
    """Raises UsageError for a table of fewer rows than a post-processing is fitted on."""
    if wanted is None:
        return
    query = statement("count_some_rows", table=identifier(source.table))
    (rows,) = connection.execute(query, {"most": wanted.least}).fetchone() or (0,)
    if rows < wanted.least:
        raise UsageError(f"{post.too_few(name, wanted, rows)}; {advice}")


def _check_chunking(chunking: Chunking, spec: Spec) -> None:
    tokens, overlap = chunking.tokens, chunking.overlap
    if tokens < SHORTEST_CHUNK:
        raise UsageError(f"chunks of {tokens} tokens are too short: a single character may need {SHORTEST_CHUNK}; "
                         "add --chunk-tokens 512, for instance")  # fmt: skip
    if not 0 <= overlap <= tokens // 2:
        raise UsageError(f"chunks of {tokens} tokens may overlap by 0 to {tokens // 2}, not by {overlap}")
    if spec.store is StoreKind.COLUMN:
        raise UsageError("a column holds one vector a row, and --chunk-tokens makes several; leave --store column out")
    if spec.too_long is not TooLong.TRUNCATE:
        raise UsageError("with --chunk-tokens no document is too long for the model; leave --too-long out")


def _check_name_is_free(connection: Connection, name: str) -> None:
    """Raises UsageError for a name of which the view or a function could not be created."""
    check_embedding_name(name)
    if name in RESERVED_NAMES:
        raise UsageError(
            f'the name "{name}" belongs to pg_qwen_embed itself: qwen_embed.{name}; add --name with another'
        )
    (taken,) = connection.execute(statement("name_taken"), {"name": name}).fetchone() or (False,)
    if taken:
        remains = (left for left in leftovers.remains(connection) if name in left.views)
        raise UsageError(next((_in_the_way(left.where) for left in remains), _taken(name)))
    names = [name, *(name + suffix for suffix in call_names.SUFFIXES)]
    row = connection.execute(statement("functions_in_the_way"), {"names": names}).fetchone()
    if row:
        raise UsageError(_function_in_the_way(name, *row))


def _function_in_the_way(name: str, function: str, called: str, embedding: str | None) -> str:
    if embedding is None:
        return f"there is a function {function} already; add --name with another, or drop the function"
    if called == name:
        return f'the name "{name}" is that of a function of the embedding {embedding}; add --name with another'
    return f"{name} would have a function {called}, and there is an embedding {embedding}; add --name with another"


def check_embedding_name(name: str) -> None:
    """Raises UsageError for a name that is none in PostgreSQL, or to which no suffix can be added."""
    check_name(name, "a view", "; add --name")
    if not call_names.fits(name):
        longest = max(call_names.SUFFIXES, key=len)
        most = MAX_NAME_BYTES - len(longest)
        raise UsageError(f'the name "{name}" is too long: with it the function {name}{longest} would have more than '
                         f"{MAX_NAME_BYTES} bytes; add --name with at most {most}")  # fmt: skip


def _in_the_way(what: str) -> str:
    return f"there are {what}; to remove them run: pg-qwen-embed init, and attach again"


def _taken(name: str) -> str:
    return f'the name "{name}" is taken by another embedding; add --name with another'


def _view(declaration: Declaration, source: Source) -> View:
    """The columns of the view. No two may have the same name. Raises UsageError."""
    own = layout_of(declaration.spec.layout).view_columns
    known = [column.name for column in source.columns]
    chosen, names = declaration.view_columns, dict(declaration.view_names)
    if chosen is None:
        chosen = tuple(name for name in known if name != declaration.column)
    for name in names:
        if name not in own:
            raise UsageError(f'the view has no column "{name}" of its own to be renamed; it has: {", ".join(own)}')
    for name in chosen:
        if name not in known:
            raise UsageError(f'{source.table} has no column "{name}" for the view; it has: {", ".join(known)}')
    if declaration.column in known:
        raise UsageError(f'{source.table} has a column "{declaration.column}" already; add --column with another name')
    view = View(chosen, declaration.view_names)
    taken = dict.fromkeys((*(column.name for column in source.key), *chosen, declaration.column))
    for name in own:
        if view.name(name) in taken:
            raise UsageError(f'the view would have two columns "{view.name(name)}"; '
                             f"add --view-name {name}=another_name")  # fmt: skip
        taken[view.name(name)] = None
    return view
