"""What the machine allows: open files, ports, and how fast it copies memory."""

import resource
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.growth.axes import Axis

SPARE_FILES = 128   # of a server and of a client besides connections: libraries, logs, its reserve
PORT_SHARE = 4      # of an address's ports one part is used: the others are of turns just ended


@dataclass(frozen=True)
class Copying:
    """Nanoseconds to copy so many bytes, within the caches and from memory to memory."""

    warm_ns: float
    cold_ns: float


def allow_files(wanted: int) -> int:
    """Raise the limit of open files of this process and its children; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    try:
        higher = max(wanted, hard) if hard != resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, soft), higher))
    except (ValueError, OSError):   # only root may raise the hard one, up to fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def within_files(axis: Axis, files: int) -> tuple[Axis, str]:
    """The axis of connections with the points that so many open files allow, and what was cut."""
    most = files - SPARE_FILES
    wanted = max(axis.points)
    if wanted <= most:
        return axis, ""
    points = tuple(sorted({min(point, most) for point in axis.points}))
    return replace(axis, points=points), (
        f"{wanted:,} connections wanted, {most:,} measured: "
        f"the limit of open files of this machine is {files:,}.")


def addresses(connections: int) -> int:
    """How many loopback addresses the client takes, so that there are ports for all."""
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    each = max(1, (int(high) - int(low) + 1) // PORT_SHARE)
    return -(-connections // each)


def copying(program: str, sizes: tuple[int, ...], core: int) -> dict[int, Copying]:
    """Measure memcpy of each size on a core; a size of 0 takes no time."""
    found = {0: Copying(0.0, 0.0)}
    done = subprocess.run(
        ["taskset", "-c", str(core), program, *(str(size) for size in sizes if size)],
        capture_output=True, text=True, check=True, timeout=120)
    for line in done.stdout.splitlines():
        size, warm, cold = line.split()
        found[int(size)] = Copying(float(warm), float(cold))
    return found
