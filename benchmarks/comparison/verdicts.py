"""The bars that are set for fastserve, and whether a comparison meets them.

A bar that is missed is said to be missed, and one that was not measured is not met. A latency is
above a peer's when even its best round is above the peer's worst one: a difference inside the
spread is no difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.comparison.figures import Figure, Record, is_ours, peers, ratio, rows
from benchmarks.comparison.turn import EQUAL
from benchmarks.servers import REFERENCE

USUAL = ("uvicorn-usual", "uvicorn")  # the first that was measured
CAREFUL = ("uvicorn-careful",)
# What must be cheaper than its careful row with the database, by the beginning of the name.
RIVALS = ("fastpysgi", "granian")
DATABASE_TESTS = ("db", "fortunes", "queries-20", "updates-20")
# Several rows in one request. 0.4 is for statements that travel together, which the suite allows
# only with a Sync behind each; asyncpg puts one behind all, so that every row is read on its own.
SEVERAL = 0.75


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
    found = [
        _costs(record, "db", CAREFUL, 0.85, "uvicorn's with the same careful pool", headline=True),
        _costs(record, "fortunes", CAREFUL, 0.85, "uvicorn's with the same careful pool",
               headline=True),
        _costs(record, "db", USUAL, 0.6, "uvicorn's as usual"),
        _costs(record, "fortunes", USUAL, 0.6, "uvicorn's as usual"),
        _costs(record, "queries-20", USUAL, SEVERAL, "uvicorn's as usual"),
        _costs(record, "updates-20", USUAL, SEVERAL, "uvicorn's as usual"),
    ]
    found += [_cheapest(record, test) for test in ("plaintext", "json")]
    found += _rivals(record)
    found += [_latency(record, test) for test, about in record["tests"].items()
              if about["depth"] == 1]
    return found


def _costs(
    record: Record, test: str, others: Sequence[str], limit: float, whom: str, *,
    headline: bool = False,
) -> Verdict:
    bar = f"CPU at most {limit:g} of {whom}"
    for other in others:
        if found := ratio(record, test, REFERENCE, other):
            return Verdict(test, bar, found.median <= limit, _spread(found), headline)
    return Verdict(test, bar, None, "", headline)


def _spread(figure: Figure) -> str:
    return f"{figure.median:.2f} ({figure.low:.2f}-{figure.high:.2f})"


def _cheapest(record: Record, test: str) -> Verdict:
    """Below every peer: the worst ratio decides."""
    return _below(record, test, peers(record, test), "CPU below every peer")


def _rivals(record: Record) -> Iterator[Verdict]:
    for rival in RIVALS:
        for test in DATABASE_TESTS:
            others = [peer for peer in peers(record, test)
                      if peer.startswith(rival) and not peer.endswith("-usual")]
            yield _below(record, test, others, f"CPU below {rival} with an equally careful pool")


def _below(record: Record, test: str, others: Sequence[str], bar: str) -> Verdict:
    found = [(figure, other) for other in others
             if (figure := ratio(record, test, REFERENCE, other))]
    if not found:
        return Verdict(test, bar, None, "")
    worst, other = max(found, key=lambda pair: pair[0].median)
    return Verdict(test, bar, worst.median < 1, f"{_spread(worst)} of {other}")


def _latency(record: Record, test: str) -> Verdict:
    """At the equal rate; p99.9 is judged where everybody had requests enough for one."""
    bar = "p99 and p99.9 at the equal rate not above any peer's"
    told = {row.entry: row.latency[EQUAL] for row in rows(record, test) if EQUAL in row.latency}
    ours = told.get(REFERENCE)
    table = {entry: latency for entry, latency in told.items() if not is_ours(entry)}
    if ours is None or not table:
        return Verdict(test, bar, None, "")
    judged = {"p99_us": "p99"}
    if all(latency.has_p999 for latency in (ours, *table.values())):
        judged["p999_us"] = "p99.9"
    found = [_beside(name, ours.percentiles[key], {
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
