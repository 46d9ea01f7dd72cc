"""How the fake SGLang goes wrong, and when its answers leave. Tests set the fields while the server runs."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from pg_qwen_embed.serve.protocol import Item, RequestError, Vectors, input_too_long, queue_full

PROBE = "dimensions"  # the text that a client embeds to learn the length of a vector

Condition = Callable[[list[str]], bool]


@dataclass(eq=False)
class Faults:
    """fault: what is wrong with every answer. A status ("503"), "html", "hang", "nan", "zero", "too_few", "too_short",
    "index_twice", or "only_probes": too few, but not for the probe. None: nothing."""

    fault: str | None = None
    poison: str | None = None  # an input that contains it has its whole request rejected
    overloads: bool = False  # the poison gets 503 instead
    most_inputs: int = 1 << 30  # of a request; more get 503
    overloaded_every: int = 0  # each request of this number and its multiples gets 503; 0: none
    disordered: bool = False  # items in another order than the texts, each with its index
    floats: bool = False  # answers floats where base64 was wanted, as servers before 0.5.17 do

    def check(self, texts: list[str], number: int) -> None:
        """Raises RequestError. number: of the request, from 1."""
        poisoned = self.poison is not None and any(self.poison in text for text in texts)
        if poisoned and not self.overloads:
            raise input_too_long(10_002, 512)
        every = self.overloaded_every
        if poisoned or self.fault == "503" or len(texts) > self.most_inputs or (every and number % every == 0):
            raise queue_full()
        if self.fault and self.fault.isdigit():
            raise RequestError("The test wants it.", status=int(self.fault), kind=self.fault)

    def spoiled(self, vectors: Vectors) -> Vectors:
        match self.fault:
            case "nan":
                vectors[-1] = np.nan
            case "zero":
                vectors[-1] = 0
            case "too_short":
                return vectors[:, :-1]
        return vectors

    def rearranged(self, items: list[Item], texts: list[str]) -> list[Item]:
        if self.fault == "too_few" or (self.fault == "only_probes" and texts != [PROBE]):
            items = items[:-1]
        if self.fault == "index_twice":
            twice = items[-1] | {"index": 0}
            items = [*items[:-1], twice, twice]
        return items[::-1] if self.disordered else items


@dataclass(eq=False)
class Holds:
    """Answers leave after `delay` seconds, and not while a hold applies."""

    delay: float = 0.0
    waiting: list[list[str]] = field(default_factory=list)  # the inputs of each request that is held now
    most_waiting: int = 0  # requests at once
    _conditions: list[Condition] = field(default_factory=list)

    @contextmanager
    def hold(self, condition: Condition) -> Iterator[None]:
        """Requests whose inputs meet the condition are answered after the block."""
        self._conditions.append(condition)
        try:
            yield
        finally:
            self._conditions.remove(condition)

    async def pass_holds(self, texts: list[str]) -> None:
        await asyncio.sleep(self.delay)
        self.waiting.append(texts)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        try:
            while any(condition(texts) for condition in [*self._conditions]):  # noqa: ASYNC110  # no event for it
                await asyncio.sleep(0.005)
        finally:
            self.waiting.remove(texts)
