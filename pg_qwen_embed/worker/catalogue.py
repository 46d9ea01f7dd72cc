"""What a session knows of PostgreSQL's catalogs: oids that must stay as they are, and which rights this role lacks."""

from collections.abc import Iterable

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DatabaseUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.postgres import rights
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.names import Names
from pg_qwen_embed.postgres.sql import statement


class Catalogue:
    """`check` before the registry is followed; `explain_rights` after PostgreSQL denied something."""

    def __init__(self, connection: AsyncConnection, runtime: Runtime) -> None:
        self._connection = connection
        self._runtime = runtime
        self._outboxes: dict[int, int] = {}  # oids by generation
        self._told: dict[int, str] = {}  # why a generation is not followed
        self._lacking: dict[int, str] = {}  # which rights a generation needs
        self.halfvec_oid = 0

    async def check(self, followed: Iterable[int]) -> set[int]:
        """Returns the generations whose outbox is another one: what is held in memory of them belongs to other entries.

        Raises DatabaseUnavailable if the extension was created again beneath the session, with a restore for instance: its
        prepared statements name types that are gone. The same for another owner's store, if the session was opened before
        it was there: see configure_worker_session."""
        ids = list(followed)
        cursor = await self._connection.execute(statement("catalogue_facts"), {"ids": ids})
        halfvec, outboxes, too_strict = await cursor.fetchone() or (None, [], False)
        now = {id_: oid for id_, oid in zip(ids, outboxes, strict=True) if oid}
        if halfvec and self.halfvec_oid and halfvec != self.halfvec_oid:
            raise DatabaseUnavailable("the database was restored, or the extension vector created again")
        if too_strict:
            raise DatabaseUnavailable("there is a store now whose owner this role is no member of")
        self.halfvec_oid = halfvec or self.halfvec_oid
        replaced = {id_ for id_, oid in now.items() if self._outboxes.get(id_, oid) != oid}
        self._outboxes = now
        return replaced

    async def hidden(self) -> set[int]:
        """The generations with rows that row-level security may hide from this role, where that is no error by itself."""
        return {id_ for (id_,) in await (await self._connection.execute(statement("hidden_sources"))).fetchall()}

    def tell(self, target: Target, reason: str) -> None:
        """Report why a generation is not followed, once until the reason changes."""
        if self._told.get(target.id) != reason:
            self._told[target.id] = reason
            self._runtime.events.emit(events.NotFollowed(target.name, reason))

    def followed(self, target: Target) -> None:
        self._told.pop(target.id, None)
        self._lacking.pop(target.id, None)

    async def explain_rights(self, targets: Iterable[Target]) -> None:
        """Report the rights that these generations need, with their GRANT statements, once until they need others."""
        for target in targets:
            found = await rights.lacking_async(self._connection, rights.of_worker(Names(target)))
            said = rights.sentence(self._connection.info.user, found)
            if found and self._lacking.get(target.id) != said:
                self._lacking[target.id] = said
                self._runtime.events.emit(events.RightsMissing(target.name, said))
