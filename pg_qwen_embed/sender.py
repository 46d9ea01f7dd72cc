"""From documents to vectors: the requests of one feed, a few in flight, and whose fault it is when one goes wrong.

A document that is refused is found by halving its request. A server that is away is waited for: the breaker says when
it is back, and no attempt is counted."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from pg_qwen_embed import batching, cutting, retry, splitting
from pg_qwen_embed.breaker import Breaker
from pg_qwen_embed.errors import DocumentRefused, NotOffered, ServerFault, ServerOverloaded, ServerUnavailable
from pg_qwen_embed.model import Chunking, Embedding, TooLong
from pg_qwen_embed.sglang import EmbeddingServer, ModelInfo
from pg_qwen_embed.slots import Slots
from pg_qwen_embed.store import LONGEST_DOCUMENT
from pg_qwen_embed.vectors import Vectors
from pg_qwen_embed.work import Change, Embedded, Outcome, Refused, Request, WalkPage

log = logging.getLogger("pg_qwen_embed.worker")

TRIES = 3  # of one request, while the server answers others
LONE_TRIES = 8  # of one document that the server says it is overloaded by; some 15 s
TOO_LARGE = f"the document has more than {LONGEST_DOCUMENT:,} characters, longer than any model takes"
MORE_AGAIN = 64  # answers, until larger requests are tried again


class TooMuch(Exception):  # not an error: half of it may do
    """The server is overloaded by a request whenever it comes, though it answers smaller ones."""


class Sender:
    """`start` it, `put` changes; outcomes come out. One task a request, until its outcome is known."""

    def __init__(
        self,
        embedding: Embedding,
        server: EmbeddingServer,
        breaker: Breaker,
        slots: Slots,
        outcomes: "asyncio.Queue[Outcome]",
        limits: batching.Limits,
        *,
        once: bool,
    ) -> None:
        """once: a server of another model is an error, and not waited for."""
        self._embedding = embedding
        self._server = server
        self._breaker = breaker
        self._slots = slots
        self._outcomes = outcomes
        self._limits = limits
        self._once = once
        self._most = limits.documents  # in a request, as far as the server has been seen to take
        self._answers = 0  # since that changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = random.Random()  # noqa: S311  # jitter

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def put(self, changes: Sequence[Change], page: WalkPage | None) -> None:
        """Documents to embed, none of them blank; packed into requests."""
        lengths = [len(change.document.encode()) for change in changes]
        for positions in batching.pack(lengths, self._limits):
            self._queue(Request([changes[n] for n in positions], page))

    def _queue(self, request: Request) -> None:
        task = self._group.create_task(self._send(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, request: Request) -> None:
        info = await self._served()
        try:
            outcome = await self._embed(request)
        except DocumentRefused as refusal:
            await self._isolate(request, info, str(refusal))
        except TooMuch:
            self._most, self._answers = max(1, len(request.changes) // 2), 0
            self._halve(request)
        else:
            if outcome is not None:
                self._outcomes.put_nowait(outcome)

    async def _isolate(self, request: Request, info: ModelInfo, sentence: str) -> None:
        """One bad document has its whole request refused: halve it until it stands alone."""
        if len(request.changes) > 1:
            self._halve(request)
            return
        self._breaker.doubt(info)
        again = await self._served()
        if again == info and await self._breaker.vouch(again, self._embedding.generation.dimensions):
            self._outcomes.put_nowait(Refused(request, sentence))
        else:  # it refuses everything, or it takes other inputs than it did: that is not the document's fault
            self._queue(request)

    def _halve(self, request: Request) -> None:
        middle = len(request.changes) // 2
        self._queue(Request(request.changes[:middle], request.page))
        self._queue(Request(request.changes[middle:], request.page))

    async def _embed(self, request: Request) -> Embedded | None:
        """The vectors, however long the server stays away; None if the request was made anew, smaller.

        Raises DocumentRefused, TooMuch; after the breaker's patience, ServerUnavailable."""
        faults = overloads = 0
        for attempt in count(1):
            info = await self._served()
            try:
                async with self._slots.one(live=request.page is None) as slot:
                    if len(request.changes) > self._most:  # learned while it waited
                        self._halve(request)
                        return None
                    outcome = await self._try(info, request)
                    slot.work = sum(len(change.document) for change in request.changes)
                self._went_well(request)
                return outcome
            except ServerOverloaded as error:
                if self._slots.overloaded():
                    self._breaker.trip(error)
                overloads += 1
                if overloads >= TRIES and len(request.changes) > 1:
                    raise TooMuch from None
                if overloads >= TRIES and self._embedding.generation.chunking:  # one document, but of many chunks
                    self._most, self._answers = max(1, self._most // 4), 0
                if overloads == LONE_TRIES:
                    raise DocumentRefused(str(error)) from None
            except ServerUnavailable as error:
                self._breaker.trip(error)
                # The breaker closes only when the server answers a probe: then it may be this request that does it.
                faults += isinstance(error, ServerFault | NotOffered)
                if faults == TRIES:
                    raise DocumentRefused(str(error)) from None
            await asyncio.sleep(retry.backoff(attempt, base=0.1, cap=5.0, rng=self._rng))
        raise AssertionError("unreachable")

    def _went_well(self, request: Request) -> None:
        if len(request.changes) == self._most < self._limits.documents:
            self._answers += 1
            if self._answers == MORE_AGAIN:
                self._most, self._answers = min(self._limits.documents, 2 * self._most), 0

    async def _try(self, info: ModelInfo, request: Request) -> Embedded | None:
        generation = self._embedding.generation
        if generation.chunking:
            return await self._try_chunks(info, request, generation.chunking)
        changes = request.changes
        texts = [change.document[:LONGEST_DOCUMENT] for change in changes]
        tokens = await cutting.too_long(self._server, texts, info.longest)
        longest = info.longest or 0  # no tokens without it
        wrong = {
            n: f"the document has {len(own):,} tokens, and the server takes {longest:,}" for n, own in tokens.items()
        }
        wrong |= {n: TOO_LARGE for n, change in enumerate(changes) if len(change.document) > LONGEST_DOCUMENT}
        if wrong and generation.too_long is TooLong.FAIL:
            self._refuse(request, wrong)
            return None
        for n, beginning in (await cutting.cut(self._server, texts, tokens, longest)).items():
            texts[n] = beginning
        embeddings = await self._server.embed(info, texts, generation.dimensions)
        if wrong:
            changes = [replace(change, cut=n in wrong) for n, change in enumerate(changes)]
        return Embedded(Request(changes, request.page), embeddings)

    async def _try_chunks(self, info: ModelInfo, request: Request, chunking: Chunking) -> Embedded | None:
        wrong = {n: TOO_LARGE for n, change in enumerate(request.changes) if len(change.document) > LONGEST_DOCUMENT}
        if wrong:
            self._refuse(request, wrong)
            return None
        spans = await splitting.split(self._server, [c.document for c in request.changes], chunking, info.longest)
        changes = [replace(change, spans=tuple(own)) for change, own in zip(request.changes, spans, strict=True)]
        texts = [change.document[begin:end] for change in changes for begin, end in change.spans]
        return Embedded(Request(changes, request.page), await self._vectors(info, texts))

    async def _vectors(self, info: ModelInfo, texts: Sequence[str]) -> Vectors:
        """Of chunks, in as many requests as it takes, one after another."""
        dimensions = self._embedding.generation.dimensions
        found = np.empty((len(texts), dimensions), np.float32)
        limits = replace(self._limits, documents=self._most)
        for positions in batching.pack([len(text.encode()) for text in texts], limits):
            found[positions] = await self._server.embed(info, [texts[n] for n in positions], dimensions)
        return found

    def _refuse(self, request: Request, sentences: dict[int, str]) -> None:
        """These are too long; the others try again without them."""
        for n, sentence in sentences.items():
            self._outcomes.put_nowait(Refused(Request([request.changes[n]], request.page), sentence))
        others = [change for n, change in enumerate(request.changes) if n not in sentences]
        if others:
            self._queue(Request(others, request.page))

    async def _served(self) -> ModelInfo:
        """What the server serves, once it is this embedding's model."""
        generation = self._embedding.generation
        for attempt in count(1):
            info = await self._breaker.ready()
            if info.serves(generation.model, generation.dimensions):
                return info
            sentence = (
                f"{self._embedding.name} was attached with {generation.model} and {generation.dimensions} dimensions, "
                f"and the server at {self._server.url} serves {info.model} with {info.dimensions}"
            )
            if self._once:
                raise ServerUnavailable(sentence)
            if attempt == 1:
                log.warning("wrong_model reason=%s", sentence)
            await asyncio.sleep(retry.backoff(attempt, base=0.5, cap=5.0, rng=self._rng))
            self._breaker.doubt(info)
        raise AssertionError("unreachable")
