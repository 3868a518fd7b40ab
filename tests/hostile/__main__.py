"""Run rows: python -m tests.hostile ROW... [--full]; the status is 1 where one is not met."""

from __future__ import annotations

import resource

from tests.hostile import crowds, order, sizes, slow
from tests.hostile.report import run_rows

ROWS = {
    "S1": slow.s1, "S2": slow.s2, "S3": sizes.s3, "S9": sizes.s9, "S10": order.s10,
    "S16": crowds.s16, "G6": sizes.g6, "O1": crowds.o1, "O3": slow.o3, "O4": order.o4,
}


def main() -> int:
    """Run the rows that are asked for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return run_rows("python -m tests.hostile", "Attack a server and count.", ROWS)


if __name__ == "__main__":
    raise SystemExit(main())
