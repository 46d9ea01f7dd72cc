"""The runtime of a process: its clock, its source of randomness and its events. Created once and passed down. Pure."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pg_qwen_embed.domain.events import Events


@dataclass(frozen=True, slots=True)
class Runtime:
    """clock: monotonic seconds, those of the event loop. Tests choose all three."""

    clock: Callable[[], float]
    rng: random.Random = field(default_factory=random.Random)
    events: Events = field(default_factory=Events)
