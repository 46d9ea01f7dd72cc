"""Whether an embedding server answers: a circuit breaker that all feeds of a worker share.

Open, it lets nobody through but its own probe, one embedding at a time with jittered pauses; closed, it knows what the
server serves, and looks from time to time whether it still does. It starts open: the first probe learns the model."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from pg_qwen_embed.domain import retry
from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable
from pg_qwen_embed.inference.sglang import EmbeddingServer, ModelInfo

log = logging.getLogger("pg_qwen_embed.worker")

LONGEST_PAUSE = 1.0  # seconds: so soon after its return is the server noticed


class Breaker:
    """`info` is what the server serves, None while it is open; `trip` it when the server, not the document, was to
    blame."""

    def __init__(self, server: EmbeddingServer, changed: Callable[[], None], identity_check_interval: float) -> None:
        """changed: called when it opens and when it closes. look_every: seconds between looks whether the server is
        still the same."""
        self._server = server
        self._changed = changed
        self._identity_check_interval = identity_check_interval
        self._opened = asyncio.Event()
        self._opened.set()
        self.info: ModelInfo | None = None
        self.reason: ServerUnavailable | None = None  # why it is open; None also before the first probe has failed
        self.known: ModelInfo | None = None  # what it served last
        self.troubled_at: float | None = None  # since when no request was answered, though there were some
        self.last_reason: ServerUnavailable | None = None
        self._troubles = 0  # since a request was answered
        self._confirming = asyncio.Lock()
        self._confirmed: tuple[ModelInfo, int, float] | None = None  # for vectors of this length, and when it was asked
        self._rng = random.Random()  # noqa: S311  # jitter

    def open(self, reason: ServerUnavailable) -> None:
        """The server failed: nobody asks it until a probe has succeeded. Says so once."""
        if self.info is not None:
            self.info = None
            self.troubled_at = self.troubled_at or asyncio.get_running_loop().time()
            self.last_reason = reason
            self._troubles += 1
            self._opened.set()
            self._announce(reason)

    def worked(self) -> None:
        """A request was answered."""
        self._troubles, self.troubled_at = 0, None

    def half_open(self, info: ModelInfo) -> None:
        """Have the server asked again what it serves, if this is still what we believe."""
        if self.info == info:
            self.info = None
            self._opened.set()
            self._changed()

    async def confirm(self, info: ModelInfo, dimensions: int) -> bool:
        """Whether the server still serves this, and embeds what nobody could refuse: then a refusal was the document's
        fault. Trips if not. Asked once for all that was refused before."""
        clock = asyncio.get_running_loop().time
        refused = clock()
        async with self._confirming:
            if self._confirmed and self._confirmed[:2] == (info, dimensions) and self._confirmed[2] >= refused:
                return True
            self._confirmed = None
            began = clock()
            try:
                again = await self._server.model_info()
                if again == info:
                    await self._server.embed(info, ["a harmless text"], dimensions, urgent=True)
                    self._confirmed = info, dimensions, began
                    return True
                self.half_open(info)
            except (ServerUnavailable, DocumentRejected) as error:
                self.open(ServerUnavailable(str(error)))
            return False

    async def run(self) -> None:
        """Probe whenever it is open; a task of the worker's."""
        while True:
            await self._opened.wait()
            self._opened.clear()
            if self._troubles > 1:  # probes are answered, and requests are not
                await self._pause(self._troubles - 1)
            self.info = await self._probe()
            self.reason = None
            self._changed()

    async def watch(self) -> None:
        """Notice a server that serves something else though every request succeeds; a task of the worker's."""
        while True:
            await asyncio.sleep(self._identity_check_interval)
            info = self.info
            with suppress(ServerUnavailable, DocumentRejected):  # the requests will find out
                if info is not None and not await self._server.still_serves(info):
                    self.half_open(info)

    async def ask_again(self, info: ModelInfo) -> None:
        """For whoever cannot use this: the requests of others go on meanwhile."""
        with suppress(ServerUnavailable):
            if await self._server.model_info() != info:
                self.half_open(info)

    def _announce(self, reason: ServerUnavailable) -> None:
        announced, self.reason = self.reason is not None, reason
        if not announced:
            log.warning("server_unavailable reason=%s", reason)
            self._changed()

    async def _pause(self, number: int) -> None:
        await asyncio.sleep(retry.backoff(number, base=0.05, cap=LONGEST_PAUSE, rng=self._rng))

    async def _probe(self) -> ModelInfo:
        for attempt in count(1):
            try:
                info = await self._server.model_info()
            except ServerUnavailable as error:
                self._announce(error)
                await self._pause(attempt)
            else:
                if info != self.known or attempt > 1:
                    log.info(
                        "server_ready url=%s model=%s dimensions=%d", self._server.url, info.model, info.dimensions
                    )
                self.known = info
                return info
        raise AssertionError("unreachable")
