"""What the clients of a load saw: counts by class, waits, and each failure by itself.

The classes: "refused", "reset", "eof" before a whole answer, "timeout", "5xx", "wrong" (another
status, or a body that is not this request's), and "stale": the request went out on a connection
that the server had closed by then, or said it would, so that a correct client may ask again.
Stale ones are no failures; they are counted beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_KEPT = 100_000     # failures, and late answers
LATE_S = 1.0
STEPS = 40              # buckets of waits for each doubling or so: 1.75 % wide
STALE = "stale"


@dataclass(frozen=True)
class Ended:
    """One request that failed, or was answered late: when, and by which port of the client.

    how:   a class of failure, or "late"
    port:  0 where there is none
    """

    how: str
    port: int
    begun_s: float
    ended_s: float

    @property
    def took_s(self) -> float:
        return self.ended_s - self.begun_s


@dataclass
class Seen:
    """The counts of one kind of client, or of all.

    closed:  idle connections that the server has closed
    """

    attempted: int = 0
    answered: int = 0
    closed: int = 0
    longest_s: float = 0.0
    ended: list[Ended] = field(default_factory=list)
    late: list[Ended] = field(default_factory=list)
    by_class: Counter[str] = field(default_factory=Counter)
    _waits: Counter[int] = field(default_factory=Counter)

    def answer(self, port: int, begun_s: float, ended_s: float, takes_s: float) -> None:
        """One was answered; the handler itself takes so long."""
        self.answered += 1
        waited_s = max(0.0, ended_s - begun_s - takes_s)
        self.longest_s = max(self.longest_s, waited_s)
        self._waits[int(STEPS * math.log(max(waited_s, 1e-5)))] += 1
        if waited_s > LATE_S and len(self.late) < MOST_KEPT:
            self.late.append(Ended("late", port, begun_s, ended_s))

    def fail(self, how: str, port: int, begun_s: float, ended_s: float) -> None:
        """One was not."""
        self.by_class[how] += 1
        if len(self.ended) < MOST_KEPT:
            self.ended.append(Ended(how, port, begun_s, ended_s))

    @property
    def failed(self) -> int:
        """All that were not answered, but for the stale."""
        return sum(self.by_class.values()) - self.by_class[STALE]

    @property
    def p99_s(self) -> float:
        """The wait that 99 of 100 did not exceed."""
        left = 0.01 * sum(self._waits.values())
        for bucket in sorted(self._waits, reverse=True):
            left -= self._waits[bucket]
            if left <= 0:
                return math.exp((bucket + 1) / STEPS)
        return 0.0

    def add(self, other: Seen) -> None:
        """Count what another has counted."""
        self.attempted += other.attempted
        self.answered += other.answered
        self.closed += other.closed
        self.longest_s = max(self.longest_s, other.longest_s)
        self.ended += other.ended
        self.late += other.late
        self.by_class += other.by_class
        self._waits += other._waits

    def told(self) -> str:
        """In one line."""
        return (f"{self.attempted} attempted, {self.answered} answered, "
                f"failed: {told(self.by_class)}, longest wait {1000 * self.longest_s:.0f} ms, "
                f"p99 {1000 * self.p99_s:.1f} ms")


def told(by_class: Counter[str]) -> str:
    """Failures by class, in few words."""
    return ", ".join(f"{name} {count}" for name, count in sorted(by_class.items())) or "none"


def together(several: Iterable[Seen]) -> Seen:
    """The counts of all."""
    whole = Seen()
    for one in several:
        whole.add(one)
    return whole
