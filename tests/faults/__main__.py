"""Run rows: python -m tests.faults ROW... [--full]; the status is 1 where one is not met."""

from __future__ import annotations

import argparse
import time

from tests.faults import rows
from tests.hostile.report import Report

ROWS = {
    "L1": rows.l1, "L2": rows.l2, "L3": rows.l3, "L4": rows.l4, "L6": rows.l6, "L8": rows.l8,
    "L12": rows.l12, "G4": rows.g4,
}


def main() -> int:
    """Read the arguments, run the rows."""
    about = "\n".join(
        f"{name:4} {(row.__doc__ or '').splitlines()[0]}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Break a server under load and count.",
        epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=[*ROWS, "all"], metavar="ROW")
    parser.add_argument("--full", action="store_true", help="at full size")
    given = parser.parse_args()
    failed = 0
    for name in ROWS if "all" in given.rows else given.rows:
        begun = time.monotonic()
        report = Report(name, given.full)
        ROWS[name](report)
        failed += report.failed
        print(f"  ({time.monotonic() - begun:.1f} s)", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
