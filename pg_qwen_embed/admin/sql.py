"""The output of `sql`: the statements of `attach`, and the rights of each role. Nothing is created.

A described table needs no connection, to the database or to the server."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pg_qwen_embed.admin import attach as attaching
from pg_qwen_embed.admin import instructions
from pg_qwen_embed.admin.description import Description, check_text_columns
from pg_qwen_embed.domain.errors import UsageError
from pg_qwen_embed.domain.spec import StoreKind
from pg_qwen_embed.postgres import catalog
from pg_qwen_embed.postgres.configurations import unconfirmed
from pg_qwen_embed.postgres.connection import Connection, as_text, conninfo
from pg_qwen_embed.postgres.grants import Group, Roles, Subject, groups, subject_of
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

DEFAULT_NAMES = ("qwen_embed_owner", "qwen_embed_worker", "qwen_embed_reader")
DEFAULT_ROLES = Roles(*DEFAULT_NAMES)


def attach(description: Description, declaration: attaching.Declaration) -> str:
    """The output of `attach --dry-run`, for the described table. Raises UsageError."""
    source, spec = description.source(), declaration.spec
    attaching.check_spec(spec)
    declaration = replace(declaration, instruction=instructions.shipped(declaration.instruction))
    if spec.words is not None:
        declaration = replace(declaration, spec=replace(spec, words=unconfirmed(spec.words)))
    check_text_columns(source, spec.template.columns)
    number, schema = description.number, description.extension_schema
    return attaching.described(attaching.declared(declaration, source, number, schema))


def grants(roles: Roles, subject: Subject | None, database: str | None, url: str, *, create: bool = False) -> str:
    """GRANT statements for these roles, in groups, each with its purpose. Raises UsageError.

    database: its name; None: the one in the URL. create: CREATE ROLE for each comes first."""
    if roles.worker and not roles.owner:
        raise UsageError("the worker is a member of the owner: add --role-owner")
    name = database or (_database_of(url) if roles.owner else "")
    wanted = [*_creation(roles), *groups(roles, name, subject)] if create else groups(roles, name, subject)
    return "\n\n".join(["\n".join(_heading(subject, create=create)), *map(_as_text, wanted)])


def roles(owner: str | None, worker: str | None, reader: str | None) -> Roles:
    """The given roles; if none is given, all three with their default names."""
    return Roles(owner, worker, reader) if owner or worker or reader else DEFAULT_ROLES


def subject(connection: Connection, name: str) -> Subject:
    """What the rights of an attached embedding depend on. Raises UsageError."""
    embedding = catalog.embedding(connection, name)
    (owner,) = connection.execute(statement("table_owner", names_of(embedding)), {}).fetchone() or ("",)
    return subject_of(embedding, owner)


@dataclass(frozen=True, slots=True)
class About:
    """The same, given by options instead of the database. The table's name is enough of a description."""

    description: Description
    name: str | None = None
    store: StoreKind | None = None
    table_owner: str | None = None

    def subject(self) -> Subject | None:
        """None if there is no table. Raises UsageError."""
        if not self._names_table:
            self._require_nothing("for a table: add TABLE, or --file")
            return None
        table = self.description.name()
        number, schema = self.description.number, self.description.extension_schema
        in_source = self.store is StoreKind.COLUMN
        return Subject(table, self.name or table.name, number, in_source, schema, self.table_owner)

    def require_nothing(self) -> None:
        """Raises UsageError if anything was given."""
        if self._names_table:
            raise UsageError("--embedding reads the table from the database; leave TABLE and what describes it out")
        self._require_nothing("read from the database with --embedding; leave it out")

    @property
    def _names_table(self) -> bool:
        return self.description.describes or self.description.table is not None

    def _require_nothing(self, reason: str) -> None:
        given = {
            "--name": self.name, "--store": self.store, "--table-owner": self.table_owner,
            "--generation": self.description.generation, "--vector-schema": self.description.vector_schema,
        }  # fmt: skip
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is {reason}")


def _database_of(url: str) -> str:
    name = conninfo_to_dict(conninfo(url, "pg_qwen_embed sql")).get("dbname")
    if not name:
        raise UsageError("the database is not known: add --database NAME, or name it in the database URL")
    return str(name)


def _creation(roles: Roles) -> Iterator[Group]:
    named = [sql.Identifier(role) for role in (roles.owner, roles.worker, roles.reader) if role]
    yield Group(
        (
            "Roles: none is a superuser. Run this first, as a role that may create roles.",
            "They have no password: give each one, or let pg_hba.conf know it.",
        ),
        tuple(statement("create_role", role=role) for role in named),
    )


def _heading(subject: Subject | None, *, create: bool) -> Iterator[str]:
    about = f" for {subject.table} as {subject.name} (generation {subject.generation})" if subject else ""
    there = "" if create else " The roles are there already: add --create-roles where they are not."
    yield f"-- Rights of the roles of pg_qwen_embed{about}.{there}"
    yield "-- Run each group as a role that may grant these rights: a superuser, or the owner of the object."
    if subject:
        yield f"-- A role that only writes to {subject.table} needs nothing more."
    else:
        yield "-- Rights to a table are printed with --embedding NAME, or with TABLE."


def _as_text(group: Group) -> str:
    return "\n".join([*(f"-- {line}" for line in group.purpose), *(f"{as_text(one)};" for one in group.statements)])
