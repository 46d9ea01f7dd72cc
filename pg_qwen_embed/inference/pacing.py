"""Pacing: when a server will need its next request, so that the request need not wait in the server's queue. Pure.

When a server is fully busy, the last request in flight waits in its queue, and everything behind it waits too: also a
live change. So the last request is held back until just before the next answer is expected. The time of an answer is
learned from earlier ones, in the caller's unit of work. The forecast is early by as much as earlier ones were wrong."""

from collections import OrderedDict
from dataclasses import dataclass, field

EARLY = 0.004  # seconds, at least, for the way to the server
SLACK = 3.0  # times the average error of a forecast
SHARE = 0.2  # weight of each answer in the averages


@dataclass(slots=True)
class Pace:
    """The caller reports what is sent and answered, with times of its own clock in seconds."""

    _in_flight: OrderedDict[int, tuple[float, float]] = field(default_factory=OrderedDict)  # when it was sent, its work
    _answered: float = 0.0  # when the last answer came
    _took: float = 0.0  # average seconds of an answer
    _work: float = 0.0  # average work of a request; the ratio of the averages gives small requests little weight
    _off: float = 0.0  # average error of a forecast, in seconds

    def sent(self, now: float, number: int, work: float) -> None:
        self._in_flight[number] = now, work

    def dropped(self, number: int) -> None:
        """The request had no answer, or none that tells how long an answer takes."""
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
        """When the next request should be sent to arrive in time; 0 if nothing is known."""
        if not self._work or not self._in_flight:
            return 0.0
        sent, work = next(iter(self._in_flight.values()))
        return max(sent, self._answered) + self._expected(work) - EARLY - SLACK * self._off

    def within(self, seconds: float, work: float) -> int:
        """About how many requests of this much work are answered in `seconds`; 1 if nothing is known.

        A small request counts as an average one."""
        took = max(self._expected(work), self._took) if self._work else 0.0
        return int(seconds / took) if took else 1

    def _expected(self, work: float) -> float:
        return self._took / self._work * work
