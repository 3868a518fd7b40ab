"""How a row tells what an act did, and what it requires of it."""

from __future__ import annotations

from tests.faults.acts import Outcome
from tests.faults.load import HEAVY, MIXED, Kind
from tests.faults.seen import told
from tests.hostile.report import Report


def load_of(report: Report) -> tuple[Kind, ...]:
    """The mixed load, at the size of the form."""
    return HEAVY if report.full and not report.light else MIXED


def judge(report: Report, found: Outcome, longest_s: float | None) -> None:
    """Nothing fails but what victims had, and nobody waits for longer; None: as long as need be."""
    report.count("requests", found.seen.told())
    failed = sum(found.by_class.values())
    report.require("failed, of all others" if found.victims else "failed", told(found.by_class),
                   failed == 0, "none")
    if found.victims:
        report.count("whose connections a victim had accepted", found.victims)
        report.count("stale, which may be asked again", found.stale)
    else:
        report.measure("stale, which may be asked again", found.stale, found.stale == 0, "none")
    report.count("longest waits, ms", {
        name: round(1000 * seconds) for name, seconds in found.longest.items()})
    if longest_s is not None:
        report.measure("longest wait, s", found.seen.longest_s, found.seen.longest_s <= longest_s,
                       f"at most {longest_s:g}")
