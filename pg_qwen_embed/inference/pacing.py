"""When a server will want its next request, so that it need not wait there for long. Pure.

A server that works on as many requests as it can has the last one of those in flight waiting in its queue, and with it
whatever comes after: a live change as well. So the last one is held back until just before the next answer is expected.
What an answer takes is learned from those before, in the caller's unit of work; the forecast errs early by as much as
the last ones were off."""

from collections import OrderedDict
from dataclasses import dataclass, field

EARLY = 0.004  # seconds, at least: for the way to the server
SLACK = 3.0  # times what forecasts are off by, on the average
SHARE = 0.2  # of each answer in the averages


@dataclass(slots=True)
class Pace:
    """Tell it what is sent and answered; the clock is the caller's."""

    _in_flight: OrderedDict[int, tuple[float, float]] = field(default_factory=OrderedDict)  # when it was sent, its work
    _answered: float = 0.0  # when the last answer came
    _took: float = 0.0  # seconds that an answer takes, for
    _work: float = 0.0  # so much work, both on the average; their ratio lets small requests count little
    _off: float = 0.0  # seconds

    def sent(self, now: float, number: int, work: float) -> None:
        self._in_flight[number] = now, work

    def dropped(self, number: int) -> None:
        """It had no answer, or none that says how long one takes."""
        self._in_flight.pop(number)

    def answered(self, now: float, number: int) -> None:
        sent, work = self._in_flight.pop(number)
        took, self._answered = now - max(sent, self._answered), now
        share = SHARE if self._work else 1.0
        if self._work:
            self._off += SHARE * (abs(took - self._expected(work)) - self._off)
        self._took += share * (took - self._took)
        self._work += share * (work - self._work)

    def due(self) -> float:
        """When the next request should be sent to arrive in time: now or earlier, if nothing is known."""
        if not self._work or not self._in_flight:
            return 0.0
        sent, work = next(iter(self._in_flight.values()))
        return max(sent, self._answered) + self._expected(work) - EARLY - SLACK * self._off

    def within(self, seconds: float, work: float) -> int:
        """How many requests of so much work it answers in that time, about; small ones count as much as the average. 1 if
        nothing is known."""
        took = max(self._expected(work), self._took) if self._work else 0.0
        return int(seconds / took) if took else 1

    def _expected(self, work: float) -> float:
        return self._took / self._work * work
