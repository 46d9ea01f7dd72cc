"""What applications import: embed a query the way its embedding wants it, and search."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import DatabaseUnavailable, ModelMismatch, ServerUnavailable, UsageError
from pg_qwen_embed.domain.prompt import query_prompt
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.inference.sglang import ASK_TIMEOUT, IDENTITY_CHECK_INTERVAL, EmbeddingServer, ModelInfo
from pg_qwen_embed.postgres import binary, catalog
from pg_qwen_embed.postgres.connection import BinaryValue, Connection, connect
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.settings import Settings, resolve

T = TypeVar("T")


class ServerHandle:
    """A server, and what it said it serves, half a minute ago at most."""

    def __init__(self, server: EmbeddingServer) -> None:
        self.server = server
        self._info: ModelInfo | None = None
        self._looked = 0.0  # when that was last known to be true

    async def embed(self, embedding: Embedding, prompt: str) -> NDArray[np.float32]:
        """Raises UsageError when it has another model, ServerUnavailable, DocumentRefused."""
        dimensions = embedding.live.spec.dimensions
        try:
            found = await self.server.embed(await self._fitting(embedding), [prompt], dimensions, urgent=True)
        except ModelMismatch:  # since it was asked what it serves: ask again
            self.forget()
            found = await self.server.embed(await self._fitting(embedding), [prompt], dimensions, urgent=True)
        query: NDArray[np.float32] = found.vectors[0]
        return query

    async def _fitting(self, embedding: Embedding) -> ModelInfo:
        info = await self._current()
        mismatch = info.mismatch(embedding.target)
        if mismatch:
            raise UsageError(str(mismatch))
        return info

    def forget(self) -> None:
        """Ask again next time."""
        self._info = None

    async def _current(self) -> ModelInfo:
        info, now = self._info, asyncio.get_running_loop().time()
        fresh = info is not None and now - self._looked < IDENTITY_CHECK_INTERVAL
        if info is None or not (fresh or await self.server.still_serves(info)):
            info = await self.server.model_info()
        if not fresh:
            self._info, self._looked = info, now
        return info


class Client:
    """Queries against embeddings. A context manager; may be used from any thread, also inside an event loop.

        with Client() as client:
            vector = client.embed_query("articles", "how do vectors follow text?")
            hits = client.search("articles", "how do vectors follow text?", limit=5)

    Settings not given come from the environment (see `pg-qwen-embed --help`)."""

    def __init__(
        self,
        database_url: str | None = None,
        *,
        server_url: str | None = None,
        api_key: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        options = {"database_url": database_url, "server_url": server_url, "api_key": api_key, "ca_file": ca_file}
        self._settings: Settings = resolve(os.environ, **options)
        # The one that failed last comes last.
        self._servers = [ServerHandle(EmbeddingServer(one, ASK_TIMEOUT)) for one in self._settings.servers]
        self._connection: Connection | None = None
        self._embeddings: dict[str, Embedding] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pg_qwen_embed client", daemon=True)
        self._thread.start()
        for handle in self._servers:
            self._run(handle.server.__aenter__())

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        if self._loop.is_closed():
            return
        for handle in self._servers:
            self._run(handle.server.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._connection is not None:
            self._connection.close()

    def embed_query(self, name: str, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, shape (dimensions,), with the embedding's instruction in front.

        Raises UsageError (no such embedding, blank text, another model), ServerUnavailable, DocumentRefused,
        DatabaseUnavailable."""
        return self._query(name, text)[1]

    def _query(self, name: str, text: str) -> tuple[Embedding, NDArray[np.float32]]:
        if not text.strip():
            raise UsageError("the query is blank: there is nothing to search for")
        with self._lock:
            embedding = self._embedding(name)
        prompt = query_prompt(embedding.prompt_style, embedding.instruction, text)
        return embedding, self._run(self._embed(embedding, prompt))

    def search(self, name: str, text: str, limit: int = 10) -> list[Hit]:
        """The `limit` rows nearest to the query, nearest first: each row's columns and its distance."""
        if limit < 1:
            raise UsageError(f"a limit of {limit} finds nothing; it must be 1 or more")
        embedding, query = self._query(name, text)
        with self._lock:
            try:
                return self._search(embedding, query, limit)
            except psycopg.OperationalError:
                if not self._database_lost():
                    raise
                return self._search(embedding, query, limit)  # on a new connection

    def _search(self, embedding: Embedding, query: NDArray[np.float32], limit: int) -> list[Hit]:
        names = names_of(embedding)
        payload = BinaryValue(binary.halfvec(query))
        connection = self._database()
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement("configure_search"))
            search = statement(names.layout.search, names)
            rows = cursor.execute(search, {"query": payload, "limit": limit}).fetchall()
        for row in rows:
            del row[embedding.column], row["stale"]
        hits = [Hit(row.pop("qwen_embed_distance"), row) for row in rows]
        return sorted(hits, key=lambda hit: hit.distance)  # the index orders by distances it has rounded

    async def _embed(self, embedding: Embedding, prompt: str) -> NDArray[np.float32]:
        """From the first server that has the model and answers."""
        problems: list[ServerUnavailable | UsageError] = []
        for handle in list(self._servers):
            try:
                return await handle.embed(embedding, prompt)
            except UsageError as error:
                problems.append(error)
            except ServerUnavailable as error:
                problems.insert(0, error)
                self._servers.sort(key=lambda other: other is handle)
        for handle in self._servers:  # one may be put right
            handle.forget()
        raise problems[0]

    def _embedding(self, name: str) -> Embedding:
        """As it is now: it may have been attached anew. While the database is away, as it was last."""
        known = self._embeddings.get(name)
        try:
            if known is None or catalog.live_generation(self._database(), name) != known.live.id:
                self._embeddings[name] = catalog.embedding(self._database(), name)
        except (psycopg.OperationalError, DatabaseUnavailable):
            if known is None:
                raise
        return self._embeddings[name]

    def _database_lost(self) -> bool:
        return self._connection is not None and self._connection.closed

    def _database(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings.database_url, "pg_qwen_embed client")
        return self._connection

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
