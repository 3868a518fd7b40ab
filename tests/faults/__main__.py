"""Run rows: python -m tests.faults ROW... [--full]; the status is 1 where one is not met.

`table` and `peers` in place of a row are for table.py.
"""

from __future__ import annotations

import resource
import sys

from tests.faults import changes, crowds, ending, soak, sockets, table, under_systemd, workers
from tests.hostile.report import run_rows

ROWS = {
    "L1": workers.l1, "L2": workers.l2, "L3": workers.l3, "L4": changes.l4, "L5": changes.l5,
    "L6": changes.l6, "L7": changes.l7, "L8": ending.l8, "L9": workers.l9, "L10": workers.l10,
    "L11": crowds.l11, "L12": changes.l12, "L13": changes.l13, "L14": changes.l14,
    "L15": sockets.l15,
    "G1": ending.g1, "G2": ending.g2, "G3": ending.g3, "G4": ending.g4, "G5": ending.g5,
    "O2": crowds.o2, "O5": workers.o5, "F1": soak.f1, "F2": crowds.f2,
    "systemd": under_systemd.systemd,
}


def main() -> int:
    """Run the rows that are asked for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:2] in (["table"], ["peers"]):
        return table.main(sys.argv[2:], ours=sys.argv[1] == "table")
    return run_rows("python -m tests.faults", "Break a server under load and count.", ROWS)


if __name__ == "__main__":
    raise SystemExit(main())
