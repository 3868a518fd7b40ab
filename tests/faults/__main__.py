"""Run rows: python -m tests.faults ROW... [--full]; the status is 1 where one is not met."""

from __future__ import annotations

from tests.faults import rows
from tests.hostile.report import run_rows

ROWS = {
    "L1": rows.l1, "L2": rows.l2, "L3": rows.l3, "L4": rows.l4, "L6": rows.l6, "L8": rows.l8,
    "L12": rows.l12, "G4": rows.g4,
}


def main() -> int:
    """Run the rows that are asked for."""
    return run_rows("python -m tests.faults", "Break a server under load and count.", ROWS)


if __name__ == "__main__":
    raise SystemExit(main())
