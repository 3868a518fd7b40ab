"""What a server counted, as those have it who look: records without behaviour of their own.

Everything that only grows can be subtracted: what happened between two Readings is
`later.minus(earlier)`. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastserve._speedups.scoreboard import BUCKETS, bucket_limit_ns

# The deadlines of deadlines.Wait from 1 on, then the handlers'.
DEADLINES = ("first_byte", "keep_alive", "head", "body", "linger", "write", "handler")
# Why a worker was replaced, or started again.
REASONS = (
    "exited", "killed", "out_of_memory", "stalled", "boot", "reload", "max_requests",
    "max_lifetime", "max_memory", "canary", "scaled", "other")
# What each bucket holds is below its limit; the last has none.
LIMITS_S = (*(bucket_limit_ns(bucket) / 1e9 for bucket in range(BUCKETS - 1)), float("inf"))
NO_COUNTS = (0,) * BUCKETS


def quantile_s(buckets: Iterable[int], part: float) -> float | None:
    """The duration that this part of a histogram is below, e.g. 0.99; None where it is empty.

    Inside a bucket it is assumed to grow evenly; of the last one only its beginning is known.
    """
    counts = tuple(buckets)
    left = part * sum(counts)
    if not any(counts):
        return None
    low = 0.0
    for limit, count in zip(LIMITS_S, counts, strict=True):
        if count and left <= count:
            return low if limit == float("inf") else low + (limit - low) * left / count
        left -= count
        low = low if limit == float("inf") else limit
    return low


def longest_s(buckets: Iterable[int]) -> float | None:
    """What every duration of a histogram is below, or from where it has no bound; None if empty."""
    used = [index for index, count in enumerate(buckets) if count]
    if not used:
        return None
    return LIMITS_S[min(used[-1], BUCKETS - 2)]


def _sums(these: tuple[int, ...], those: tuple[int, ...], sign: int) -> tuple[int, ...]:
    return tuple([one + sign * other for one, other in zip(these, those, strict=True)])


def _joined(these: Mapping[str, int], those: Mapping[str, int], sign: int) -> dict[str, int]:
    joined = dict(these)
    for name, count in those.items():
        joined[name] = joined.get(name, 0) + sign * count
    return joined


@dataclass(frozen=True)
class Series:
    """The requests of one method and route that have ended.

    method, route:  ("other", "(no route)") for what no route answered
    sum_ns:         how long all of them took: whole, so that no order of adding changes it
    buckets:        how many took how long; see LIMITS_S
    statuses:       by status, or by "1xx" to "5xx" for the rare ones of a class
    """

    method: str
    route: str
    count: int = 0
    sum_ns: int = 0
    body_bytes: int = 0
    buckets: tuple[int, ...] = NO_COUNTS
    statuses: Mapping[str, int] = field(default_factory=dict)

    def errors(self, hundreds: int = 5) -> int:
        """How many were answered with a status of this class."""
        return sum(count for status, count in self.statuses.items() if status[0] == str(hundreds))

    def quantile_s(self, part: float) -> float | None:
        """The duration that this part of them stayed below; None where there are none."""
        return quantile_s(self.buckets, part)

    def plus(self, other: Series, sign: int = 1) -> Series:
        """Both together, under this one's name."""
        return Series(
            self.method, self.route, self.count + sign * other.count,
            self.sum_ns + sign * other.sum_ns, self.body_bytes + sign * other.body_bytes,
            _sums(self.buckets, other.buckets, sign), _joined(self.statuses, other.statuses, sign))

    def minus(self, earlier: Series) -> Series:
        """What came since."""
        return self.plus(earlier, -1)


@dataclass(frozen=True)
class Counters:
    """What is not counted by route. All of it only grows.

    expired:      by DEADLINES
    lag_sum_ns:   of all ticks of the loop
    lag_buckets:  how many of them came how late; see LIMITS_S
    """

    connections: int = 0
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    shed: int = 0
    rejected: int = 0
    lines_dropped: int = 0
    expired: tuple[int, ...] = (0,) * len(DEADLINES)
    lag_sum_ns: int = 0
    lag_buckets: tuple[int, ...] = NO_COUNTS

    def plus(self, other: Counters, sign: int = 1) -> Counters:
        """Both together."""
        values: dict[str, Any] = {}
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            values[each.name] = _sums(mine, others, sign) if isinstance(mine, tuple) \
                else mine + sign * others
        return Counters(**values)

    def minus(self, earlier: Counters) -> Counters:
        """What came since."""
        return self.plus(earlier, -1)


def total(series: Iterable[Series]) -> Series:
    """All of them as one, with no name."""
    sum_of_all = Series("", "")
    for each in series:
        sum_of_all = sum_of_all.plus(each)
    return sum_of_all


@dataclass(frozen=True)
class WorkerReading:
    """One worker that has not ended.

    pid:          0 before it knows
    in_flight:    async requests under way
    waiting:      requests that wait for max_in_flight
    accept_queue: connections that the kernel holds for it, as of its last tick
    lag_s:        how late the last tick of its loop was, or the next one is by now
    longest_lag_s:  of the last ten seconds
    current:      the number of the request whose handler holds its loop; 0: none
    """

    block: int
    pid: int
    slot: int
    age_s: float
    connections: int
    in_flight: int
    waiting: int
    accept_queue: int
    draining: bool
    lag_s: float
    longest_lag_s: float
    current: int
    counters: Counters
    series: tuple[Series, ...]

    def total(self) -> Series:
        """Its requests of all routes."""
        return total(self.series)


@dataclass(frozen=True)
class RequestRecord:
    """One of the last requests of a worker.

    number:     of the worker's requests, from 1
    begun_at_s: when its head was complete, as time.time() has it
    age_s:      how long ago that was
    wait_s:     from there until it had its turn among those under way (max_in_flight)
    handler_s:  from there until its answer was made; None: not yet
    send_s:     from there until all of that was handed over, or given up; None: not yet
    status:     0: not yet; 499: the client left before there was one
    method, route:  as in Series
    id, client, line:  as they came: a stranger wrote them
    holds_loop: its handler has the loop to itself at this moment
    """

    number: int
    block: int
    pid: int
    slot: int
    begun_at_s: float
    age_s: float
    wait_s: float
    handler_s: float | None
    send_s: float | None
    status: int
    body_bytes: int
    method: str
    route: str
    id: str
    client: str
    line: str
    holds_loop: bool

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.send_s is None

    @property
    def duration_s(self) -> float:
        """How long it took, or has taken so far."""
        if self.handler_s is None or self.send_s is None:
            return self.age_s
        return self.wait_s + self.handler_s + self.send_s


@dataclass(frozen=True)
class Past:
    """What the workers counted that have ended, and how they did.

    restarts:  how many times a worker was replaced, by REASONS
    full:      it takes no further series: what comes after is under "(other routes)"
    """

    counters: Counters
    series: tuple[Series, ...]
    restarts: Mapping[str, int]
    full: bool = False


@dataclass(frozen=True)
class Reading:
    """What a server has counted, all at one moment.

    pid:         of who made the board: the supervisor, or a process that serves alone
    started_s:   when, as time.time() has it
    """

    pid: int
    started_s: float
    workers: tuple[WorkerReading, ...]
    past: Past

    def counters(self) -> Counters:
        """Of all workers, those that have ended included."""
        counters = self.past.counters
        for worker in self.workers:
            counters = counters.plus(worker.counters)
        return counters

    def series(self) -> dict[tuple[str, str], Series]:
        """Of all workers, those that have ended included, by method and route.

        From one Reading to the next none goes down; one may end when the past is full, and goes
        on among the other routes.
        """
        found = {(each.method, each.route): each for each in self.past.series}
        for worker in self.workers:
            for each in worker.series:
                key = (each.method, each.route)
                if self.past.full and key not in found:
                    key = OTHER_ROUTES
                known = found.get(key)
                found[key] = each if known is None else known.plus(each)
        return found


NO_ROUTE = ("other", "(no route)")
OTHER_ROUTES = ("other", "(other routes)")
