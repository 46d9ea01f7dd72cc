"""The client of synchronous applications: an AsyncClient, and an event loop in a thread that runs it.

What it opens is closed by `close`, or when the Client or Python itself ends. In a forked process it opens its own."""

import os
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pg_qwen_embed.domain.report import Hit
from pg_qwen_embed.postgres.conditions import Where
from pg_qwen_embed.search.async_client import AsyncClient
from pg_qwen_embed.search.background import Background
from pg_qwen_embed.search.opened import leave_to_parent


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
        reranker: str | None = None,
        reranker_api_key: str | None = None,
    ) -> None:
        """reranker: the URL of a server that scores what a search has found. Raises UsageError for settings that cannot be used."""
        self._asking = AsyncClient(
            database_url, server_url=server_url, api_key=api_key, ca_file=ca_file, reranker=reranker,
            reranker_api_key=reranker_api_key,
        )  # fmt: skip
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        self._background = Background(self._asking.close)
        self._closing = weakref.finalize(self, self._background.close)

    def _after_fork(self) -> None:
        """In a process that was just forked: nothing that the parent uses may be used or closed here."""
        leave_to_parent(self._background)
        self._closing.detach()
        if not self._background.closed:
            self._begin()

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
        return self._background.run(self._asking.embed_query(name, text))

    def embed_queries(self, name: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """The unit vectors of queries, shape (len(texts), dimensions), with few requests. Equal texts are embedded once.

        Raises as `embed_query`; a text that is blank or rejected is named by its position."""
        return self._background.run(self._asking.embed_queries(name, texts))

    def search(
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
        for those of a text, `hybrid` for both, where the embedding keeps words. rerank: let the reranker order what was
        found; it reads `candidates` rows, 50 by default. Raises as `embed_query`, and UsageError for what cannot be
        searched."""
        return self._background.run(
            self._asking.search(
                name,
                query,
                limit,
                where=where,
                params=params,
                mode=mode,
                exact=exact,
                ef_search=ef_search,
                rerank=rerank,
                candidates=candidates,
            )
        )


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork)
