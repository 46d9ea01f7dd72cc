"""Whose code our statements would run, and whose sessions hold our locks.

What stands in our schemas is used with the rights of the role that runs a command. So it must belong to a role that this
one trusts: itself, a superuser, or a role that it is a member of. An advisory lock can be taken by every role that may
connect: one whose role may not write the registry is no worker's."""

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg.rows import dict_row

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import SetupError
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.postgres import call_names, catalog
from pg_qwen_embed.postgres.connection import AsyncConnection, Connection
from pg_qwen_embed.postgres.key_names import INTERNAL_SCHEMA, PUBLIC_SCHEMA
from pg_qwen_embed.postgres.locks import MIGRATION, Lock
from pg_qwen_embed.postgres.sql import statement

LONGEST_NAME = 80  # characters of a name that a stranger has chosen
_REGISTRY = {"embedding", "generation", "backfill", "alembic_version"}
_QUERIES = {
    "query_secret",
    "query_cache",
    "query_error",
    "query_vector",
    "ask_worker",
    "live_generation",
    "hold_view",
    "await_queries",
    "progress",
    "about_rows",
}
_SHARED = (
    _REGISTRY | _QUERIES | {"fingerprint", "text_of", "key_now", "words", "ann_index", "evaluation"}
)  # by all embeddings
_SHARED_IN_PUBLIC = {"ef_search"}
_HARM = {
    Lock.LEADER: "the leader lock: no worker can lead",
    Lock.GATE: "the gate: each transaction that changes the source sends a notification",
    Lock.STORE: "the lock of the store: no vector is written",
    Lock.OBJECTS: "the lock of its objects: alter, detach and verify --repair cannot begin",
    Lock.INDEX: "the lock of its index, which is neither built nor dropped",
    Lock.MODEL_MISMATCH: "the lock that reports a model mismatch",
    Lock.ANSWERS: "the lock of who answers queries: qwen_embed.embed_query waits in vain",
}


@dataclass(frozen=True, slots=True)
class ForeignObject:
    """An object in our schemas, or one of them, of a role that this one does not trust."""

    kind: str
    schema: str
    name: str
    written: str  # as in SQL
    owner: str
    generation: int | None
    role: str  # this one
    superuser: bool
    removal: str  # the statement that removes it
    membership: str  # the statement that makes this role trust the owner

    @property
    def is_registry(self) -> bool:
        """Whether all commands read it, before they know of any embedding."""
        return self.kind == "schema" or (self.schema == INTERNAL_SCHEMA and self.name in _REGISTRY)

    @property
    def is_shared(self) -> bool:
        """Whether every embedding uses it, or would take it for what it uses."""
        shared = _SHARED if self.schema == INTERNAL_SCHEMA else _SHARED_IN_PUBLIC
        return self.is_registry or (self.kind != "view" and self.name in shared)

    def is_of(self, target: Target) -> bool:
        own = {target.name, *(target.name + suffix for suffix in call_names.SUFFIXES)}
        return self.generation == target.id or (self.schema == PUBLIC_SCHEMA and self.name in own)

    @property
    def ownership(self) -> str:
        return f"the {self.kind} {_name(self.written)} belongs to {_name(self.owner)}"

    @property
    def sentence(self) -> str:
        trust = f"run this as {_name(self.owner)}" if self.superuser else f"run: {shown(self.membership)}"
        otherwise = "if nobody has" if self.kind == "schema" else "if it has not"
        return (
            f"{self.ownership}, whose code would run with the rights of {_name(self.role)}; if that role has set up "
            f"pg_qwen_embed here, {trust}; {otherwise}, run: {shown(self.removal)}"
        )


def untrusted(connection: Connection) -> list[ForeignObject]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return [ForeignObject(**row) for row in cursor.execute(statement("untrusted_objects"), {}).fetchall()]


async def untrusted_async(connection: AsyncConnection) -> list[ForeignObject]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(statement("untrusted_objects"), {})).fetchall()
    return [ForeignObject(**row) for row in rows]


def require_none(connection: Connection) -> None:
    """Raises SetupError if anything in our schemas belongs to a role that this one does not trust."""
    for one in untrusted(connection)[:1]:
        raise SetupError(one.sentence)


def require_trusted(connection: Connection, name: str | None = None) -> None:
    """Raises SetupError if what a command uses belongs to a role that this one does not trust.

    name: of the embedding that it uses; None: it uses the registry alone. Nothing in our schemas is read before."""
    catalog.require_registry(connection)
    found = untrusted(connection)
    for one in found:
        if one.is_shared:
            raise SetupError(one.sentence)
    if found and name is not None:
        targets = catalog.find(connection, name).embedding.targets
        for one in found:
            if any(one.is_of(target) for target in targets):
                raise SetupError(one.sentence)


def find(connection: Connection, name: str) -> catalog.Registered:
    """The embedding of that name, if what a command uses of it is trusted. Raises SetupError, UsageError."""
    require_trusted(connection, name)
    return catalog.find(connection, name)


async def require_registry_async(connection: AsyncConnection) -> None:
    """The same for what is read before any embedding is known."""
    for one in await untrusted_async(connection):
        if one.is_registry:
            raise SetupError(one.sentence)


def foreign_to(target: Target, found: Iterable[ForeignObject]) -> ForeignObject | None:
    """The first of these that the worker would use for a generation."""
    return next((one for one in found if one.is_shared or one.is_of(target)), None)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A session that holds a lock of ours, of a role that may not write the registry. id: a generation's, or a hash."""

    lock: int
    id: int
    pid: int | None  # None: a prepared transaction
    role: str | None
    application: str | None
    remedy: str

    @property
    def sentence(self) -> str:
        return f"{_session(self.pid, self.role, self.application)} holds {_HARM[Lock(self.lock)]}"

    @property
    def advice(self) -> str:
        return f"that role may not write the registry, so it is no worker; run: {shown(self.remedy)}"


def strangers(connection: Connection) -> list[Stranger]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return [Stranger(**row) for row in cursor.execute(statement("strangers_with_locks"), _locks()).fetchall()]


async def strangers_async(connection: AsyncConnection) -> list[Stranger]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(statement("strangers_with_locks"), _locks())).fetchall()
    return [Stranger(**row) for row in rows]


def strangers_at(connection: Connection, target: Target, found: Iterable[Stranger]) -> list[Stranger]:
    """Those who hold a lock of this generation, or of its embedding."""
    (number,) = connection.execute(statement("lock_number"), {"name": target.name}).fetchone() or (0,)
    return [one for one in found if one.id == (number if one.lock == Lock.OBJECTS else target.id)]


def holder_of_init(connection: Connection) -> str | None:
    """Who holds the lock of `init`, and what ends that session, as a person reads it."""
    row = connection.execute(statement("holder_of_init"), {"lock": MIGRATION}).fetchone()
    return f"{_session(*row[:3])}; if that is no init, run: {row[3]}" if row else None


def _name(words: str) -> str:
    return shown(words, LONGEST_NAME)


def _session(pid: int | None, role: str | None, application: str | None) -> str:
    session = "a prepared transaction" if pid is None else f"pid {pid}"
    name = f", which calls itself {_name(application)}," if application else ""
    return f"{session} of the role {_name(role or 'unknown')}{name}"


def _locks() -> dict[str, object]:
    return {"locks": [int(lock) for lock in Lock], "gate": int(Lock.GATE)}
