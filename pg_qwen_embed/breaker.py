"""Whether the embedding server answers: a circuit breaker that all feeds of a worker share.

Open, it lets nobody through but its own probe, one embedding at a time with jittered pauses; closed, it knows what the
server serves, and looks from time to time whether it still does. It starts open: the first probe learns the model."""

import asyncio
import logging
import random
from collections.abc import Callable
from itertools import count

from pg_qwen_embed import retry
from pg_qwen_embed.errors import DocumentRefused, ServerUnavailable
from pg_qwen_embed.sglang import LOOK_EVERY, EmbeddingServer, ModelInfo

log = logging.getLogger("pg_qwen_embed.worker")

LONGEST_PAUSE = 1.0  # seconds: so soon after its return is the server noticed


class Breaker:
    """`await ready()` before each request; `trip` it when the server, not the document, was to blame."""

    def __init__(
        self,
        server: EmbeddingServer,
        changed: Callable[[str | None], None],
        patience: float | None,
        look_every: float = LOOK_EVERY,
    ) -> None:
        """changed: called with the reason when it opens and None when it closes. patience: seconds it may stay open
        before `ready` raises; None for ever. look_every: seconds between looks whether the server is still the same."""
        self._server = server
        self._changed = changed
        self._patience = patience
        self._look_every = look_every
        self._asking_anew = asyncio.Lock()
        self._closed = asyncio.Event()
        self._tripped = asyncio.Event()
        self._tripped.set()
        self._info: ModelInfo | None = None
        self._announced = False
        self.known: ModelInfo | None = None  # what it served last
        self._reason = ServerUnavailable("the embedding server was not asked yet")
        self._rng = random.Random()  # noqa: S311  # jitter

    async def ready(self) -> ModelInfo:
        """What the server serves, as soon as it answers. Raises ServerUnavailable after `patience`."""
        while self._info is None:
            try:
                async with asyncio.timeout(self._patience):
                    await self._closed.wait()
            except TimeoutError:
                raise self._reason from None
        return self._info

    def trip(self, reason: ServerUnavailable) -> None:
        """The server failed: nobody asks it until a probe has succeeded. Says so once."""
        self._reason = reason
        if self._info is not None:
            self.doubt(self._info)
            self._announce(reason)

    def doubt(self, info: ModelInfo) -> None:
        """Have the server asked again what it serves, if this is still what we believe."""
        if self._info == info:
            self._info = None
            self._closed.clear()
            self._tripped.set()

    async def another(self, info: ModelInfo, pause: float) -> None:
        """Have the server asked again after a pause, for whoever cannot use this: once, however many wait for it."""
        async with self._asking_anew:
            if self._info is info:  # nobody has asked since
                await asyncio.sleep(pause)
                self.doubt(info)

    async def vouch(self, info: ModelInfo, dimensions: int) -> bool:
        """Whether the server embeds what nobody could refuse: then a refusal was the document's fault. Trips if not."""
        try:
            await self._server.embed(info, ["a harmless text"], dimensions)
        except (ServerUnavailable, DocumentRefused) as error:
            self.trip(ServerUnavailable(str(error)))
            return False
        return True

    async def run(self) -> None:
        """Probe whenever it is open; a task of the worker's."""
        while True:
            await self._tripped.wait()
            self._tripped.clear()
            self._info = await self._probe()
            self._closed.set()

    async def watch(self) -> None:
        """Notice a server that serves something else though every request succeeds; a task of the worker's."""
        while True:
            await asyncio.sleep(self._look_every)
            info = self._info
            if info is not None and not await self._still_serves(info):
                self.doubt(info)

    async def _still_serves(self, info: ModelInfo) -> bool:
        try:
            return await self._server.still_serves(info)
        except (ServerUnavailable, DocumentRefused):  # the requests will find out
            return True

    def _announce(self, reason: ServerUnavailable) -> None:
        if not self._announced:
            self._announced = True
            log.warning("server_unavailable reason=%s", reason)
            self._changed(str(reason))

    async def _probe(self) -> ModelInfo:
        for attempt in count(1):
            try:
                info = await self._server.model_info()
            except (ServerUnavailable, DocumentRefused) as error:
                self._reason = ServerUnavailable(str(error))
                self._announce(self._reason)
                await asyncio.sleep(retry.backoff(attempt, base=0.05, cap=LONGEST_PAUSE, rng=self._rng))
            else:
                if info != self.known or attempt > 1:
                    log.info("server_ready model=%s dimensions=%d", info.model, info.dimensions)
                self.known, self._announced = info, False
                self._changed(None)
                return info
        raise AssertionError("unreachable")
