"""What a row found: counts by class, and requirements that are met or not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any


class Report:
    """Prints as it goes; `failed` counts the requirements that are not met.

    seconds:  how long a soak is to last; None for what the form says
    light:    other things run on this machine: less load, and speeds are told, not required
    """

    def __init__(
        self, row: str, full: bool, seconds: float | None = None, *, light: bool = False,
    ) -> None:
        self.full = full
        self.seconds = seconds
        self.light = light
        self.failed = 0
        form = "short form" if not full else "full, light load" if light else "full"
        print(f"{row} ({form})", flush=True)

    def count(self, what: str, value: Any) -> None:
        """Something to know."""
        print(f"  {what}: {shown(value)}", flush=True)

    def require(self, what: str, value: Any, met: bool, wanted: str) -> None:
        """Something that must be so."""
        self.failed += not met
        print(f"  {what}: {shown(value)}  [{wanted}] {'ok' if met else 'NOT MET'}", flush=True)

    def skip(self, reason: str) -> None:
        """The row cannot be run here."""
        print(f"  not run: {reason}", flush=True)

    def measure(self, what: str, value: Any, met: bool, wanted: str) -> None:
        """A speed or a share of the machine: required where the form is full, and not light."""
        counts = self.full and not self.light
        self.failed += counts and not met
        verdict = "ok" if met else "NOT MET" if counts else "not met (only counts in full)"
        print(f"  {what}: {shown(value)}  [{wanted}] {verdict}", flush=True)


def shown(value: Any) -> str:
    """Numbers in few digits, counters by class."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in sorted(value.items())) or "none"
    return str(value)


def run_rows(prog: str, description: str, rows: Mapping[str, Callable[[Report], None]]) -> int:
    """The command line of a suite: ROW... [--full]; 1 where a row is not met, else 0."""
    about = "\n".join(
        f"{name:4} {(row.__doc__ or '').splitlines()[0]}" for name, row in rows.items())
    parser = argparse.ArgumentParser(
        prog=prog, description=description, epilog=about,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=[*rows, "all"], metavar="ROW")
    parser.add_argument("--full", action="store_true", help="at full size, with the defaults")
    parser.add_argument("--light", action="store_true",
                        help="at full size under little load, for a machine that is not idle: "
                             "speeds are told, not required")
    parser.add_argument("--seconds", type=float, help="how long a soak lasts")
    given = parser.parse_args()
    failed = 0
    for name in rows if "all" in given.rows else given.rows:
        begun = time.monotonic()
        report = Report(name, given.full or given.light, given.seconds, light=given.light)
        rows[name](report)
        failed += report.failed
        print(f"  ({time.monotonic() - begun:.1f} s)", flush=True)
    return int(failed > 0)
