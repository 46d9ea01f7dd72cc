"""The circuit breaker, on a clock of its own: it opens once, probes with pauses, and closes when the server is back."""

import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import virtual_time

from pg_qwen_embed.domain.errors import DocumentRejected, ServerUnavailable
from pg_qwen_embed.domain.events import Event, Events
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.inference.breaker import LONGEST_PAUSE, Breaker, Closed, HalfOpen, Open
from pg_qwen_embed.inference.model_info import ModelInfo
from pg_qwen_embed.inference.sglang import Answer, EmbeddingServer

MODEL = ModelInfo("model", 16, shortens=True)
ANOTHER = replace(MODEL, weight_version="another")
DOWN = ServerUnavailable("it does not answer")
CHECK = 5.0  # seconds between checks of the identity


@dataclass
class Server:
    """An embedding server that answers at once or fails, and records when it was probed, on the loop's clock."""

    serves: ModelInfo = MODEL
    down: bool = False
    embeds: Exception | None = None  # how embedding fails
    takes: float = 0.0  # seconds for an answer
    probes: list[float] = field(default_factory=list)
    embedded: int = 0
    url: str = "http://server/v1"

    async def model_info(self, wanted: str | None = None) -> ModelInfo:
        self.probes.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        if self.down:
            raise DOWN
        return self.serves

    async def still_serves(self, info: ModelInfo) -> bool:
        return info == await self.model_info()

    async def embed(
        self, info: ModelInfo, texts: list[str], dimensions: int | None = None, *, urgent: bool = False
    ) -> Answer:
        self.embedded += 1
        await asyncio.sleep(self.takes)
        if self.embeds:
            raise self.embeds
        return Answer(np.ones((len(texts), dimensions or info.dimensions), np.float32), len(texts), info.answers_as)


@dataclass
class Seen:
    """What the breaker believed at each of its calls of `changed`."""

    breaker: Breaker | None = None
    changes: list[ModelInfo | None] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self) -> None:
        assert self.breaker
        self.changes.append(self.breaker.info)
        self._changed.set()

    async def until(self, believed: ModelInfo) -> float:
        """Wait until it believes that. Returns the time."""
        assert self.breaker
        async with asyncio.timeout(600):
            while self.breaker.info != believed:
                self._changed.clear()
                await self._changed.wait()
        return asyncio.get_running_loop().time()


Script = Callable[[Server, Breaker, Seen], Awaitable[None]]


def played(script: Script) -> None:
    """Run the script against a running breaker."""

    async def play() -> None:
        server, seen = Server(), Seen()
        runtime = Runtime(asyncio.get_running_loop().time, random.Random(0), Events(seen.events.append))
        breaker = seen.breaker = Breaker(cast(EmbeddingServer, server), seen.change, CHECK, runtime)
        tasks = [asyncio.create_task(breaker.run()), asyncio.create_task(breaker.watch())]
        try:
            await script(server, breaker, seen)
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    virtual_time.run(play())


def test_breaker_starts_open_and_closes_with_what_the_first_probe_learns() -> None:
    async def script(_: Server, breaker: Breaker, seen: Seen) -> None:
        assert breaker.state == HalfOpen()
        await seen.until(MODEL)
        assert breaker.state == Closed(MODEL)
        assert (breaker.info, breaker.known, breaker.reason, seen.changes) == (MODEL, MODEL, None, [MODEL])

    played(script)


def test_failures_of_many_requests_open_it_once_and_are_announced_once() -> None:
    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        await seen.until(MODEL)
        server.down = True
        for _ in range(20):
            breaker.open(DOWN)
        await asyncio.sleep(30)
        assert breaker.state == Open(DOWN)
        assert seen.changes == [MODEL, None]
        assert [event.name for event in seen.events] == ["server_ready", "server_unavailable"]

    played(script)


def test_failures_of_many_requests_count_as_one_trouble() -> None:
    async def script(_: Server, breaker: Breaker, seen: Seen) -> None:
        began = await seen.until(MODEL)
        for _ in range(20):
            breaker.open(DOWN)
        assert await seen.until(MODEL) == began  # without a pause, as after the first one

    played(script)


def test_open_it_probes_one_at_a_time_and_at_least_once_in_its_longest_pause() -> None:
    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        server.down, server.takes = True, 2.0
        await asyncio.sleep(120)
        pauses = [after - before - server.takes for before, after in pairwise(server.probes)]
        assert min(pauses) >= 0
        assert max(pauses) <= LONGEST_PAUSE
        assert statistics.mean(pauses[10:]) > LONGEST_PAUSE / 5
        server.down, server.takes = False, 0.0
        back = asyncio.get_running_loop().time()
        assert await seen.until(MODEL) <= back + 2.0 + LONGEST_PAUSE

    played(script)


def test_server_that_answers_probes_and_fails_requests_is_tried_less_and_less_often() -> None:
    async def script(_: Server, breaker: Breaker, seen: Seen) -> None:
        tried: list[float] = []
        for _ in range(200):
            tried.append(await seen.until(MODEL))
            breaker.open(DOWN)
        late = [after - before for before, after in pairwise(tried[100:])]
        assert tried[1] == tried[0]
        assert LONGEST_PAUSE / 4 < statistics.mean(late) < LONGEST_PAUSE
        assert breaker.trouble
        assert (breaker.trouble.since, breaker.trouble.failures) == (tried[0], len(tried))
        breaker.worked()
        assert breaker.trouble is None
        await seen.until(MODEL)
        breaker.open(DOWN)
        began = asyncio.get_running_loop().time()
        assert await seen.until(MODEL) == began

    played(script)


def test_only_what_is_believed_now_can_be_doubted() -> None:
    async def script(_: Server, breaker: Breaker, seen: Seen) -> None:
        await seen.until(MODEL)
        breaker.half_open(ANOTHER)
        assert (breaker.info, seen.changes) == (MODEL, [MODEL])
        breaker.half_open(MODEL)
        assert (breaker.state, seen.changes) == (HalfOpen(), [MODEL, None])
        await seen.until(MODEL)
        assert seen.changes == [MODEL, None, MODEL]

    played(script)


def test_rejections_are_confirmed_by_one_harmless_text_for_all_that_came_before_it() -> None:
    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        await seen.until(MODEL)
        server.takes = 1.0
        assert await asyncio.gather(*(breaker.confirm(MODEL, 16) for _ in range(5))) == [True] * 5
        assert server.embedded == 1
        assert await breaker.confirm(MODEL, 16)
        assert server.embedded == 2  # this one came later
        assert await asyncio.gather(breaker.confirm(MODEL, 16), breaker.confirm(MODEL, 8)) == [True, True]
        assert server.embedded == 4  # vectors of another length
        assert breaker.info == MODEL

    played(script)


@pytest.mark.parametrize("how", [{"down": True}, {"embeds": DOWN}, {"embeds": DocumentRejected("anything")}])
def test_rejections_are_the_servers_fault_where_it_embeds_no_harmless_text(how: dict[str, Any]) -> None:
    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        await seen.until(MODEL)
        for name, value in how.items():
            setattr(server, name, value)
        assert not await breaker.confirm(MODEL, 16)
        assert (type(breaker.state), seen.changes) == (Open, [MODEL, None])

    played(script)


def test_rejections_say_nothing_where_another_model_is_served_by_now() -> None:
    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        await seen.until(MODEL)
        server.serves = ANOTHER
        assert not await breaker.confirm(MODEL, 16)
        assert (server.embedded, breaker.reason) == (0, None)
        await seen.until(ANOTHER)
        assert seen.changes == [MODEL, None, ANOTHER]

    played(script)


@pytest.mark.parametrize("asked", [False, True])
def test_another_model_is_noticed_though_every_request_succeeds(asked: bool) -> None:
    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        began = await seen.until(MODEL)
        server.serves = ANOTHER
        if asked:
            await breaker.ask_again(MODEL)
        assert await seen.until(ANOTHER) == began + (0 if asked else CHECK)

    played(script)


def test_looks_at_a_server_that_is_away_do_not_open_it() -> None:
    """The requests will do that: those that are answered meanwhile need not stop."""

    async def script(server: Server, breaker: Breaker, seen: Seen) -> None:
        await seen.until(MODEL)
        server.down = True
        await breaker.ask_again(MODEL)
        await asyncio.sleep(3 * CHECK)
        assert len(server.probes) >= 4
        assert (breaker.info, seen.changes) == (MODEL, [MODEL])

    played(script)
