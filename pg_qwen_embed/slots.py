"""Who may ask the embedding server now: as many requests at once as the limiter finds good, live ones first.

All feeds of a worker share the slots of a server. A few are kept for live changes beyond the limit found, so that none
waits for a backfill's requests to come back; beyond the highest limit allowed goes nobody."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from pg_qwen_embed.concurrency import Limiter

RESERVED = 2  # requests of live changes that may go beyond the limit
STALLED = 2.0  # seconds without an answer
LIVE, BACKFILL = 0, 1  # which requests go first


@dataclass(slots=True)
class Slot:
    """One request under way. work: what its answer was worth, in characters; nothing until there is one."""

    work: float | None = None


class Slots:
    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._in_flight = [0, 0]  # live, backfill
        self._answered = 0.0  # when the server last answered

    @property
    def limit(self) -> int:
        return self._limiter.limit

    @property
    def in_flight(self) -> int:
        return sum(self._in_flight)

    @property
    def empty(self) -> bool:
        return not any(self._in_flight)

    @asynccontextmanager
    async def one(self, *, live: bool) -> AsyncIterator[Slot]:
        """Wait for a slot and hold it. Set its `work` when the server has answered."""
        kind, slot = (LIVE if live else BACKFILL), Slot()
        await self._take(kind)
        try:
            yield slot
        finally:
            if slot.work is not None:
                now = asyncio.get_running_loop().time()
                self._limiter.answered(now, slot.work, saturated=bool(self._waiting))
                self._answered = now
            self._in_flight[kind] -= 1
            self._admit()

    def overloaded(self) -> bool:
        """The server has more than it takes. Whether it has answered nobody for a while, or has nobody else to answer."""
        now = asyncio.get_running_loop().time()
        self._limiter.overloaded(now)
        return self.empty or now - self._answered > STALLED

    async def _take(self, kind: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.empty:  # nobody has waited for an answer until now
            self._answered = asyncio.get_running_loop().time()
        heapq.heappush(self._waiting, (kind, next(self._order), turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was admitted, and will not go
                self._in_flight[kind] -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            kind, _, turn = heapq.heappop(self._waiting)
            if not turn.cancelled():
                self._in_flight[kind] += 1
                turn.set_result(None)

    def _has_room(self, kind: int) -> bool:
        if self.in_flight < self._limiter.limit:
            return True
        more = self.in_flight < self._limiter.highest
        return kind == LIVE and self._in_flight[LIVE] < RESERVED and more
