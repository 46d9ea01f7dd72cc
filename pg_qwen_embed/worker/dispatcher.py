"""From documents to vectors: the requests of one feed, a few in flight, and whose fault it is when one goes wrong.

A document that is refused is found by halving its request. A server that is away is waited for, and no attempt is
counted. Identical documents are sent once."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pg_qwen_embed.domain import retry
from pg_qwen_embed.domain.change import LONGEST_DOCUMENT, Change
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import (
    DocumentRejected,
    Error,
    ProtocolError,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from pg_qwen_embed.domain.spec import Chunking, TooLong
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference import batching, truncation
from pg_qwen_embed.inference.balancer import Balancer, Lease, Upstream
from pg_qwen_embed.inference.chunking import Chunks, split
from pg_qwen_embed.worker.deduplication import Deduplicator
from pg_qwen_embed.worker.work import Embedded, Outcome, Rejected, Request, ScanPage

TRIES = 3  # of one request, while the server answers others
LONE_TRIES = 8  # of one document that the server says it is overloaded by; some 15 s
TOO_LARGE = f"the document has more than {LONGEST_DOCUMENT:,} characters, longer than any model takes"
MORE_AGAIN = 64  # answers, until larger requests are tried again


class Rejection(Exception):  # not an error: it is to be found out whose fault it is
    """A server does not embed a request that it was given."""

    def __init__(self, lease: Lease, reason: Error) -> None:
        super().__init__(str(reason))
        self.lease = lease


class TooMuch(Exception):  # not an error: half of it may do
    """The server is overloaded by a request whenever it comes, though it answers smaller ones."""


@dataclass(slots=True)
class Attempts:
    """What has gone wrong with a request since some of it was embedded. chunks: of its documents, where they are
    divided."""

    chunks: Chunks
    rejected_by: set[Upstream] = field(default_factory=set)
    number: int = 0
    faults: int = 0
    overloads: int = 0

    def overloaded(self, lease: Lease, error: ServerOverloaded, *, alone: bool) -> None:
        """Raises TooMuch when fewer documents may do, and Rejected when it is a single one, whose parts are as small."""
        self._count()
        self.overloads += 1
        if self.overloads >= TRIES and not alone:
            raise TooMuch from None
        if self.overloads == LONE_TRIES:
            raise Rejection(lease, error) from None
        if self.overloads >= TRIES:
            self.chunks.most = max(1, self.chunks.most // 2)

    def failed(self, lease: Lease, error: ServerUnavailable) -> None:
        """Raises Rejection. It is tried again only after a probe was answered: then it may be this request that does it."""
        self._count()
        self.faults += isinstance(error, ServerFault | ProtocolError)
        if self.faults == TRIES:
            raise Rejection(lease, error) from None

    def _count(self) -> None:
        if self.chunks.came_further():
            self.number = self.faults = self.overloads = 0
        self.number += 1


class Dispatcher:
    """`start` it, `put` changes; outcomes come out. One task a request, until its outcome is known."""

    def __init__(
        self,
        target: Target,
        balancer: Balancer,
        limits: batching.Limits,
        settled: Callable[[Outcome], None],
    ) -> None:
        """settled: is given each outcome."""
        self._target = target
        self._balancer = balancer
        self._settled = settled
        self._limits = limits
        self._deduplicator = Deduplicator()
        self._token_ratio = batching.TokenRatio()
        self._most = limits.documents  # in a request, as far as the server has been seen to take
        self._answers = 0  # since that changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = random.Random()  # noqa: S311  # jitter

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def put(self, changes: Sequence[Change], page: ScanPage | None) -> None:
        """Documents to embed, none of them blank; packed into requests."""
        changes = self._deduplicator.first(changes, page)
        sizes = [change.size for change in changes]
        for positions in batching.pack(sizes, self._limits, self._token_ratio.bytes_per_token):
            self._queue(Request([changes[n] for n in positions], page))

    def _queue(self, request: Request) -> None:
        task = self._group.create_task(self._send(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, request: Request) -> None:
        try:
            embedded = await self._embed(request)
        except Rejection as rejection:
            await self._isolate(request, rejection)
        except TooMuch:
            self._most, self._answers = max(1, len(request.changes) // 2), 0
            self._halve(request)
        else:
            if embedded is not None:
                self._settle(embedded)

    def _settle(self, outcome: Embedded | Rejected) -> None:
        for one in self._deduplicator.settled(outcome):
            self._settled(one)

    async def _isolate(self, request: Request, rejection: Rejection) -> None:
        """One bad document has its whole request refused: halve it until it stands alone."""
        lease = rejection.lease
        if len(request.changes) > 1:
            self._halve(request)
        elif await lease.confirm(self._target.spec.dimensions):
            self._settle(Rejected(request, str(rejection)))
        else:  # it refuses everything, or it takes other inputs than it did: that is not the document's fault
            self._queue(request)

    def _halve(self, request: Request) -> None:
        middle = len(request.changes) // 2
        self._queue(Request(request.changes[:middle], request.page))
        self._queue(Request(request.changes[middle:], request.page))

    async def _embed(self, request: Request) -> Embedded | None:
        """The vectors, however long the servers stay away; None if the request was made anew, smaller.

        Raises Rejection, TooMuch; after the fleet's patience, ServerUnavailable."""
        attempts = Attempts(Chunks(self._limits.documents))
        while True:
            async with self._balancer.lease(
                self._target, live=request.page is None, work=request.size, excluding=attempts.rejected_by
            ) as lease:
                if len(request.changes) > self._most:  # learned while it waited
                    self._halve(request)
                    return None
                try:
                    embedded = await self._try(lease, request, attempts.chunks)
                except DocumentRejected as refusal:
                    attempts.rejected_by.add(lease.upstream)
                    if len(request.changes) > 1 or not self._balancer.is_served(self._target, attempts.rejected_by):
                        raise Rejection(lease, refusal) from None
                    continue  # another server may take it
                except ServerOverloaded as error:
                    lease.overloaded(error)
                    attempts.overloaded(lease, error, alone=len(request.changes) == 1)
                except ServerUnavailable as error:
                    lease.failed(error)
                    attempts.failed(lease, error)
                else:
                    if embedded is not None:
                        lease.answered()
                        self._went_well(request)
                    return embedded
            await asyncio.sleep(retry.backoff(attempts.number, base=0.1, cap=5.0, rng=self._rng))

    def _went_well(self, request: Request) -> None:
        if len(request.changes) == self._most < self._limits.documents:
            self._answers += 1
            if self._answers == MORE_AGAIN:
                self._most, self._answers = min(self._limits.documents, 2 * self._most), 0

    async def _try(self, lease: Lease, request: Request, chunks: Chunks) -> Embedded | None:
        spec, longest = self._target.spec, lease.longest or 0  # no tokens are counted without it
        if spec.chunking:
            return await self._try_chunks(lease, request, spec.chunking, chunks)
        changes = request.changes
        texts = [change.document[:LONGEST_DOCUMENT] for change in changes]
        tokens = await truncation.too_long(lease.server, texts, lease.longest)
        wrong = {
            n: f"the document has {len(own):,} tokens, and the server takes {longest:,}" for n, own in tokens.items()
        }
        wrong |= {n: TOO_LARGE for n, change in enumerate(changes) if len(change.document) > LONGEST_DOCUMENT}
        if wrong and spec.too_long is TooLong.FAIL:
            self._reject(request, wrong)
            return None
        for n, beginning in (await truncation.truncate(lease.server, texts, tokens, longest)).items():
            texts[n] = beginning
        size = sum(map(_size, texts)) if wrong else request.size
        vectors = await self._vectors(lease, texts, size, urgent=request.page is None)
        if wrong:
            changes = [change._replace(truncated=n in wrong) for n, change in enumerate(changes)]
        return Embedded(Request(changes, request.page), vectors)

    async def _try_chunks(self, lease: Lease, request: Request, chunking: Chunking, chunks: Chunks) -> Embedded | None:
        """One part after another; what has been embedded counts also when a later part goes wrong."""
        wrong = {n: TOO_LARGE for n, change in enumerate(request.changes) if len(change.document) > LONGEST_DOCUMENT}
        if wrong:
            self._reject(request, wrong)
            return None
        if chunks.info != lease.info or chunks.longest != lease.longest:
            documents = [change.document for change in request.changes]
            spans = await split(lease.server, documents, chunking, lease.longest)
            chunks.begin(request.changes, spans, self._target.spec.dimensions)
            chunks.info, chunks.longest = lease.info, lease.longest
        while part := chunks.next_part(self._limits, self._token_ratio):
            lease.go_on()
            texts = [chunks.texts[n] for n in part]
            size = sum(map(_size, texts))
            chunks.take(part, await self._vectors(lease, texts, size, urgent=request.page is None))
        return Embedded(Request(chunks.changes, request.page), chunks.vectors)

    async def _vectors(self, lease: Lease, texts: Sequence[str], size: int, *, urgent: bool) -> Vectors:
        """size: of the texts, in bytes."""
        answer = await lease.server.embed(lease.info, texts, self._target.spec.dimensions, urgent=urgent)
        self._token_ratio.counted(size, len(texts), answer.tokens)
        return answer.vectors

    def _reject(self, request: Request, sentences: dict[int, str]) -> None:
        """These are too long; the others try again without them."""
        for n, sentence in sentences.items():
            self._settle(Rejected(Request([request.changes[n]], request.page), sentence))
        others = [change for n, change in enumerate(request.changes) if n not in sentences]
        if others:
            self._queue(Request(others, request.page))


def _size(text: str) -> int:
    return len(text.encode())
