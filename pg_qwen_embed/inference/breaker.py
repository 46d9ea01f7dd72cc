"""The circuit breaker of one embedding server, shared by all pipelines of a worker.

Closed: requests pass, and the server's identity is known and checked at intervals. Open: the server failed. Half-open:
its identity is being confirmed, as at the start. Unless it is closed only its own probe is sent, one embedding at a
time, with jittered pauses. Which upstream gets a request is left to the balancer."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from pg_qwen_embed.domain import events, retry
from pg_qwen_embed.domain.errors import DocumentRejected, ModelUnknown, ServerOverloaded, ServerUnavailable
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.encoder import embed
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import EmbeddingServer

LONGEST_PAUSE = 1.0  # seconds between probes: a server that returns is noticed within this time


@dataclass(frozen=True, slots=True)
class Trouble:
    """Requests have failed, and none was answered since."""

    since: float
    failures: int
    reason: ServerUnavailable  # of the last one


@dataclass(frozen=True, slots=True)
class Open:
    """The server failed: only probes are sent."""

    reason: ServerUnavailable


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """The server's identity is being confirmed; no failure is known."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Requests pass."""

    info: ModelInfo


State = Open | HalfOpen | Closed


class Breaker:
    """`open` it when the server, not the document, is to blame. `info` is the server's identity; None unless closed."""

    def __init__(
        self, server: EmbeddingServer, changed: Callable[[], None], identity_check_interval: float, runtime: Runtime,
        wanted: str | None = None,
    ) -> None:  # fmt: skip
        """changed: called when the state changes. identity_check_interval: seconds between checks of the identity.
        wanted: the model, where the server has several."""
        self.wanted = wanted
        self._server = server
        self._runtime = runtime
        self._changed = changed
        self._identity_check_interval = identity_check_interval
        self._opened = asyncio.Event()
        self._opened.set()
        self.state: State = HalfOpen()
        self.known: ModelInfo | None = None  # the last known identity
        self.trouble: Trouble | None = None
        self._confirming = asyncio.Lock()
        self._confirmed: tuple[ModelInfo, int, float] | None = None  # identity, dimensions, time of the confirmation

    @property
    def info(self) -> ModelInfo | None:
        """The server's identity while the breaker is closed."""
        return self.state.info if isinstance(self.state, Closed) else None

    @property
    def reason(self) -> ServerUnavailable | None:
        """Why the breaker is open."""
        return self.state.reason if isinstance(self.state, Open) else None

    def open(self, reason: ServerUnavailable) -> None:
        """The server failed: no request passes until a probe succeeds. An outage is announced once."""
        if isinstance(self.state, Closed):
            since, failures = (
                (self.trouble.since, self.trouble.failures) if self.trouble else (self._runtime.clock(), 0)
            )
            self.trouble = Trouble(since, failures + 1, reason)
            self._opened.set()
            self._announce(reason)

    def worked(self) -> None:
        """A request was answered."""
        self.trouble = None

    def half_open(self, info: ModelInfo) -> None:
        """Confirm the server's identity again, if `info` is still the one that is believed."""
        if self.info == info:
            self.state = HalfOpen()
            self._opened.set()
            self._changed()

    async def confirm(self, info: ModelInfo, dimensions: int) -> bool:
        """Whether a rejection is the document's fault: the server still has this identity, and embeds a harmless text.

        If not, the breaker is no longer closed. One confirmation counts for everything that was rejected before it."""
        clock = self._runtime.clock
        rejected_at = clock()
        async with self._confirming:
            if self._confirmed and self._confirmed[:2] == (info, dimensions) and self._confirmed[2] >= rejected_at:
                return True
            self._confirmed = None
            began = clock()
            try:
                again = await self._server.model_info(self.wanted)
                if again == info:
                    await embed(self._server, info, ["a harmless text"], dimensions, urgent=True)
                    self._confirmed = info, dimensions, began
                    return True
                self.half_open(info)
            except (ServerUnavailable, DocumentRejected) as error:
                self.open(ServerUnavailable(str(error)))
            return False

    async def run(self) -> None:
        """Probe whenever the breaker is not closed; a task of the worker."""
        while True:
            await self._opened.wait()
            self._opened.clear()
            reason = self.reason
            if self.known and isinstance(reason, ServerOverloaded) and reason.retry_after:
                await asyncio.sleep(reason.retry_after)  # it is there, and has said when to come again
                self.state = Closed(self.known)
            else:
                if self.trouble and self.trouble.failures > 1:  # probes are answered, and requests are not
                    await self._pause(self.trouble.failures - 1)
                self.state = Closed(await self._probe())
            self._changed()

    async def watch(self) -> None:
        """Notice another identity even though every request succeeds; a task of the worker."""
        while True:
            await asyncio.sleep(self._identity_check_interval)
            info = self.info
            with suppress(ServerUnavailable, DocumentRejected):  # the requests will find out
                if info is not None and not await self._server.still_serves(info):
                    self.half_open(info)

    async def ask_again(self, info: ModelInfo) -> None:
        """Check the identity for requests that need another model. Other requests pass meanwhile."""
        with suppress(ServerUnavailable):
            if await self._server.model_info(self.wanted) != info:
                self.half_open(info)

    def _announce(self, reason: ServerUnavailable) -> None:
        before, self.state = self.reason, Open(reason)
        if before is None or (isinstance(before, ModelUnknown) and not isinstance(reason, ModelUnknown)):
            if not isinstance(reason, ModelUnknown):  # an embedding will tell which model is wanted
                self._runtime.events.emit(events.ServerUnavailable(str(reason)))
            self._changed()

    async def _pause(self, number: int) -> None:
        await asyncio.sleep(retry.backoff(number, base=0.05, cap=LONGEST_PAUSE, rng=self._runtime.rng))

    async def _probe(self) -> ModelInfo:
        for attempt in count(1):
            try:
                info = await self._server.model_info(self.wanted)
            except ServerUnavailable as error:
                self._announce(error)
                await self._pause(attempt)
            else:
                if info != self.known or attempt > 1:
                    ready = events.ServerReady(self._server.url, info.model, info.dimensions)
                    self._runtime.events.emit(ready)
                self.known = info
                return info
        raise AssertionError("unreachable")
