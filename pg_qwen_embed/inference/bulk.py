"""Many texts for a person who waits: packed into requests, several of them at once, on every server that has the model.

The vectors come from the encoder, as all others do. A server that fails is left out; one that is overloaded is asked again
after a pause. A text that the server rejects is found by halving its request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TypeVar

import numpy as np

from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DocumentRejected, ModelMismatch, ServerOverloaded, ServerUnavailable
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference.batching import BYTES_PER_TOKEN, Limits, pack
from pg_qwen_embed.inference.encoder import Encoded, Encoder, KnownServer
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import READ_TIMEOUT, EmbeddingServer
from pg_qwen_embed.settings import Settings

AT_ONCE = 4  # requests to a server
PAUSE = 1.0  # seconds before an overloaded server is asked again, where it does not say
LONGEST_PAUSE = 10.0
MOST_PAUSES = 30

Told = Callable[[int], None]  # how many texts are done since the last call
T = TypeVar("T")


def requests_of(texts: Sequence[str]) -> list[list[int]]:
    """The positions of the texts of each request."""
    return list(pack([len(text.encode(errors="replace")) for text in texts], Limits(), BYTES_PER_TOKEN))


class Bulk:
    """`async with Bulk(settings, target) as bulk`: the servers that have the model of this target."""

    def __init__(self, settings: Settings, target: Target) -> None:
        self._settings = settings
        self._target = target
        self._stack = AsyncExitStack()
        self._handles: list[KnownServer] = []
        self._problems: list[ServerUnavailable] = []
        self._sent = 0

    async def __aenter__(self) -> "Bulk":
        """Raises ModelMismatch where no server has the model, ServerUnavailable where none answers."""
        try:
            for one in self._settings.servers:
                await self._open(one)
            if not self._handles:
                raise min(self._problems, key=lambda problem: isinstance(problem, ModelMismatch))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def urls(self) -> tuple[str, ...]:
        """Of the servers that have the model, without secrets."""
        return tuple(one.server.url for one in self._handles)

    @property
    def info(self) -> ModelInfo:
        """The identity of the model, which all of these servers report."""
        return self._handles[0].info

    async def documents(self, dimensions: int, texts: Sequence[str], told: Told) -> list[Vectors | None]:
        """The vectors of each document, of shape (chunks, dimensions); None of one that the server rejects.

        Raises ServerUnavailable."""
        target = _shortened(self._target, dimensions)

        async def ask(handle: KnownServer, own: Sequence[str]) -> list[Vectors | None]:
            return _by_document(await Encoder(handle).documents(target, own), len(own))

        return await self._all(texts, ask, told)

    async def queries(
        self, dimensions: int, instruction: str, texts: Sequence[str], told: Told
    ) -> list[Vectors | None]:
        """The vector of each query, of shape (dimensions,); None of one that the server rejects. Raises ServerUnavailable."""
        target = _shortened(self._target, dimensions)

        async def ask(handle: KnownServer, own: Sequence[str]) -> list[Vectors | None]:
            return list(await Encoder(handle).queries(target, instruction, own))

        return await self._all(texts, ask, told)

    async def _all(
        self, texts: Sequence[str], ask: Callable[[KnownServer, Sequence[str]], Awaitable[list[Vectors | None]]], told: Told
    ) -> list[Vectors | None]:  # fmt: skip
        """Equal texts are sent once."""
        own = list(dict.fromkeys(texts))
        found: list[Vectors | None] = [None] * len(own)
        room = asyncio.Semaphore(AT_ONCE * len(self._handles))

        async def fill(positions: Sequence[int]) -> None:
            try:
                answers = await self._answer_of_one(lambda handle: ask(handle, [own[n] for n in positions]))
            except DocumentRejected:
                half = len(positions) // 2
                for part in (positions[:half], positions[half:]) if half else ():
                    await fill(part)
                if not half:
                    told(1)
                return
            for position, answer in zip(positions, answers, strict=True):
                found[position] = answer
            told(len(positions))

        async def when_free(positions: Sequence[int]) -> None:
            async with room:
                await fill(positions)

        tasks = [asyncio.ensure_future(when_free(positions)) for positions in requests_of(own)]
        try:
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        where = {text: n for n, text in enumerate(own)}
        return [found[where[text]] for text in texts]

    async def _answer_of_one(self, ask: Callable[[KnownServer], Awaitable[T]]) -> T:
        """The answer of the first server that answers, beginning with the next one in order."""
        self._sent += 1
        order = self._handles[self._sent % len(self._handles) :] + self._handles[: self._sent % len(self._handles)]
        for handle in order:
            if handle not in self._handles:
                continue
            try:
                return await _unless_overloaded(partial(ask, handle))
            except ServerUnavailable as error:
                if handle in self._handles:
                    self._handles.remove(handle)
                if not self._handles:
                    self._handles.append(handle)
                    raise
                self._problems.append(error)
        raise self._problems[-1]

    async def _open(self, settings: Settings) -> None:
        server = await self._stack.enter_async_context(EmbeddingServer(settings, READ_TIMEOUT, once_more=True))
        try:
            info = await server.model_info(self._target.spec.model)
        except ServerUnavailable as error:
            self._problems.append(error)
            return
        if mismatch := info.mismatch(self._target):
            self._problems.append(ModelMismatch(str(mismatch)))
        else:
            self._handles.append(KnownServer(server, info))


async def _unless_overloaded(ask: Callable[[], Awaitable[T]]) -> T:
    for _ in range(MOST_PAUSES):
        try:
            return await ask()
        except ServerOverloaded as error:
            await asyncio.sleep(min(LONGEST_PAUSE, error.retry_after or PAUSE))
    return await ask()


def _by_document(encoded: Encoded, count: int) -> list[Vectors | None]:
    kept = [n for n in range(count) if n not in encoded.rejected]
    sizes = [1] * len(kept) if encoded.spans is None else [len(spans) for spans in encoded.spans]
    found: list[Vectors | None] = [None] * count
    parts = np.split(encoded.vectors, np.cumsum(sizes)[:-1]) if kept else []
    for position, part in zip(kept, parts, strict=True):
        found[position] = part
    return found


def _shortened(target: Target, dimensions: int) -> Target:
    """The target with other dimensions: vectors that are not for its store. With a post-processing it has its own."""
    if target.spec.post is not None:
        return target
    spec = replace(target.spec, dimensions=dimensions)
    return Target(target.embedding, replace(target.generation, spec=spec))
