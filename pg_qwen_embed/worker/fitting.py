"""Fitting: the post-processing of a generation is fitted on a sample of its documents, before the generation is followed.

One task a generation, while this worker holds its leader lock. It reads documents page by page, has them embedded like
those of a backfill, and keeps their moments, not their vectors. Nothing is kept before the end: a worker that dies leaves
no trace, and the next one begins again. While there are too few documents it looks again from time to time."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg

from pg_qwen_embed.domain import events, post
from pg_qwen_embed.domain.embedding import Target
from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable, SetupError, UsageError
from pg_qwen_embed.domain.fit import Moments, fit
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.domain.vectors import Vectors
from pg_qwen_embed.inference import batching
from pg_qwen_embed.inference.balancer import Balancer
from pg_qwen_embed.inference.encoder import Encoder
from pg_qwen_embed.inference.upstreams import Upstream
from pg_qwen_embed.postgres import fits
from pg_qwen_embed.postgres.connection import Pool, first_line
from pg_qwen_embed.worker import policy
from pg_qwen_embed.worker.options import Options
from pg_qwen_embed.worker.policy import Attempts, Decision, Fail, OtherServer, Retry, Split
from pg_qwen_embed.worker.signals import Signals

PAGE = 256  # documents
PAGES_AT_ONCE = 4
READ_TIMEOUT = 600.0  # seconds, for a connection that is dead without an error


@dataclass(slots=True)
class Sample:
    """What was added of a sample. documents: with a vector, or with chunks."""

    moments: Moments
    documents: int = 0


class Fitting:
    """`begin` a fit; `take_done` says which have ended, and may be followed or begun again; `leave` one."""

    def __init__(self, pool: Pool, balancer: Balancer, options: Options, signals: Signals, runtime: Runtime) -> None:
        self._pool = pool
        self._balancer = balancer
        self._options = options
        self._signals = signals
        self._runtime = runtime
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._targets: dict[int, Target] = {}  # also those that were given up, with `once`
        self._done: set[int] = set()

    def begin(self, group: asyncio.TaskGroup, target: Target) -> None:
        self._targets[target.id] = target
        self._tasks[target.id] = group.create_task(self._run(target))

    @property
    def busy(self) -> bool:
        """Whether a fit is being made, or has been made and its embedding is not followed yet."""
        return bool(self._tasks or self._done)

    @property
    def targets(self) -> dict[int, Target]:
        """Those that are led for a fit, by generation."""
        return dict(self._targets)

    def take_done(self) -> set[int]:
        done, self._done = self._done, set()
        for id_ in done:
            self._targets.pop(id_, None)
        return done

    def leave(self, id_: int) -> None:
        self._targets.pop(id_, None)
        self._done.discard(id_)
        if task := self._tasks.pop(id_, None):
            task.cancel()

    async def _run(self, target: Target) -> None:
        told: str | None = None
        try:
            while reason := await self._tried(target):
                if reason != told:
                    self._runtime.events.emit(events.NotFollowed(target.name, reason))
                told = reason
                if self._options.once:
                    return
                await asyncio.sleep(self._options.fit_interval)
            self._done.add(target.id)
        finally:
            if self._tasks.get(target.id) is asyncio.current_task():
                del self._tasks[target.id]
            self._signals.registry()

    async def _tried(self, target: Target) -> str | None:
        """Why there is no fit yet; None: there is one."""
        try:
            return await self._fit(target)
        except (psycopg.Error, TimeoutError) as error:
            return f"its documents cannot be read: {first_line(error) if isinstance(error, psycopg.Error) else 'no answer'}"
        except (UsageError, SetupError) as error:
            return f"it cannot be fitted: {error}"

    async def _fit(self, target: Target) -> str | None:
        wanted, began = target.spec.post, self._runtime.clock()
        if wanted is None:
            return None
        async with asyncio.timeout(READ_TIMEOUT), self._pool.connection() as connection:
            there = await fits.count_rows(connection, target, wanted.least)
            if there < wanted.least:
                return _too_few(target, wanted, there)
            keys = await fits.sample_keys(connection, target, wanted.most)
        self._runtime.events.emit(events.FitBegins(target.name, wanted.form, len(keys)))
        sample = await self._sampled(target, keys, Moments.of(wanted.inputs))
        if sample.documents < wanted.least:
            return _too_few(target, wanted, sample.documents)
        made = await asyncio.to_thread(fit, wanted, sample.moments, sample.documents)
        async with self._pool.connection() as connection:
            await fits.write(connection, target, made)  # another worker's, if it was first, is as good
        seconds = round(self._runtime.clock() - began, 1)
        self._runtime.events.emit(events.Fitted(target.name, wanted.form, sample.documents, seconds))
        return None

    async def _sampled(self, target: Target, keys: fits.Keys, moments: Moments) -> Sample:
        sample, adding = Sample(moments), asyncio.Lock()
        pages = iter([keys[n : n + PAGE] for n in range(0, len(keys), PAGE)])

        async def take(pages: Iterator[fits.Keys]) -> None:
            for page in pages:
                texts = await self._read(target, page)
                vectors, documents = await self._embedded(target.without_post, texts)
                async with adding:
                    await asyncio.to_thread(sample.moments.add, vectors)
                    sample.documents += documents

        tasks = [asyncio.ensure_future(take(pages)) for _ in range(PAGES_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return sample

    async def _read(self, target: Target, page: fits.Keys) -> list[str]:
        """The documents of a page. A row whose document PostgreSQL cannot read is left out; it becomes a failure later."""
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._pool.connection() as connection:
                return await fits.read_sample(connection, target, page)
        except psycopg.Error as error:
            if not policy.may_be_a_rows_fault(error.sqlstate) and not isinstance(error, psycopg.DataError):
                raise
        half = len(page) // 2
        return [*await self._read(target, page[:half]), *await self._read(target, page[half:])] if half else []

    async def _embedded(self, target: Target, texts: Sequence[str]) -> tuple[Vectors, int]:
        """The server's vectors, and of how many documents they are: what it rejects is left out."""
        sizes = [len(text.encode(errors="replace")) for text in texts]
        packed = batching.pack(sizes, self._options.limits.request, batching.BYTES_PER_TOKEN)
        parts = [await self._sent(target, [texts[n] for n in positions]) for positions in packed]
        vectors = np.concatenate([np.empty((0, target.spec.dimensions), np.float32), *(part for part, _ in parts)])
        return vectors, sum(documents for _, documents in parts)

    async def _sent(self, target: Target, texts: list[str]) -> tuple[Vectors, int]:
        attempts, rejected_by, work = Attempts(), set[Upstream](), sum(map(len, texts))
        while True:
            async with self._balancer.lease(target, live=False, work=work, excluding=rejected_by) as lease:
                try:
                    encoded = await Encoder(lease, self._options.limits.request).documents(target, texts)
                except (DocumentRejected, ServerUnavailable) as error:
                    if isinstance(error, DocumentRejected):
                        rejected_by.add(lease.upstream)
                    else:
                        lease.failed(error)
                        attempts = attempts.counted(error, came_further=False)
                    others = self._balancer.is_served(target, rejected_by)
                    decision: Decision = policy.after(error, attempts, len(texts), others=others, rng=self._runtime.rng)
                else:
                    lease.answered()
                    return encoded.vectors, len(texts) - len(encoded.rejected)
            match decision:
                case Retry(seconds):
                    await asyncio.sleep(seconds)
                case OtherServer():
                    continue
                case Split():
                    half = len(texts) // 2
                    parts = [await self._sent(target, part) for part in (texts[:half], texts[half:])]
                    return np.concatenate([part for part, _ in parts]), sum(documents for _, documents in parts)
                case Fail():
                    return np.empty((0, target.spec.dimensions), np.float32), 0


def _too_few(target: Target, wanted: post.Post, documents: int) -> str:
    return f"{post.too_few(target.name, wanted, documents)}; it is looked at again until there are as many"
