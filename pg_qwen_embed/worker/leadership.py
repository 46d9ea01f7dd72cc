"""Leadership: which generations this worker leads, and what it tells others by locks and by its session name.

A leader holds a session lock for each generation. The lock ends with the session, so it needs no lease and no heartbeat."""

from collections.abc import Iterable

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.postgres.connection import AsyncConnection
from pg_qwen_embed.postgres.locks import Lock
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.worker import session_locks

READER_NAME = "pg_qwen_embed worker: lead and read"
AWAY_NAME = "pg_qwen_embed worker: the embedding server does not answer"


class Leadership:
    """The locks and the name of the session that leads."""

    def __init__(self, connection: AsyncConnection, balancer: Balancer, runtime: Runtime) -> None:
        self._connection = connection
        self._balancer = balancer
        self._runtime = runtime
        self._name = READER_NAME
        self._mismatches: dict[int, str] = {}  # generations whose model no server has, each with the sentence

    async def lead(self, ids: Iterable[int]) -> list[int]:
        """Take the leader locks; returns the generations that no other worker leads."""
        return await session_locks.take(self._connection, Lock.LEADER, ids)

    async def resign(self, id_: int) -> None:
        await session_locks.release(self._connection, Lock.LEADER, id_)

    async def report_servers(self, targets: Iterable[Target]) -> None:
        """Show in the session's name, which `status` reads, whether a needed server is unavailable."""
        lacking = any(self._balancer.lacks(target) for target in targets)
        name = AWAY_NAME if lacking else READER_NAME
        if name != self._name:
            self._name = name
            await self._connection.execute(statement("name_session"), {"name": name})

    async def report_mismatches(self, targets: Iterable[Target]) -> None:
        """Report generations whose model no server has: in the log, and by a lock that `status` reads."""
        found = {target.id: self._balancer.mismatch(target) for target in targets}
        mismatches = {id_: str(mismatch) for id_, mismatch in found.items() if mismatch}
        for id_ in self._mismatches.keys() - mismatches.keys():
            await session_locks.release(self._connection, Lock.MODEL_MISMATCH, id_)
        await session_locks.take(self._connection, Lock.MODEL_MISMATCH, mismatches.keys() - self._mismatches.keys())
        for id_, sentence in mismatches.items():
            if self._mismatches.get(id_) != sentence:
                self._runtime.events.emit(events.ModelMismatch(sentence))
        self._mismatches = mismatches
