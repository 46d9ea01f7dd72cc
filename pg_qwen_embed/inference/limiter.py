"""Concurrency limit: hill climbing on throughput, for the requests in flight on one server. Pure.

The limit rises while throughput grows with it, and falls while throughput stays the same: beyond the point where a
server is always busy, more requests only wait there, live changes among them. An overloaded server halves the limit
(multiplicative decrease, as in TCP: RFC 5681). Latency is not used: it depends on the length of the texts more than on
the load.

Throughput is measured in the caller's unit of work per second, over stretches in which there was always more to send.
The first answers after a change of the limit belong to the old limit, and are left out."""

from dataclasses import dataclass, field
from enum import Enum, auto

GROWTH = 1.06  # a higher limit is worth it above this ratio of throughputs
GAIN = 1.015  # likewise in a trial, which lasts longer
LOSS = 0.99  # a lower limit is a loss below this ratio
STEP, LEAP = 1.5, 2.0  # factors of the climb; LEAP while throughput grows in proportion to the limit
LINEAR = 0.9  # share of that proportion that counts as growing with it
SHORTEST = 0.2  # seconds of a stretch, at least
# Stretches between settling and the first trial; doubled after each trial in vain.
TRIAL_WAIT, LONGEST_TRIAL_WAIT = 4, 32
CHANGED = 0.8  # a throughput below this share of the known one, or above its inverse: the server has changed
DRIFT = 0.1  # a change by this share of the throughput makes a new trial worth it
COOLING = 1.0  # seconds between an overload and the next rise; doubled when that was too soon, up to LONGEST_COOLING
LONGEST_COOLING = 30.0
CALM = 60.0  # seconds without an overload, after which it is forgotten


class Phase(Enum):
    CLIMBING = auto()
    SETTLED = auto()
    TRYING = auto()


# The fewest answers of a stretch, and the fewest for each request in flight: fewer say too little.
FEWEST = {Phase.CLIMBING: (8, 2), Phase.SETTLED: (16, 2), Phase.TRYING: (16, 4)}


@dataclass(slots=True)
class Stretch:
    """A measurement of throughput: what was answered since it began."""

    started: float | None = None
    work: float = 0.0
    answers: int = 0
    left_out: int = 0  # answers that still belong to the old limit


@dataclass(slots=True)
class Trial:
    """When another limit is tried after the limit has settled."""

    stretches: int = 0  # since it settled
    wait: int = TRIAL_WAIT  # stretches
    up_next: bool = True
    tried_at: float = 0.0  # the throughput at the last trial
    odd: int = 0  # stretches in a row in which the server seemed to have changed


@dataclass(slots=True)
class Overload:
    """The last time that the server was overloaded."""

    at: float = -CALM
    pause: float = COOLING  # seconds before the limit is raised again
    unanswered: bool = False  # the limit was not raised since


@dataclass(slots=True)
class Limiter:
    """`limit` requests may be in flight. The caller reports each answer and overload, with times of its own clock in seconds."""

    highest: int = 64
    limit: int = 2
    _lowest: int = 1  # the limit stays at this or above: see `keep`
    _found: int = 2  # the limit before `keep` raised it
    _phase: Phase = Phase.CLIMBING
    _settled: int = 1  # the best limit known
    _throughput: float = 0.0  # the throughput with it, in work per second
    _stretch: Stretch = field(default_factory=Stretch)
    _trial: Trial = field(default_factory=Trial)
    _overload: Overload = field(default_factory=Overload)

    def __post_init__(self) -> None:
        self.limit = self._found = min(self.limit, self.highest)

    def answered(self, now: float, work: float, *, saturated: bool) -> None:
        """A request of this much work was answered. saturated: more could have been sent than the limit allows."""
        if not saturated:
            self._begin(None)
            return
        if self._stretch.left_out:
            self._stretch.left_out -= 1
            return
        if self._stretch.started is None:
            self._begin(now)
            return
        self._stretch.work += work
        self._stretch.answers += 1
        duration = now - self._stretch.started
        least, each = FEWEST[self._phase]
        enough = duration >= SHORTEST and self._stretch.answers >= max(least, each * self.limit)
        if enough or self._is_in_vain(duration):
            throughput = self._stretch.work / duration
            self._begin(now)
            self._judge(now, throughput)

    def keep(self, now: float, number: int) -> None:
        """Keep the limit at `number` or above, even if that gains nothing; not soon after an overload.

        When `number` falls to half or less, a limit that gained nothing returns at once to the one found before."""
        number = max(1, min(self.highest, number)) if now >= self._overload.at + CALM else 1
        if self._lowest // 2 < number <= self._lowest:
            return
        before, self._lowest = self._lowest, number
        if self.limit < number:
            if before == 1 or self.limit > before:
                self._found = self.limit
            if self._phase is Phase.CLIMBING:
                self._go_to(number)
            else:
                self._settle(number)
        elif self._settled <= before:
            self._settle(self._found)

    def _is_in_vain(self, duration: float) -> bool:
        """Whether a trial has collapsed, so that it need not last to its end."""
        trial = (
            self._phase is not Phase.SETTLED
            and self._throughput > 0
            and self._stretch.answers >= max(8, self.limit // 2)
        )
        return trial and self._stretch.work / duration < CHANGED * self._throughput

    def overloaded(self, now: float) -> None:
        """The server did not accept a request because it has too many."""
        if now < self._overload.at + SHORTEST:
            return  # requests sent before the limit was lowered
        if not self._overload.unanswered:  # again, after it was raised
            calm = now > self._overload.at + CALM
            self._overload.pause = COOLING if calm else min(LONGEST_COOLING, 2 * self._overload.pause)
        self._overload.unanswered, self._overload.at = True, now
        fewer = self._found if self.limit == self._lowest > 1 else self.limit // 2
        self._throughput, self._trial.wait, self._lowest = 0.0, TRIAL_WAIT, 1
        self._settle(fewer)

    def _begin(self, now: float | None) -> None:
        self._stretch.started, self._stretch.work, self._stretch.answers = now, 0.0, 0

    def _go_to(self, limit: int) -> None:
        limit = max(self._lowest, min(self.highest, limit))
        if limit != self.limit:
            self._stretch.left_out = max(limit, self.limit)
            self._begin(None)
        self.limit = limit

    def _settle(self, limit: int) -> None:
        self._phase, self._trial.stretches, self._trial.odd = Phase.SETTLED, 0, 0
        self._go_to(limit)
        self._settled = self.limit

    def _judge(self, now: float, throughput: float) -> None:
        match self._phase:
            case Phase.CLIMBING:
                self._climb(throughput)
            case Phase.SETTLED:
                self._stay(now, throughput)
            case Phase.TRYING:
                self._choose(throughput)

    def _climb(self, throughput: float) -> None:
        if throughput > GROWTH * self._throughput and self.limit < self.highest:
            self._go_up(throughput)
        else:
            self._settle(self._settled)
            self._try_lower()  # the last step may have been too long, or one stretch lucky

    def _go_up(self, throughput: float) -> None:
        """This limit is worth it: try a higher one, a much higher one if throughput grew in proportion."""
        in_proportion = self._throughput * self.limit / self._settled
        step = LEAP if throughput > LINEAR * in_proportion else STEP
        self._phase, self._settled, self._throughput, self._trial.odd = Phase.CLIMBING, self.limit, throughput, 0
        self._trial.wait = TRIAL_WAIT
        self._go_to(max(self.limit + 1, int(self.limit * step)))

    def _stay(self, now: float, throughput: float) -> None:
        known = self._throughput
        odd = known and not CHANGED < throughput / known < 1 / CHANGED
        self._trial.odd = self._trial.odd + 1 if odd else 0
        if self._trial.odd == 2:  # not a single outlier
            self._begin_again(throughput)
            return
        if not odd:
            self._throughput = throughput if not known else 0.7 * known + 0.3 * throughput
            self._notice_drift()
        self._trial.stretches += 1
        if self._overload.unanswered:
            if now >= self._overload.at + self._overload.pause:
                self._overload.unanswered = False
                self._go_up(throughput)
        elif self._trial.stretches >= self._trial.wait:
            self._try()

    def _begin_again(self, throughput: float) -> None:
        """Start from here: upwards with a server that has become faster, downwards with one that has become slower."""
        if throughput > self._throughput or self.limit == self._lowest:
            self._go_up(throughput)
        else:
            self._throughput, self._trial.wait = throughput, TRIAL_WAIT
            self._settle(self.limit)
            self._try_step(-1)

    def _notice_drift(self) -> None:
        """A throughput that has changed since the last trial makes its result uncertain."""
        if abs(self._throughput - self._trial.tried_at) > DRIFT * self._trial.tried_at:
            self._trial.tried_at, self._trial.wait = self._throughput, TRIAL_WAIT

    def _try(self) -> None:
        self._trial.tried_at = self._throughput
        higher = (self._trial.up_next and self.limit < self.highest) or self.limit == self._lowest
        self._trial.up_next = not self._trial.up_next
        self._try_step(1 if higher else -1)

    def _try_lower(self) -> None:
        if self.limit > self._lowest:
            self._try_step(-1)

    def _try_step(self, sign: int) -> None:
        self._phase = Phase.TRYING
        self._go_to(self.limit + sign * max(1, self.limit // 4))

    def _choose(self, throughput: float) -> None:
        higher = self.limit > self._settled
        if throughput <= (GAIN if higher else LOSS) * self._throughput:
            self._trial.wait = min(LONGEST_TRIAL_WAIT, self._trial.wait * 2)
            self._settle(self._settled)
        elif higher:
            self._go_up(throughput)
        else:  # nothing was lost: an even lower limit may be enough
            self._settle(self.limit)
            self._try_lower()
