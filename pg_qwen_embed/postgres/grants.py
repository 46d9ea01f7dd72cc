"""The rights of three roles, as GRANT statements: owner, worker and reader. Pure; nothing here runs them.

PostgreSQL allows some actions to the owner of a table only: a trigger that fires always, an index, VACUUM. So the owner
must be a member of the role that the source belongs to, and the worker a member of the owner."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg import sql

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.source import QualifiedName
from pg_qwen_embed.postgres.expressions import joined
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA, PUBLIC_SCHEMA, identifier
from pg_qwen_embed.postgres.layouts import layout_of
from pg_qwen_embed.postgres.sql import statement


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of the roles; None: the role is left out. A worker needs an owner."""

    owner: str | None
    worker: str | None
    reader: str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rights of an embedding depend on. table_owner: None if it is unknown."""

    table: QualifiedName
    name: str
    generation: int
    in_source: bool = False
    vector_schema: str = "public"
    table_owner: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Statements that belong together. purpose: one sentence per line."""

    purpose: tuple[str, ...]
    statements: tuple[sql.Composed, ...] = ()


def subject_of(embedding: Embedding, table_owner: str | None = None) -> Subject:
    return Subject(
        table=embedding.source.table,
        name=embedding.name,
        generation=embedding.live.id,
        in_source=layout_of(embedding.live.layout).in_source,
        vector_schema=embedding.vector_schema,
        table_owner=table_owner,
    )


def groups(roles: Roles, database: str, subject: Subject | None) -> Iterator[Group]:
    """The groups for one embedding; without a subject, those that all embeddings share."""
    if roles.owner:
        yield _database(roles.owner, database)
        if subject:
            yield _source(roles.owner, subject)
    if roles.owner and roles.worker:
        yield _worker(roles.owner, roles.worker, subject)
    if roles.reader:
        yield _reader_with_sql(roles.reader, subject)
        yield _reader_with_client(roles.reader)


def reader(role: str, embedding: Embedding) -> Iterator[sql.Composed]:
    """What lets a role search this embedding, with SQL and with Client."""
    for group in (_reader_with_sql(role, subject_of(embedding)), _reader_with_client(role)):
        yield from group.statements


def _database(owner: str, database: str) -> Group:
    return Group(
        (
            "Owner: runs init. Grant this before init.",
            "It may create the two schemas, and the extension vector if it is missing and PostgreSQL trusts it;",
            "otherwise a superuser creates it: CREATE EXTENSION vector.",
        ),
        (_grant_create_in_database(owner, database),),
    )


def _source(owner: str, subject: Subject) -> Group:
    schemas = [subject.table.schema, *_further_schema(subject)]
    statements = [_use_of_schema(schema, owner) for schema in schemas]
    if subject.in_source:
        schema = sql.Identifier(subject.table.schema)
        statements.append(statement("grant_create_in_schema", schema=schema, role=sql.Identifier(owner)))
    if subject.table_owner not in (None, owner):
        statements.insert(0, _membership(str(subject.table_owner), owner))
    return Group(
        (
            f"Owner: runs attach, detach and verify --repair for {subject.table}. Grant this before attach.",
            "PostgreSQL lets only the owner of a table put triggers on it that fire always, or members of that owner.",
            *_ownership(owner, subject),
        ),
        tuple(statements),
    )


def _ownership(owner: str, subject: Subject) -> Iterator[str]:
    """What no statement can express."""
    if subject.table_owner is None:
        yield f"{subject.table} must belong to {owner}, or to a role that {owner} is a member of (--table-owner)."
    if subject.table_owner == owner:
        yield f"{subject.table} belongs to {owner}: it needs no membership."
    if subject.in_source:
        yield "The index of the column stands in the schema of the table, hence CREATE on it."


def _worker(owner: str, worker: str, subject: Subject | None) -> Group:
    hidden = f" of {subject.table}" if subject else ""
    return Group(
        (
            "Worker: runs worker. Grant this before the worker starts.",
            "PostgreSQL lets only the owner of a table build its index and vacuum it, or members of that owner.",
            "So the worker is a member of the owner, and needs nothing else.",
            f"It must see every row{hidden}: where row-level security is forced, also ALTER ROLE ... BYPASSRLS.",
        ),
        (_membership(owner, worker),),
    )


def _reader_with_sql(reader: str, subject: Subject | None) -> Group:
    purpose = ["Reader: queries the view with SQL. Grant this after attach."]
    statements = [_use_of_schema(PUBLIC_SCHEMA, reader)]
    if subject:
        purpose.append("The view has the reader's rights (security_invoker), so it needs SELECT on your table as well:")
        purpose.append("all of it, or the columns that the view reads. It sees the rows that it may read there.")
        statements += [_use_of_schema(schema, reader) for schema in (subject.table.schema, *_further_schema(subject))]
        view = sql.Identifier(PUBLIC_SCHEMA, subject.name)
        statements.append(_select((view, identifier(subject.table)), reader))
    return Group(tuple(purpose), tuple(statements))


def _reader_with_client(reader: str) -> Group:
    registry = [sql.Identifier(INTERNAL_SCHEMA, name) for name in ("embedding", "generation")]
    return Group(
        (
            "Reader: searches by text with Client or search, which read the registry as well. Grant this after init.",
            "The registry has the names, tables and instructions of all embeddings.",
        ),
        (_use_of_schema(INTERNAL_SCHEMA, reader), _select(registry, reader)),
    )


def _further_schema(subject: Subject) -> list[str]:
    """The schema of the extension, if not every role may use it."""
    return [] if subject.vector_schema in ("public", subject.table.schema) else [subject.vector_schema]


def _grant_create_in_database(role: str, database: str) -> sql.Composed:
    return statement("grant_create_in_database", database=sql.Identifier(database), role=sql.Identifier(role))


def _membership(group: str, role: str) -> sql.Composed:
    return statement("grant_membership", group=sql.Identifier(group), role=sql.Identifier(role))


def _use_of_schema(schema: str, role: str) -> sql.Composed:
    return statement("grant_use_of_schema", schema=sql.Identifier(schema), role=sql.Identifier(role))


def _select(relations: Iterable[sql.Identifier], role: str) -> sql.Composed:
    return statement("grant_select", relations=joined(relations), role=sql.Identifier(role))
