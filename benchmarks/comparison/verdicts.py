"""The bars that are set for fastserve, and whether a comparison meets them.

A bar that is missed is said to be missed, and one that was not measured is not met. A latency is
above a peer's when even its best round is above the peer's worst one: a difference inside the
spread is no difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.comparison.figures import Figure, Record, peers, ratio, rows
from benchmarks.comparison.turn import EQUAL
from benchmarks.servers import REFERENCE

PIPELINED, POLLING = f"{REFERENCE}-pipelined", f"{REFERENCE}-polling"
POLLING_PIPELINED = f"{POLLING}-pipelined"
# What a bar begins with, by whose it is.
WHOSE = {REFERENCE: "", PIPELINED: "Pipelined: ", POLLING: "Busy polling: ",
         POLLING_PIPELINED: "Busy polling, pipelined: "}
USUAL = ("uvicorn-usual", "uvicorn")  # the first that was measured
CAREFUL, CAREFUL_PIPELINED = ("uvicorn-careful",), ("uvicorn-pipelined",)
# What must be cheaper than its rows with the same pool, by the beginning of the name.
RIVALS = ("fastpysgi", "granian")
QUERIES = ("db", "fortunes", "queries-20", "updates-20")


@dataclass(frozen=True)
class Verdict:
    """What was asked of one test, and what came out.

    met: None where it was not measured
    """

    test: str
    bar: str
    met: bool | None
    result: str
    headline: bool = False

    @property
    def word(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def verdicts(record: Record) -> list[Verdict]:
    """All bars, the headline ones first."""
    found = [_costs(record, test, (ours, others), 0.85, f"uvicorn's {pool}", headline=True)
             for ours, others, pool in ((REFERENCE, CAREFUL, "with the same careful pool"),
                                        (PIPELINED, CAREFUL_PIPELINED, "with the same pool"))
             for test in ("db", "fortunes")]
    # Several rows in one request: the suite allows statements that travel together where a Sync
    # is behind each. The row that does not let them is held to the higher limit.
    limits = {"db": 0.6, "fortunes": 0.6, "queries-20": 0.75, "updates-20": 0.75}
    found += [_costs(record, test, (REFERENCE, USUAL), limit, "uvicorn's as usual")
              for test, limit in limits.items()]
    found += [_costs(record, test, (PIPELINED, USUAL), min(limit, 0.4 if "20" in test else 0.6),
                     "uvicorn's as usual") for test, limit in limits.items()]
    found += [_cheapest(record, test) for test in ("plaintext", "json")]
    found += _rivals(record)
    for test, about in record["tests"].items():
        if about["depth"] == 1:
            found += [_latency(record, test, ours, _alike(record, test, ours))
                      for ours in (REFERENCE, POLLING)]
        if test in QUERIES:
            found += [_latency(record, test, ours, peers(record, test))
                      for ours in (PIPELINED, POLLING_PIPELINED)]
    return found


def _alike(record: Record, test: str, ours: str) -> list[str]:
    """The peers that ask the database as one of our rows does: pipelined, or one by one."""
    return [peer for peer in peers(record, test)
            if peer.endswith("-pipelined") == ours.endswith("-pipelined")]


def _costs(
    record: Record, test: str, pair: tuple[str, Sequence[str]], limit: float, whose: str, *,
    headline: bool = False,
) -> Verdict:
    ours, others = pair
    bar = f"{WHOSE[ours]}CPU at most {limit:g} of {whose}"
    for other in others:
        if found := ratio(record, test, ours, other):
            return Verdict(test, bar, found.median <= limit, _spread(found), headline)
    return Verdict(test, bar, None, "", headline)


def _spread(figure: Figure) -> str:
    return f"{figure.median:.2f} ({figure.low:.2f}-{figure.high:.2f})"


def _cheapest(record: Record, test: str) -> Verdict:
    """Below every peer: the worst ratio decides."""
    return _below(record, test, REFERENCE, peers(record, test), "CPU below every peer's")


def _rivals(record: Record) -> Iterator[Verdict]:
    for rival in RIVALS:
        for ours in (REFERENCE, PIPELINED):
            for test in QUERIES:
                others = [peer for peer in _alike(record, test, ours)
                          if peer.startswith(rival) and not peer.endswith("-usual")]
                yield _below(record, test, ours, others, f"CPU below {rival}'s with an equal pool")


def _below(record: Record, test: str, ours: str, others: Sequence[str], bar: str) -> Verdict:
    found = [(figure, other) for other in others if (figure := ratio(record, test, ours, other))]
    if not found:
        return Verdict(test, WHOSE[ours] + bar, None, "")
    worst, other = max(found, key=lambda pair: pair[0].median)
    return Verdict(test, WHOSE[ours] + bar, worst.median < 1, f"{_spread(worst)} of {other}")


def _latency(record: Record, test: str, ours: str, others: Sequence[str]) -> Verdict:
    """At the equal rate; p99.9 is judged where everybody had requests enough for one."""
    bar = f"{WHOSE[ours]}p99 and p99.9 at the equal rate not above any peer's"
    told = {row.entry: row.latency[EQUAL] for row in rows(record, test) if EQUAL in row.latency}
    own = told.get(ours)
    table = {entry: latency for entry, latency in told.items() if entry in others}
    if own is None or not table or len(own.rate_per_s.values) < 2:
        return Verdict(test, bar, None, "")  # nor has one round a spread
    judged = {"p99_us": "p99"}
    if all(latency.has_p999 for latency in (own, *table.values())):
        judged["p999_us"] = "p99.9"
    found = [_beside(name, own.percentiles[key], {
        entry: latency.percentiles[key] for entry, latency in table.items()})
        for key, name in judged.items()]
    text = "; ".join(text for text, _ in found)
    if len(judged) == 1:
        text += "; too few requests for p99.9"
    return Verdict(test, bar, not any(better for _, better in found), text)


def _beside(name: str, ours: Figure, theirs: Mapping[str, Figure]) -> tuple[str, list[str]]:
    """In words, and who is better outside the spread."""
    best = min(figure.median for figure in theirs.values())
    better = [entry for entry, figure in theirs.items() if figure.high < ours.low]
    text = f"{name} {ours.median:,.0f} µs, best peer {best:,.0f}"
    if better:
        return f"{text} (above {', '.join(better)})", better
    return text + (" (inside the spread)" if ours.median > best else ""), better
