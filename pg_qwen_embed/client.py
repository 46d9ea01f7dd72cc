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

from pg_qwen_embed import catalog, vectors
from pg_qwen_embed.database import BinaryValue, Connection, connect
from pg_qwen_embed.errors import AnotherModel, UsageError
from pg_qwen_embed.model import Embedding, Hit
from pg_qwen_embed.prompt import PromptStyle, query_prompt
from pg_qwen_embed.settings import Settings, resolve
from pg_qwen_embed.sglang import EmbeddingServer, ModelInfo
from pg_qwen_embed.sql import fragments, statement

T = TypeVar("T")


class Client:
    """Queries against embeddings. A context manager; may be used from any thread, also inside an event loop.

        with Client() as client:
            vector = client.embed_query("articles", "how do vectors follow text?")
            hits = client.search("articles", "how do vectors follow text?", limit=5)

    Settings not given come from the environment (see `pg-qwen-embed --help`). What the registry says of an embedding
    is read once and kept for the client's life."""

    def __init__(
        self, database_url: str | None = None, *, server_url: str | None = None, api_key: str | None = None
    ) -> None:
        options = {"database_url": database_url, "server_url": server_url, "api_key": api_key}
        self._settings: Settings = resolve(os.environ, **options)
        self._connection: Connection | None = None
        self._embeddings: dict[str, Embedding] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pg_qwen_embed client", daemon=True)
        self._thread.start()
        self._server = EmbeddingServer(self._settings)
        self._info: ModelInfo | None = None
        self._run(self._server.__aenter__())

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
        self._run(self._server.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._connection is not None:
            self._connection.close()

    def embed_query(self, name: str, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, shape (dimensions,), with the embedding's instruction in front.

        Raises UsageError (no such embedding, blank text, another model), ServerUnavailable, DocumentRefused,
        DatabaseUnavailable."""
        if not text.strip():
            raise UsageError("the query is blank: there is nothing to search for")
        with self._lock:
            embedding = self._embedding(name)
        prompt = query_prompt(PromptStyle(embedding.prompt_style), embedding.instruction, text)
        found: NDArray[np.float32] = self._run(self._embed(embedding, prompt))
        return found

    def search(self, name: str, text: str, limit: int = 10) -> list[Hit]:
        """The `limit` rows nearest to the query, nearest first: each row's columns and its distance."""
        if limit < 1:
            raise UsageError(f"a limit of {limit} finds nothing; it must be 1 or more")
        query = self.embed_query(name, text)
        with self._lock:
            embedding = self._embedding(name)
            try:
                return self._search(embedding, query, limit)
            except psycopg.OperationalError:
                if not self._database_lost():
                    raise
                return self._search(embedding, query, limit)  # on a new connection

    def _search(self, embedding: Embedding, query: NDArray[np.float32], limit: int) -> list[Hit]:
        holes = fragments.holes(embedding)
        payload = BinaryValue(vectors.halfvec(query))
        connection = self._database()
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement("configure_search"))
            search = statement("search_chunks" if embedding.generation.chunking else "search", holes)
            rows = cursor.execute(search, {"query": payload, "limit": limit}).fetchall()
        for row in rows:
            del row[embedding.column], row["stale"]
        hits = [Hit(row.pop("qwen_embed_distance"), row) for row in rows]
        return sorted(hits, key=lambda hit: hit.distance)  # the index orders by distances it has rounded

    async def _embed(self, embedding: Embedding, prompt: str) -> NDArray[np.float32]:
        dimensions = embedding.generation.dimensions
        try:
            found = await self._server.embed(await self._served(embedding), [prompt], dimensions)
        except AnotherModel:  # since it was asked what it serves: ask again
            self._info = None
            found = await self._server.embed(await self._served(embedding), [prompt], dimensions)
        query: NDArray[np.float32] = found[0]
        return query

    async def _served(self, embedding: Embedding) -> ModelInfo:
        if self._info is None:
            self._info = await self._server.model_info()
        if self._info.model == embedding.generation.model:
            return self._info
        served, self._info = self._info.model, None
        raise UsageError(
            f"{embedding.name} holds vectors of {embedding.generation.model}, and the server at {self._server.url} "
            f"serves {served}; set PG_QWEN_EMBED_SERVER_URL to a server of that model"
        )

    def _embedding(self, name: str) -> Embedding:
        if name not in self._embeddings:
            self._embeddings[name] = catalog.embedding(self._database(), name)
        return self._embeddings[name]

    def _database_lost(self) -> bool:
        return self._connection is not None and self._connection.closed

    def _database(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings.database_url, "pg_qwen_embed client")
        return self._connection

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
