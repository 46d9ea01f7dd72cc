"""Pauses that take no time and are counted: how often a worker asks again does not depend on how fast the machine is."""

import random
from collections.abc import Callable

import pytest

from pg_qwen_embed.domain.events import Events
from pg_qwen_embed.domain.runtime import Runtime
from pg_qwen_embed.worker import process


class Pauses(random.Random):
    """The random source of a worker, which draws the length of every pause from it. All are of no length here."""

    def __init__(self) -> None:
        super().__init__(0)
        self.longest: list[float] = []  # what each might have been, in seconds

    def uniform(self, a: float, b: float) -> float:
        self.longest.append(b)
        return 0.0

    def injected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Into workers that are started in this process from now on."""

        def runtime(clock: Callable[[], float], _: random.Random, events: Events) -> Runtime:
            return Runtime(clock, self, events)

        monkeypatch.setattr(process, "Runtime", runtime)
