"""The dispatcher, the second stage: it packs documents into requests, sends them, and passes the vectors on to be written.

Identical documents are sent once. A rejected document is found by halving its request. A server that is unavailable is
waited for, and no attempt is counted. What to do after an error is decided in policy.py, which upstream gets a request
in inference/balancer.py."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from pg_qwen_embed.domain import events
from pg_qwen_embed.domain.change import Change
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference import batching
from pg_qwen_embed.inference.balancer import Balancer, Lease
from pg_qwen_embed.inference.chunking import Chunks
from pg_qwen_embed.inference.encoder import Encoded, Encoder
from pg_qwen_embed.inference.upstreams import Upstream
from pg_qwen_embed.worker import policy
from pg_qwen_embed.worker.deduplication import Deduplicator
from pg_qwen_embed.worker.policy import Attempts, Decision, Fail, OtherServer, Retry, Split
from pg_qwen_embed.worker.queues import EncodeQueue, WriteQueues
from pg_qwen_embed.worker.recall import ChunkRecall
from pg_qwen_embed.worker.work import Batch, Embedded, Rejected, Request

LARGER_AFTER = 64  # answers before larger requests are tried again


@dataclass(slots=True)
class Sending:
    """A request, and the result of its attempts so far."""

    request: Request
    chunks: Chunks  # of its documents, if they are divided
    attempts: Attempts = Attempts()  # noqa: RUF009  # it is frozen
    rejected_by: set[Upstream] = field(default_factory=set)


class Dispatcher:
    """`start` it in a task group. One task a request, until its outcome is known."""

    def __init__(
        self, target: Target, balancer: Balancer, source: EncodeQueue, to_write: WriteQueues, recall: ChunkRecall,
        limits: batching.Limits, runtime: Runtime,
    ) -> None:  # fmt: skip
        self._target = target
        self._recall = recall
        self._balancer = balancer
        self._source = source
        self._to_write = to_write
        self._limits = limits
        self._runtime = runtime
        self._deduplicator = Deduplicator()
        self._ratio = batching.TokenRatio()
        self._size = RequestSize(limits.documents)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._spawn(self._dispatch())

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _dispatch(self) -> None:
        while True:
            batch = await self._source.get()
            for request in self._packed(batch):
                self._queue(request)

    def _packed(self, batch: Batch) -> list[Request]:
        """Requests with documents of similar length, without the documents that are in flight already."""
        changes = self._deduplicator.first(batch.changes, batch.page)
        sizes = [change.size for change in changes]
        packed = batching.pack(sizes, self._limits, self._ratio.bytes_per_token)
        return [Request([changes[n] for n in positions], batch.page) for positions in packed]

    def _queue(self, *requests: Request) -> None:
        for request in requests:
            self._spawn(self._send(request))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, request: Request) -> None:
        """Send a request until its outcome is known, however long the servers are unavailable, or until it is split.

        Raises ServerUnavailable when the balancer no longer waits for a server."""
        sending = Sending(request, Chunks(self._limits.documents))
        again = True
        while again:
            async with self._balancer.lease(
                self._target, live=request.is_live, work=request.size, excluding=sending.rejected_by
            ) as lease:
                if not self._size.allows(request):  # learned while it waited
                    self._queue(*request.halves())
                    return
                decision = await self._attempt(lease, sending)
            again = decision is not None and await self._act(decision, lease, sending)

    async def _attempt(self, lease: Lease, sending: Sending) -> Decision | None:
        """One attempt. Returns what to do after an error; None when the documents have their vectors."""
        request = sending.request
        try:
            encoded = await self._encode(lease, request, sending.chunks)
        except (DocumentRejected, ServerUnavailable) as error:
            if isinstance(error, DocumentRejected):
                sending.rejected_by.add(lease.upstream)
            else:
                lease.failed(error)
                sending.attempts = sending.attempts.counted(error, came_further=sending.chunks.came_further())
            others = self._balancer.is_served(self._target, sending.rejected_by)
            return policy.after(error, sending.attempts, len(request.changes), others=others, rng=self._runtime.rng)
        if len(encoded.vectors):  # else every document was rejected by its length, and nothing was sent
            lease.answered()
            self._size.answered(request)
        self._settle(request, encoded)
        return None

    async def _act(self, decision: Decision, lease: Lease, sending: Sending) -> bool:
        """Act on a decision. Returns whether to try this request again."""
        match decision:
            case Retry(seconds, fewer_chunks):
                if fewer_chunks:
                    sending.chunks.most = max(1, sending.chunks.most // 2)
                await asyncio.sleep(seconds)
            case Split(remember):
                if remember:
                    self._size.too_much(sending.request)
                self._queue(*sending.request.halves())
            case Fail(reason):
                await self._fail(sending.request, lease, reason)
        return isinstance(decision, Retry | OtherServer)

    async def _encode(self, lease: Lease, request: Request, chunks: Chunks) -> Encoded:
        began = self._runtime.clock()
        encoded = await Encoder(lease, self._limits, self._ratio).documents(
            self._target, [change.document for change in request.changes], size=request.size, chunks=chunks,
            urgent=request.is_live, recall=self._recall.of(request),
        )  # fmt: skip
        seconds = self._runtime.clock() - began
        self._runtime.events.emit(events.DocumentsEncoded(self._target.name, len(request.changes), seconds))
        return encoded

    def _settle(self, request: Request, encoded: Encoded) -> None:
        """Documents rejected for their length become failures; the others have their vectors."""
        for n, reason in encoded.rejected.items():
            self._put(Rejected(Request([request.changes[n]], request.page), reason))
        changes = _with_what_was_done(request.changes, encoded)
        if changes:
            self._put(Embedded(Request(changes, request.page), encoded.vectors))

    async def _fail(self, request: Request, lease: Lease, reason: str) -> None:
        """The document becomes a failure if the server is confirmed; else the request is sent again."""
        if await lease.confirm(self._target.spec.requested_dimensions):
            self._put(Rejected(request, reason))
        else:
            self._queue(request)

    def _put(self, outcome: Embedded | Rejected) -> None:
        for one in self._deduplicator.settled(outcome):
            self._to_write.put(one)


class RequestSize:
    """The most documents of a request that the servers have been seen to accept."""

    def __init__(self, most: int) -> None:
        self._highest = self._most = most
        self._answers = 0  # to requests of that size

    def allows(self, request: Request) -> bool:
        return len(request.changes) <= self._most

    def too_much(self, request: Request) -> None:
        self._most, self._answers = max(1, len(request.changes) // 2), 0

    def answered(self, request: Request) -> None:
        if len(request.changes) == self._most < self._highest:
            self._answers += 1
            if self._answers == LARGER_AFTER:
                self._most, self._answers = min(self._highest, 2 * self._most), 0


def _with_what_was_done(changes: Sequence[Change], encoded: Encoded) -> list[Change]:
    """The changes that have vectors, with their chunks, or marked as truncated."""
    kept = (
        [change for n, change in enumerate(changes) if n not in encoded.rejected] if encoded.rejected else list(changes)
    )
    if encoded.spans is not None:
        return [change._replace(spans=tuple(spans)) for change, spans in zip(kept, encoded.spans, strict=True)]
    if encoded.truncated:
        return [change._replace(truncated=n in encoded.truncated) for n, change in enumerate(kept)]
    return kept
