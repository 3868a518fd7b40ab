"""Run rows: python -m tests.hostile ROW... [--full]; the status is 1 where one is not met."""

from __future__ import annotations

import argparse
import resource
import time

from tests.hostile import crowds, order, sizes, slow
from tests.hostile.report import Report

ROWS = {
    "S1": slow.s1, "S2": slow.s2, "S3": sizes.s3, "S9": sizes.s9, "S10": order.s10,
    "S16": crowds.s16, "G6": sizes.g6, "O1": crowds.o1, "O3": slow.o3, "O4": order.o4,
}


def main() -> int:
    """Read the arguments, run the rows."""
    about = "\n".join(
        f"{name:4} {(row.__doc__ or '').splitlines()[0]}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description="Attack a server and count.", epilog=about,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=[*ROWS, "all"], metavar="ROW")
    parser.add_argument("--full", action="store_true", help="at full size, with the defaults")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
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
