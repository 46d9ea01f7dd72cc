"""Several statements in one request, which is answered as a whole: psycopg's pipeline without its last message.

The statements are one transaction, which ends with the request. psycopg sends a Flush after the Sync that ends a pipeline.
A pooler in transaction mode takes it for the beginning of another transaction, and keeps a session for it. The answer to a
Sync needs no Flush."""

from contextlib import AbstractAsyncContextManager

import psycopg
from psycopg.abc import PQGen

from pg_qwen_embed.postgres.connection import AsyncConnection


class _Pipeline(psycopg.AsyncPipeline):
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
