"""The client that applications import: it embeds queries with their embedding's instruction, and searches.

It reads the registry and the view, and writes nothing. No worker needs to run. What it opens is closed by `close`, or
when the Client or Python itself ends. In a forked process it opens its own."""

import asyncio
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from types import TracebackType

import numpy as np
import psycopg
from numpy.typing import NDArray

from pg_qwen_embed.domain.embedding import Embedding, Target
from pg_qwen_embed.domain.errors import DatabaseUnavailable, ModelMismatch, ServerUnavailable, UsageError
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.texts import is_storable
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.encoder import Encoder, KnownServer
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import ASK_TIMEOUT, IDENTITY_CHECK_INTERVAL, EmbeddingServer
from pg_qwen_embed.postgres import binary, catalog, values
from pg_qwen_embed.postgres.connection import BinaryValue, Connection, connect
from pg_qwen_embed.postgres.names import names_of
from pg_qwen_embed.postgres.sql import statement
from pg_qwen_embed.search.background import CLOSED, Background, leave_to_parent
from pg_qwen_embed.settings import Settings, resolve


class CachedServer:
    """A server with its identity, which is confirmed when it is older than IDENTITY_CHECK_INTERVAL."""

    def __init__(self, server: EmbeddingServer) -> None:
        self.server = server
        self._known: dict[str, tuple[ModelInfo, float]] = {}  # by the wanted model, and when it was confirmed

    async def query(self, target: Target, text: str) -> Vectors:
        """The unit vector of a query. Raises ModelMismatch, ServerUnavailable, DocumentRejected."""
        info = await self._identity(target.spec.model)
        try:
            return await self._encode(info, target, text)
        except ModelMismatch:
            if info.mismatch(target):  # as it was confirmed
                raise
            self.forget()  # it has changed since
        return await self._encode(await self._identity(target.spec.model), target, text)

    def forget(self) -> None:
        """Confirm the identity again next time."""
        self._known.clear()

    async def _encode(self, info: ModelInfo, target: Target, text: str) -> Vectors:
        return await Encoder(KnownServer(self.server, info)).query(target, target.embedding.instruction, text)

    async def _identity(self, wanted: str) -> ModelInfo:
        """wanted: the model, where the server has several."""
        now = asyncio.get_running_loop().time()
        info, confirmed_at = self._known.get(wanted, (None, 0.0))
        if info is not None and now - confirmed_at < IDENTITY_CHECK_INTERVAL:
            return info
        if info is None or not await self.server.still_serves(info):
            info = await self.server.model_info(wanted)
        self._known[wanted] = info, now
        return info


class Opened:
    """What a Client holds open, apart from it: this is closed when the Client is gone."""

    def __init__(self, settings: Settings) -> None:
        # In the order of use: a server that fails moves to the end.
        self.servers = [CachedServer(EmbeddingServer(one, ASK_TIMEOUT, once_more=True)) for one in settings.servers]
        self.background = Background([server.server for server in self.servers])
        self.connection: Connection | None = None

    def close(self) -> None:
        self.background.close()
        if self.connection is not None:
            self.connection.close()


def _row(columns: Sequence[str], values: Sequence[object]) -> dict[str, object]:
    """A row of the source, then its chunk. Where both have a column of one name, the source's counts."""
    row: dict[str, object] = {}
    for column, value in zip(columns, values, strict=True):
        row.setdefault(column, value)
    return row


class Client:
    """Queries against embeddings. A context manager; may be used from any thread, inside an event loop, and after a fork.

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
        self._embeddings: dict[str, Embedding] = {}
        self._lock = threading.Lock()
        self._opened  # noqa: B018  # now, because it raises UsageError for a CA file that cannot be used
        _clients.add(self)

    @cached_property
    def _opened(self) -> Opened:
        opened = Opened(self._settings)
        self._closing = weakref.finalize(self, opened.close)
        return opened

    def _leave_to_parent(self) -> None:
        """In a process that was just forked: nothing that the parent uses may be used or closed here."""
        opened: Opened | None = self.__dict__.get("_opened")
        self._lock = threading.Lock()
        if opened is None:
            return
        leave_to_parent(opened)
        self._closing.detach()
        if not opened.background.closed:
            del self._opened  # the next request opens another

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self._closing()

    def embed_query(self, name: str, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, shape (dimensions,), with the embedding's instruction in front.

        Raises UsageError (no such embedding, blank text), ModelMismatch, ServerUnavailable, DocumentRejected,
        DatabaseUnavailable."""
        return self._query(name, text)[1]

    def _query(self, name: str, text: str) -> tuple[Embedding, NDArray[np.float32]]:
        if not text.strip():
            raise UsageError("the query is blank: there is nothing to search for")
        with self._lock:
            embedding = self._embedding(name)
        return embedding, self._opened.background.run(self._embed(embedding.target, text))

    def search(self, name: str, text: str, limit: int = 10) -> list[Hit]:
        """The `limit` rows nearest to the query, nearest first: each row's columns and its distance.

        Raises as `embed_query`, and UsageError for a limit below 1."""
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
            except psycopg.ProgrammingError:
                if not self._changed(embedding):
                    raise
        return self.search(name, text, limit)

    def _changed(self, embedding: Embedding) -> bool:
        """Whether it is another one than was read before: attached again, say, or pgvector moved to another schema."""
        self._embeddings.pop(embedding.name, None)
        return self._embedding(embedding.name) != embedding

    def _search(self, embedding: Embedding, query: NDArray[np.float32], limit: int) -> list[Hit]:
        names = names_of(embedding)
        payload = BinaryValue(binary.halfvec(query))
        connection = self._database()
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(statement("configure_search"))
            search = statement(names.layout.search, names)
            values.take_every_value(cursor)
            rows = values.rows(cursor.execute(search, {"query": payload, "limit": limit}))
            _, *columns = [column.name for column in cursor.description or ()]
        hits = [Hit(distance, _row(columns, row)) for distance, *row in rows]
        return sorted(hits, key=lambda hit: hit.distance)  # the index orders by rounded distances

    async def _embed(self, target: Target, text: str) -> Vectors:
        """The query's vector from the first server that has the model and answers."""
        problems: list[ServerUnavailable] = []
        for server in list(self._opened.servers):
            try:
                return await server.query(target, text)
            except ModelMismatch as error:
                problems.append(error)
            except ServerUnavailable as error:
                problems.insert(0, error)
                self._opened.servers.remove(server)
                self._opened.servers.append(server)
        for server in self._opened.servers:  # one of them may be repaired meanwhile
            server.forget()
        raise problems[0]

    def _embedding(self, name: str) -> Embedding:
        """The embedding as it is now, which may have been attached again; as last known while the database is unavailable."""
        if not is_storable(name):
            raise UsageError(f"there is no embedding {name!r}: PostgreSQL cannot hold such a name")
        known = self._embeddings.get(name)
        try:
            if known is None or catalog.live_generation(self._database(), name) != known.live.id:
                self._embeddings[name] = catalog.embedding(self._database(), name)
        except (psycopg.OperationalError, DatabaseUnavailable):
            if known is None:
                raise
        return self._embeddings[name]

    def _database_lost(self) -> bool:
        connection = self._opened.connection
        return connection is not None and connection.closed

    def _database(self) -> Connection:
        opened = self._opened
        if opened.background.closed:
            raise UsageError(CLOSED)
        if opened.connection is None or opened.connection.closed:
            opened.connection = connect(self._settings.database_url, "pg_qwen_embed client")
        return opened.connection


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
