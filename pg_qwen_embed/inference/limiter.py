"""How many requests to keep in flight: found by trying, from the throughput and the refusals that are seen. Pure.

A hill climb over the number in flight. It is raised while throughput grows with it, and lowered while throughput stays:
beyond the point where a server is busy all the time more requests only wait there, and everybody waits with them. A
server that says it is overloaded halves it (multiplicative decrease, as TCP does). Latency alone is not looked at: it
depends on the length of the texts more than on the load.

Throughput is measured over stretches in which there was always more to send, in the caller's unit of work (tokens).
The first answers after each change belong to the number before, and are left out."""

from dataclasses import dataclass, field
from enum import Enum, auto

GROWTH = 1.06  # more throughput than this makes a higher number worth it
GAIN = 1.015  # in a trial, which lasts longer
LOSS = 0.99  # less than this makes a lower number a loss
STEP, LEAP = 1.5, 2.0  # of the climb; the leap while throughput grows with the number
LINEAR = 0.9  # of that proportion
SHORTEST = 0.2  # seconds of a stretch
TRIAL_WAIT = (
    4  # stretches before the first trial, once it has settled; twice as many after each that was in vain, up to
)
LONGEST_TRIAL_WAIT = 32
CHANGED = 0.8  # a throughput below this share of what was known, or above its inverse: another server
DRIFT = 0.1  # of the throughput, that makes it worth trying again
COOLING = 1.0  # seconds after an overload before it is raised again; twice as many when that was too soon, up to
LONGEST_COOLING = 30.0
CALM = 60.0  # seconds without an overload make it forgotten


class Phase(Enum):
    CLIMBING = auto()
    SETTLED = auto()
    TRYING = auto()


# Answers of a stretch, and for each request in flight: with fewer it says too little.
FEWEST = {Phase.CLIMBING: (8, 2), Phase.SETTLED: (16, 2), Phase.TRYING: (16, 4)}


@dataclass(slots=True)
class Stretch:
    """A measurement of throughput: what was answered since it began."""

    started: float | None = None
    work: float = 0.0
    answers: int = 0
    left_out: int = 0  # answers that still belong to the number before


@dataclass(slots=True)
class Trial:
    """When another number is tried, once it has settled."""

    stretches: int = 0  # since it settled
    wait: int = TRIAL_WAIT  # stretches
    up_next: bool = True
    tried_at: float = 0.0  # the throughput when another number was tried last
    odd: int = 0  # stretches in a row that look like another server


@dataclass(slots=True)
class Overload:
    """The last time that the server said it had too many."""

    at: float = -CALM
    pause: float = COOLING  # seconds before the number is raised again
    unanswered: bool = False  # it was not raised since


@dataclass(slots=True)
class Limiter:
    """`limit` requests may be in flight. Tell it of each answer; the clock is the caller's."""

    highest: int = 64
    limit: int = 2
    _lowest: int = 1  # whatever more of them gain: see `keep`
    _found: int = 2  # before it was kept higher
    _phase: Phase = Phase.CLIMBING
    _settled: int = 1  # the best number known, and
    _throughput: float = 0.0  # what it gave, in work a second
    _stretch: Stretch = field(default_factory=Stretch)
    _trial: Trial = field(default_factory=Trial)
    _overload: Overload = field(default_factory=Overload)

    def __post_init__(self) -> None:
        self.limit = self._found = min(self.limit, self.highest)

    def answered(self, now: float, work: float, *, saturated: bool) -> None:
        """A request that did so much work was answered; saturated: more could have been sent than the limit allows."""
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
        """So many requests at least, whatever that gains. Not while the server may be overloaded by them. When it becomes far
        fewer, those that gained nothing are given up at once."""
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
        """A trial that collapses is not seen through to its end."""
        trial = (
            self._phase is not Phase.SETTLED
            and self._throughput > 0
            and self._stretch.answers >= max(8, self.limit // 2)
        )
        return trial and self._stretch.work / duration < CHANGED * self._throughput

    def overloaded(self, now: float) -> None:
        """The server has refused a request because it has too many."""
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
        """This number is worth it: try a higher one, a much higher one if each more does as much as those before."""
        in_proportion = self._throughput * self.limit / self._settled
        step = LEAP if throughput > LINEAR * in_proportion else STEP
        self._phase, self._settled, self._throughput, self._trial.odd = Phase.CLIMBING, self.limit, throughput, 0
        self._trial.wait = TRIAL_WAIT
        self._go_to(max(self.limit + 1, int(self.limit * step)))

    def _stay(self, now: float, throughput: float) -> None:
        known = self._throughput
        odd = known and not CHANGED < throughput / known < 1 / CHANGED
        self._trial.odd = self._trial.odd + 1 if odd else 0
        if self._trial.odd == 2:  # not a hiccup
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
        """From here: upwards with a server that has become faster, downwards with one that has become slower."""
        if throughput > self._throughput or self.limit == self._lowest:
            self._go_up(throughput)
        else:
            self._throughput, self._trial.wait = throughput, TRIAL_WAIT
            self._settle(self.limit)
            self._try_step(-1)

    def _notice_drift(self) -> None:
        """Another throughput than at the last trial makes that trial's result doubtful."""
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
        else:  # all the same: an even lower one may do
            self._settle(self.limit)
            self._try_lower()
