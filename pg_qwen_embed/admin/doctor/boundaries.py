"""Checks of the boundaries that docs/security.md describes: one finding for each that this installation crosses."""

from collections.abc import Iterator
from itertools import groupby

from psycopg.rows import dict_row

from pg_qwen_embed.admin.doctor.findings import Finding, State
from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.postgres import trust
from pg_qwen_embed.postgres.connection import Connection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement

AREA = "security"
LOCAL = ("/", "@", "localhost", "127.", "::1")  # beginnings of hosts to which no network leads


def look_at_connection(connection: Connection) -> Iterator[Finding]:
    host = connection.info.host
    if host and not host.startswith(LOCAL) and not connection.pgconn.ssl_in_use:
        yield Finding(AREA, State.WARNING, f"the connection to PostgreSQL on {shown(host)} is not encrypted",
                      "write sslmode=verify-full into the database URL: see docs/security.md, TLS")  # fmt: skip


def look_at_roles(connection: Connection) -> Iterator[Finding]:
    """Superusers: whoever owns what they use may do all that they may."""
    for role, is_ours in connection.execute(statement("look_at_superusers"), {"lock": int(Lock.LEADER)}).fetchall():
        who = f"the role {shown(role)} is a superuser" if is_ours else f"a worker runs as the superuser {shown(role)}"
        yield Finding(AREA, State.WARNING, f"{who}: the owner of a source could get its rights",
                      "give commands and worker roles of their own: pg-qwen-embed sql grants --create-roles")  # fmt: skip


def look_at_our_schemas(connection: Connection) -> Iterator[Finding]:
    """Objects of roles that are not trusted, and roles that may add some."""
    found = sorted(trust.untrusted(connection), key=lambda one: one.owner)
    for owner, objects in groupby(found, key=lambda one: one.owner):
        first, *more = objects
        text = f"{first.ownership}, and so do {len(more)} other objects of pg_qwen_embed" if more else first.ownership
        membership, removal = (shown(sql) for sql in (first.membership, first.removal))
        advice = f"run commands and worker as {shown(owner)}, or: {membership}; if it has no business there: {removal}"
        yield Finding(AREA, State.WARNING, f"{text}: commands that use them do not run as {shown(first.role)}", advice)
    for role, privilege, what, revocation in connection.execute(statement("look_at_creators"), {}).fetchall():
        yield Finding(AREA, State.WARNING, f"{shown(role)} has {privilege} on {what}: it decides what the worker does",
                      f"if that role may not do what the worker may, run: {shown(revocation)}")  # fmt: skip


def look_at_locks(connection: Connection) -> Iterator[Finding]:
    if holder := trust.holder_of_init(connection):
        yield Finding(AREA, State.WARNING, f"the lock of init is held by {holder}", "until then init cannot run")


def look_at_source(connection: Connection, embedding: Embedding) -> Iterator[Finding]:
    """Owners of the source, its partitions and its types: a statement that reads a table may call functions of its owner."""
    names, table = names_of(embedding), embedding.source.table
    with connection.cursor(row_factory=dict_row) as cursor:
        values = {"schema": table.schema, "name": table.name}
        rows = cursor.execute(statement("untrusted_owners"), values).fetchall()
    for owner, things in groupby(rows, key=lambda row: str(row["owner"])):
        what = ", ".join(shown(f"{row['kind']} {row['name']}") for row in things)
        more = ", and so may its triggers" if names.layout.in_source else ""
        text = f"{what} belongs to {shown(owner)}, whose functions may run with the rights of {shown(rows[0]['role'])}{more}"
        yield Finding(embedding.name, State.WARNING, text,
                      "see docs/security.md, The boundary of trust: a role that is not a superuser, and a member of that "
                      "owner, crosses none")  # fmt: skip
