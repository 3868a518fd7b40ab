"""Which processors this process may use: its affinity, and the quota of its cgroup."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable() -> int:
    """Whole processors, at least one; a quota of 1.5 is two workers' worth."""
    count = len(allowed())
    most = quota()
    return count if most is None else min(count, max(1, int(most + 0.5)))


def allowed() -> list[int]:
    """The numbers of the processors that this process may run on."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:      # not Linux
        return list(range(os.cpu_count() or 1))


def explain() -> str:
    """How many there are, in words, and what keeps them few."""
    count, total, most = usable(), os.cpu_count() or 1, quota()
    text = f"{count} processors" if count > 1 else "1 processor"
    if most is not None and count < len(allowed()):
        return f"{text} (of {total}, by the cgroup's quota of {most:g})"
    return f"{text} (of {total}, by affinity)" if count < total else text


def pin(worker: int) -> None:
    """Keep this process on one of its processors, the next one for each worker (Linux)."""
    numbers = allowed()
    os.sched_setaffinity(0, {numbers[worker % len(numbers)]})


def quota(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The least quota on the way from our cgroup (version 2) to the root; None: there is none."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    paths = [line[3:] for line in lines if line.startswith("0::")]
    least = None
    for path in paths:
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            found = _quota_of(root.joinpath(*parts[:depth]) / "cpu.max")
            if found is not None and (least is None or found < least):
                least = found
    return least


def _quota_of(path: Path) -> float | None:
    try:
        allowed, period = path.read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        return None
