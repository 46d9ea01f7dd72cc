"""Several statements in one request, which is answered as a whole: psycopg's pipeline without its last message.

The statements are one transaction, which ends with the request. psycopg sends a Flush after the Sync that ends a pipeline.
A pooler in transaction mode takes it for the beginning of another transaction, and keeps a session for it. The answer to a
Sync needs no Flush."""

from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType

import psycopg
from psycopg.abc import PQGen

from pg_qwen_embed.postgres.connection import AsyncConnection


class _Pipeline(psycopg.AsyncPipeline):
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error the statements behind it are skipped. psycopg would log that as a warning in the application's log."""
        if error is None:
            await super().__aexit__(kind, error, trace)
            return
        try:
            async with self._lock:
                with suppress(psycopg.Error):
                    await self._conn.wait(self._exit_gen())
        finally:
            self._exit(error)

    def _exit_gen(self) -> PQGen[None]:
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)


def one_request(connection: AsyncConnection) -> AbstractAsyncContextManager[psycopg.AsyncPipeline]:
    """What is executed inside is sent when it ends; the rows are there after it. It is not for nesting."""
    connection._pipeline = _Pipeline(connection)  # which `pipeline` takes if there is one
    return connection.pipeline()
