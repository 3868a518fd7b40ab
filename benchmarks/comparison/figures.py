"""From the turns of a comparison to its figures: medians over the rounds, and how they spread.

A ratio is taken between two entries in the same round and on the same test, then the median over
the rounds: what the host did to one it mostly did to the other.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.comparison.turn import ENOUGH, EQUAL, SHARES
from benchmarks.servers import FLOOR, REFERENCE

RATES = (EQUAL, *SHARES)
PERCENTILES = ("p50_us", "p99_us", "p999_us")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One quantity over the rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


@dataclass(frozen=True)
class Latency:
    """At one fixed rate.

    busy:     share of a core that the entry took at it, be it that it works or that it polls
    requests: how many were due, in all rounds
    late:     share of them that the client itself sent more than 1 ms late
    dropped:  of them; they count as latency, too
    """

    rate_per_s: Figure
    percentiles: Mapping[str, Figure]
    busy: float
    requests: int
    late: float
    dropped: int

    @property
    def has_p999(self) -> bool:
        """Whether p99.9 of a round is more than its slowest request, arrivals being random."""
        return self.requests >= 0.9 * ENOUGH * len(self.rate_per_s.values)


@dataclass(frozen=True)
class Row:
    """One entry on one test; `latency` by the name of the rate, empty where there is none."""

    entry: str
    cpu_us: Figure
    user_us: float
    system_us: float
    rps: float
    busy: float
    client_busy: float
    database_us: float
    base_bytes: float
    peak_bytes: float
    faults: int
    latency: Mapping[str, Latency] = field(default_factory=dict)


def turns_of(record: Record, test: str, entry: str) -> list[Mapping[str, Any]]:
    """Its turns, in the order of the rounds."""
    return [turn for turn in record["turns"]
            if turn["test"] == test and turn["entry"] == entry]


def entries_of(record: Record, test: str) -> list[str]:
    """Those that were measured on the test, the floor among them."""
    return list(dict.fromkeys(t["entry"] for t in record["turns"] if t["test"] == test))


def rows(record: Record, test: str) -> list[Row]:
    """The entries on a test, the one that costs least first, whoever it is."""
    found = [_row(entry, turns_of(record, test, entry)) for entry in entries_of(record, test)]
    return sorted(found, key=lambda row: row.cpu_us.median)


def ratio(record: Record, test: str, entry: str, reference: str) -> Figure | None:
    """CPU per request as a multiple of the reference's, round by round; None without both.

    Where the reference had several turns in a round, as the floor has, their mean counts.
    """
    theirs = _by_round(turns_of(record, test, reference))
    ours = _by_round(turns_of(record, test, entry))
    ratios = tuple(ours[number] / theirs[number] for number in ours if theirs.get(number))
    return Figure(ratios) if ratios else None


def is_usual(record: Record, entry: str) -> bool:
    """Whether a row is the peer as it usually is, beside a careful one of the same peer."""
    return entry.endswith("-usual") or f"{entry}-careful" in record["entries"]


def kind_of(record: Record, entry: str) -> str:
    """Which row of its peer it is: usual, pipelined, orm, careful; "" for the floor."""
    if entry == FLOOR:
        return ""
    if is_usual(record, entry):
        return "usual"
    _, _, last = entry.rpartition("-")
    return last if last in ("pipelined", "orm") else "careful"


def is_ours(entry: str) -> bool:
    """Whether it is fastserve's, with SQL by hand or with an ORM."""
    return entry == REFERENCE or entry.startswith(f"{REFERENCE}-")


def peers(record: Record, test: str) -> list[str]:
    """Everybody else on the test but the floor."""
    return [entry for entry in entries_of(record, test)
            if entry != FLOOR and not is_ours(entry)]


def _by_round(turns: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    grouped: dict[int, list[float]] = {}
    for turn in turns:
        grouped.setdefault(turn["round"], []).append(turn["cpu_us"])
    return {number: statistics.mean(values) for number, values in grouped.items()}


def _row(entry: str, turns: Sequence[Mapping[str, Any]]) -> Row:
    def middle(key: str) -> float:
        return float(statistics.median(turn[key] for turn in turns))

    paced = [turn["paced"] for turn in turns if turn.get("paced")]
    faults = sum(t["faults"] for t in turns) + sum(p["faults"] for t in paced for p in t.values())
    return Row(
        entry,
        Figure(tuple(turn["cpu_us"] for turn in turns)),
        middle("user_us"),
        middle("system_us"),
        middle("rps"),
        middle("server_busy"),
        middle("client_busy"),
        middle("database_us"),
        middle("base_bytes"),
        middle("peak_bytes"),
        faults,
        {name: _latency(phases) for name in RATES
         if (phases := [phase[name] for phase in paced if name in phase])},
    )


def _latency(phases: Sequence[Mapping[str, Any]]) -> Latency:
    requests = sum(phase["due"] for phase in phases)
    return Latency(
        Figure(tuple(phase["rate_per_s"] for phase in phases)),
        {name: Figure(tuple(phase[name] for phase in phases)) for name in PERCENTILES},
        statistics.median(phase["rate_per_s"] * phase["cpu_us"] / 1e6 for phase in phases),
        requests,
        sum(phase["late"] for phase in phases) / max(1, requests),
        sum(phase["dropped"] for phase in phases),
    )
