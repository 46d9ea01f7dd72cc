"""The client of asynchronous applications; `Client` is the same for all others.

It reads the registry and the tables, and writes nothing. No worker needs to run. What it knows of an embedding is
confirmed in the same request to the database that searches, so a search waits for the embedding server and for one
answer of the database."""

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray

from pg_qwen_embed.domain.embedding import Embedding
from pg_qwen_embed.domain.errors import DatabaseUnavailable, Error, UsageError
from pg_qwen_embed.domain.foreign import shown
from pg_qwen_embed.domain.query import BLANK, Wanted, query_texts, query_vector
from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.domain.rerank import NO_RERANKER, for_reranker
from pg_qwen_embed.domain.texts import is_storable
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.postgres import catalog, fits
from pg_qwen_embed.postgres.by_words import ByWords
from pg_qwen_embed.postgres.client_pool import PURPOSE
from pg_qwen_embed.postgres.conditions import Condition, Where, condition_of
from pg_qwen_embed.postgres.connection import AsyncConnection, connect, first_line, lost
from pg_qwen_embed.postgres.nearest import Nearest
from pg_qwen_embed.search.opened import Lives, Opened
from pg_qwen_embed.search.servers import Servers
from pg_qwen_embed.search.tasks import ended
from pg_qwen_embed.settings import Settings, resolve

CLOSED = "this Client is closed; make a new one"

T = TypeVar("T")


class AsyncClient:
    """Queries against embeddings, for asynchronous code. It opens what it needs in each event loop that uses it.

        async with AsyncClient() as client:
            vector = await client.embed_query("articles", "how do vectors follow text?")
            hits = await client.search("articles", "how do vectors follow text?", limit=5)

    Any number of tasks may use one. Settings not given come from the environment (see `pg-qwen-embed --help`)."""

    def __init__(
        self,
        database_url: str | None = None,
        *,
        server_url: str | None = None,
        api_key: str | None = None,
        ca_file: str | None = None,
        reranker: str | None = None,
        reranker_api_key: str | None = None,
    ) -> None:
        """reranker: the URL of a server that scores what a search has found. Raises UsageError for settings that cannot be used."""
        options = {"database_url": database_url, "server_url": server_url, "api_key": api_key, "ca_file": ca_file,
                   "reranker_url": reranker, "reranker_api_key": reranker_api_key}  # fmt: skip
        self._settings: Settings = resolve(os.environ, **options)
        self._unused: list[Servers] = [Servers(self._settings)]  # made now, because it may raise
        self._known: dict[str, Nearest] = {}
        self._closed = False
        self._lives = Lives()
        weakref.finalize(self, self._lives.leave).atexit = False
        _clients.add(self)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; safe to call twice. Whoever waits for an answer gets a UsageError."""
        self._closed = True
        await self._lives.end()

    async def embed_query(self, name: str, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, shape (dimensions,), with the embedding's instruction in front.

        Raises UsageError (no such embedding, blank text), ModelMismatch, ServerUnavailable, DocumentRejected,
        DatabaseUnavailable."""
        _check_text(text)
        opened = await self._open()
        return await self._confirmed(opened, name, lambda known: opened.servers.query(known.embedding.target, text))

    async def embed_queries(self, name: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """The unit vectors of queries, shape (len(texts), dimensions), with few requests. Equal texts are embedded once.

        Raises as `embed_query`; a text that is blank or rejected is named by its position."""
        own = query_texts(texts)
        opened = await self._open()
        return await self._confirmed(opened, name, lambda known: opened.servers.queries(known.embedding.target, own))

    async def search(
        self,
        name: str,
        query: str | Sequence[float] | NDArray[Any],
        limit: int = 10,
        *,
        where: Where | None = None,
        params: Mapping[str, Any] | None = None,
        mode: str = "vector",
        exact: bool = False,
        ef_search: int | None = None,
        rerank: bool = False,
        candidates: int | None = None,
    ) -> list[Hit]:
        """The `limit` rows nearest to a query, nearest first: each row's columns and its distance.

        query: a text, or a vector. where: an SQL condition on the source's columns; it is code of the application, never of
        its users, whose values go into `params` (`where="likes > %(least)s", params={"least": 10}`). exact: compare every
        vector, without the index. ef_search: how many candidates a search of the index keeps. mode: `vector`; or `words`
        for those of a text, `hybrid` for both, where the embedding keeps words. rerank: let the reranker order what was found;
        it reads `candidates` rows, 50 by default. Raises as `embed_query`, and UsageError for what cannot be searched."""
        if mode != "vector" and ef_search is not None:
            raise UsageError(
                f"mode {mode} takes no ef_search: it looks as widely as was measured; exact compares every vector"
            )
        wanted, condition = Wanted(limit, mode, exact, ef_search), condition_of(where, params)
        if isinstance(query, str):
            _check_text(query)
        if rerank and self._settings.reranker is None:
            raise UsageError(NO_RERANKER)
        if rerank or candidates is not None:
            wanted = for_reranker(wanted, query, candidates, is_wanted=rerank)
        opened = await self._open()
        while True:
            hits = await self._search_any(opened, name, query, wanted, condition)
            if not rerank or not isinstance(query, str):
                return hits
            known = await self._read(opened, name)
            ranking = opened.servers.ranked(known.embedding.instruction, query, hits, limit)
            best = await self._unless_changed(opened, known, ranking)
            if best is not None:
                return best
            self._forget(known)

    async def _search_any(
        self, opened: Opened, name: str, query: str | Sequence[float] | NDArray[Any], wanted: Wanted,
        condition: Condition | None,
    ) -> list[Hit]:  # fmt: skip
        if wanted.mode != "vector":
            return await self._search_words(opened, name, query, wanted, condition)
        while True:
            known = await self._read(opened, name)
            if isinstance(query, str):
                vector = await self._unless_changed(opened, known, opened.servers.query(known.embedding.target, query))
            else:
                vector = query_vector(name, known.embedding.live.spec, query)
            hits = None if vector is None else await self._search(opened, known, vector, wanted, condition)
            if hits is not None:
                return hits
            self._forget(known)

    async def _search_words(
        self,
        opened: Opened,
        name: str,
        query: str | Sequence[float] | NDArray[Any],
        wanted: Wanted,
        condition: Condition | None,
    ) -> list[Hit]:
        """By words alone no embedding server is asked."""
        if not isinstance(query, str):
            raise UsageError(f"mode {wanted.mode} searches for the words of a text; a vector has none")
        while True:
            known = await self._read(opened, name)
            by_words, vector = ByWords(known.embedding), None
            if wanted.mode == "hybrid":
                vector = await self._unless_changed(opened, known, opened.servers.query(known.embedding.target, query))
            if wanted.mode == "words" or vector is not None:
                search = partial(by_words.search_text, text=query, vector=vector, wanted=wanted, condition=condition)
                hits = await self._found(opened, known, search, condition)
                if hits is not None:
                    return hits
            self._forget(known)

    async def _search(
        self, opened: Opened, known: Nearest, vector: Vectors, wanted: Wanted, condition: Condition | None
    ) -> list[Hit] | None:
        search = partial(known.search, query=vector, wanted=wanted, condition=condition)
        return await self._found(opened, known, search, condition)

    async def _found(
        self, opened: Opened, known: Nearest, search: Callable[[AsyncConnection], Awaitable[list[Hit] | None]],
        condition: Condition | None,
    ) -> list[Hit] | None:  # fmt: skip
        """None: it has changed since it was read, attached again, say, or pgvector moved to another schema."""
        try:
            return await self._ask(opened, search)
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
            if await self._look_up(known.embedding.name) != known.embedding:
                return None
            reason = f"{known.embedding.name} cannot be searched"
            if condition is not None:
                reason = f"{reason} with the condition {shown(condition.written, 100)!r}"
            advice = (
                ""
                if condition or isinstance(error, psycopg.errors.InsufficientPrivilege)
                else "; see: pg-qwen-embed doctor"
            )
            raise UsageError(f"{reason}: {first_line(error)}{advice}") from None

    async def _confirmed(self, opened: Opened, name: str, embed: Callable[[Nearest], Awaitable[Vectors]]) -> Vectors:
        """Vectors of the embedding as it is now: that is confirmed while the server works."""
        while True:
            known = await self._read(opened, name)
            confirming = asyncio.ensure_future(self._is_known(opened, known))
            try:
                vectors = await self._unless_changed(opened, known, embed(known))
                if vectors is not None and await confirming:
                    return vectors
            finally:
                await ended([confirming])
            self._forget(known)

    async def _unless_changed(self, opened: Opened, known: Nearest, work: Awaitable[T]) -> T | None:
        """None: it failed because the embedding has changed: another model or instruction, say."""
        try:
            return await work
        except Error:
            if self._closed:
                raise UsageError(CLOSED) from None
            if await self._is_known(opened, known):
                raise
            return None

    async def _is_known(self, opened: Opened, known: Nearest) -> bool:
        """Whether the registry still says so; true while the database is unavailable."""
        try:
            return await self._ask(opened, known.is_known)
        except (psycopg.OperationalError, DatabaseUnavailable):
            return True

    async def _ask(self, opened: Opened, ask: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """A request to the database; on a new connection if the one that was there is lost."""
        for once_more in (True, False):
            async with opened.database.connection() as connection:
                try:
                    return await ask(connection)
                except psycopg.OperationalError as error:
                    if not connection.closed:
                        raise
                    if self._closed:
                        raise UsageError(CLOSED) from None
                    opened.database.drop()
                    if not once_more:
                        raise lost(error) from None
        raise AssertionError("unreachable")

    async def _read(self, opened: Opened, name: str) -> Nearest:
        """The embedding as it was when it was read last, which is confirmed later."""
        if not is_storable(name):
            raise UsageError(f"there is no embedding {name!r}: PostgreSQL cannot hold such a name")
        async with opened.reading:
            if name not in self._known or not self._known[name].embedding.target.is_ready:
                self._known[name] = Nearest(await self._look_up(name))
            return self._known[name]

    async def _look_up(self, name: str) -> Embedding:
        return await asyncio.to_thread(_look_up, self._settings.database_url, name)

    def _forget(self, known: Nearest) -> None:
        if self._known.get(known.embedding.name) is known:
            del self._known[known.embedding.name]

    async def _open(self) -> Opened:
        if self._closed:
            raise UsageError(CLOSED)
        opened = self._lives.here()
        if opened is None:
            servers = self._unused.pop() if self._unused else Servers(self._settings)
            opened = Opened(servers, self._settings.database_url)
            await self._lives.begin(opened)
        return opened

    def _after_fork(self) -> None:
        """Nothing that the parent uses may be used or closed here."""
        self._lives.leave_to_parent()


def _look_up(url: str, name: str) -> Embedding:
    """Seldom, and with all the sentences that the commands have: so it is their code, on a connection for the moment."""
    with connect(url, PURPOSE) as connection:
        return fits.with_fit(connection, catalog.embedding(connection, name))


def _check_text(text: str) -> None:
    if not text.strip():
        raise UsageError(BLANK)


_clients: weakref.WeakSet[AsyncClient] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork)
