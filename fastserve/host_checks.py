"""What a machine allows a server: each check compares one fact of it with the settings.

A check takes (config, machine) and yields Findings, at least one; it changes nothing, and opens
at most a scratch socket of its own. Facts are read below `Machine.root`, so that a test can make
them up. A fact that cannot be read is no fault: what is not Linux has none of these files.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastserve import cpus, steering
from fastserve.config import Config
from fastserve.descriptors import RESERVE

OK, NOTE, WARN, ERROR = LEVELS = ("ok", "note", "warn", "error")
TRIED = ((3, 10), (3, 13))
FAST_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv")
THROTTLED_SHARE = 0.01      # of the periods: less is a start-up, or a backup
MEMORY_SHARE = 0.8
FEW_PORTS = 20_000
DAY_S = 86_400


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    level:  "ok", "note" (it may be meant), "warn", "error" (it will not work)
    name:   of what
    found:  the value, and what is wrong with it
    mend:   a command or a setting
    """

    level: str
    name: str
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Machine:
    """Where facts are read; a test gives its own."""

    root: Path = Path("/")
    processors: int = field(default_factory=lambda: len(cpus.allowed()))
    open_files: int = field(
        default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1])    # the hard limit
    uid: int = field(default_factory=os.geteuid)
    rss_bytes: int = 0      # of a process that has imported the application; 0: not known

    def text(self, path: str) -> str | None:
        """What a file holds; None where it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The number that a file holds."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def cgroups(self) -> list[str]:
        """The directories of our cgroup (version 2) and those above it, nearest first."""
        lines = (self.text("/proc/self/cgroup") or "").splitlines()
        inside = next((line[3:] for line in lines if line.startswith("0::")), None)
        if inside is None:
            return []
        parts = [part for part in inside.split("/") if part and part != ".."]
        return ["/".join(("/sys/fs/cgroup", *parts[:depth])) for depth in range(len(parts), -1, -1)]

    def quota(self) -> float | None:
        """How many processors the cgroup may use."""
        return cpus.quota(self.root / "sys/fs/cgroup", self.root / "proc/self/cgroup")


Check = Callable[[Config, Machine], Iterator[Finding]]


def workers_of(config: Config, machine: Machine) -> int:
    """How many processes will serve."""
    if config.workers == "auto":
        quota = machine.quota()
        allowed = machine.processors if quota is None else max(1, int(quota + 0.5))
        return min(machine.processors, allowed)
    return int(config.workers or 1)


# --- sockets -----------------------------------------------------------------------------


def backlog(config: Config, machine: Machine) -> Iterator[Finding]:
    """The kernel cuts a backlog to somaxconn without a word."""
    most = machine.number("/proc/sys/net/core/somaxconn")
    if most is not None and most < config.backlog:
        yield Finding(WARN, "backlog", f"the kernel holds {most} connections at most, "
                      f"backlog={config.backlog}", f"sysctl -w net.core.somaxconn={config.backlog}")
    else:
        yield Finding(OK, "backlog", f"backlog={config.backlog}, somaxconn is {most}")


def overflow(config: Config, machine: Machine) -> Iterator[Finding]:
    """What a full queue does to the next client."""
    if machine.number("/proc/sys/net/ipv4/tcp_abort_on_overflow"):
        yield Finding(WARN, "overflow", "tcp_abort_on_overflow is 1: a burst that fills the queue "
                      "is reset, instead of tried again",
                      "sysctl -w net.ipv4.tcp_abort_on_overflow=0")
    else:
        yield Finding(OK, "overflow", "a full queue lets clients try again")


def local_ports(config: Config, machine: Machine) -> Iterator[Finding]:
    """A proxy on this machine takes a local port for each connection to us."""
    text = machine.text("/proc/sys/net/ipv4/ip_local_port_range")
    if config.behind is None or config.uds is not None or text is None:
        yield Finding(OK, "local ports", "no proxy on this machine needs many")
        return
    low, high = (int(one) for one in text.split())
    if high - low < FEW_PORTS:
        yield Finding(NOTE, "local ports", f"{low} to {high}: a proxy on this machine has at most "
                      f"{high - low + 1} connections to this server, those in TIME_WAIT among them",
                      "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or listen by --uds")
    else:
        yield Finding(OK, "local ports", f"{low} to {high}")


def spreading(config: Config, machine: Machine) -> Iterator[Finding]:
    """Whether each worker can have its own queue, and the kernel draws among them."""
    if workers_of(config, machine) < 2:
        yield Finding(OK, "spreading", "one process serves")
    elif sys.platform != "linux" or not hasattr(socket, "SO_REUSEPORT"):
        yield Finding(NOTE, "spreading", "workers share one socket on this system: whoever is "
                      "quickest accepts")
    elif not _steers():
        yield Finding(WARN, "spreading", "this kernel takes no program for SO_REUSEPORT (gVisor, "
                      "WSL 1 and old ones do not): its hash spreads connections, unevenly for "
                      "few long ones, and a worker that hangs is sent its share",
                      "run on Linux 4.6 or newer")
    else:
        yield Finding(OK, "spreading", "the kernel draws a worker for each connection")


def _steers() -> bool:
    with socket.socket() as scratch:    # bound to nothing: no group but its own
        scratch.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return steering.steer(scratch, [0])


# --- limits of the kernel ----------------------------------------------------------------


def open_files(config: Config, machine: Machine) -> Iterator[Finding]:
    """Each connection is an open file of its worker."""
    limit = machine.open_files
    bounded = limit != resource.RLIM_INFINITY
    wanted = config.max_connections
    if wanted is not None and bounded and limit < wanted + RESERVE:
        yield Finding(WARN, "open files", f"the limit of {limit} allows {max(1, limit - RESERVE)} "
                      f"connections, max_connections={wanted}",
                      f"ulimit -n {wanted + RESERVE}, or LimitNOFILE={wanted + RESERVE}")
    elif bounded and limit < 4096:
        yield Finding(WARN, "open files", f"the hard limit of {limit} allows only "
                      f"{max(1, limit - RESERVE)} connections for each worker",
                      "ulimit -Hn 65536, or LimitNOFILE=65536")
    else:
        yield Finding(OK, "open files", f"{limit if bounded else 'any number'} for each worker")


def all_open_files(config: Config, machine: Machine) -> Iterator[Finding]:
    """All workers together, against what the machine has."""
    most = machine.number("/proc/sys/fs/file-max")
    wanted = workers_of(config, machine) * (config.max_connections or 0)
    if most is not None and wanted > most:
        yield Finding(WARN, "open files of all", f"the machine allows {most}, and the workers may "
                      f"have {wanted} connections", f"sysctl -w fs.file-max={2 * wanted}")
    else:
        yield Finding(OK, "open files of all", f"the machine allows {most}")


def processors(config: Config, machine: Machine) -> Iterator[Finding]:
    """More workers than processors take turns."""
    count, quota = workers_of(config, machine), machine.quota()
    allowed = machine.processors if quota is None else min(machine.processors, quota)
    shown = f"{count} workers, {allowed:g} processors"
    if count > allowed + 0.5:
        why = "of this cgroup's quota" if quota is not None and quota == allowed else "usable here"
        yield Finding(WARN, "processors", f"{shown} {why}: they take turns, and all stop when "
                      "a quota is used up", "--workers auto")
    elif config.workers is None and allowed >= 2:
        yield Finding(NOTE, "processors", f"one process serves, of {allowed:g} processors",
                      "--workers auto")
    else:
        yield Finding(OK, "processors", shown)


def busy_polling(config: Config, machine: Machine) -> Iterator[Finding]:
    """A loop that looks for work uses a processor, which must be there for it."""
    if config.busy_poll_us == 0:
        return
    count, quota = workers_of(config, machine), machine.quota()
    shown = f"{count} workers look for work for {config.busy_poll_us} us before they sleep"
    if count > machine.processors:
        yield Finding(WARN, "busy polling", f"{shown}, on {machine.processors} processors: "
                      "one looks where another has work", "--workers auto, or --busy-poll-us 0")
    elif quota is not None:
        yield Finding(WARN, "busy polling", f"{shown}, which the cgroup's quota of {quota:g} "
                      "processors pays for", "lift the quota (cpu.max, CPUQuota=, limits.cpu), or "
                      "--busy-poll-us 0")
    else:
        yield Finding(OK, "busy polling", shown)


def throttling(config: Config, machine: Machine) -> Iterator[Finding]:
    """How often the kernel has stopped the cgroup for its quota."""
    for directory in machine.cgroups():
        lines = (machine.text(f"{directory}/cpu.stat") or "").splitlines()
        counts = dict(line.split() for line in lines if len(line.split()) == 2)
        periods, stopped = (int(counts.get(name, 0)) for name in ("nr_periods", "nr_throttled"))
        if stopped > THROTTLED_SHARE * periods:
            yield Finding(WARN, "throttling", f"the processors' quota of {directory} was used up "
                          f"in {stopped} of {periods} periods: all requests waited",
                          "raise the quota (cpu.max, CPUQuota=, limits.cpu), or have fewer workers")
            return
    yield Finding(OK, "throttling", "no quota has been used up")


def memory(config: Config, machine: Machine) -> Iterator[Finding]:
    """What the workers need at least, against what the cgroup allows."""
    limits = [machine.number(f"{directory}/memory.max") for directory in machine.cgroups()]
    limit = min((one for one in limits if one is not None), default=None)
    count = workers_of(config, machine)
    if limit is None:
        yield Finding(OK, "memory", "the cgroup has no limit")
        return
    needed = count * machine.rss_bytes
    shown = f"{_mib(limit)} for {count} workers"
    if needed > MEMORY_SHARE * limit:
        yield Finding(WARN, "memory", f"{shown}: each has {_mib(machine.rss_bytes)} before the "
                      "first request, and the kernel kills where it runs out",
                      "fewer workers, --preload, or a higher limit (memory.max, MemoryMax=, "
                      "limits.memory)")
    elif not machine.rss_bytes:
        yield Finding(OK, "memory", f"{shown}; what each needs is known with MODULE:APP")
    else:
        yield Finding(OK, "memory", f"{shown} of {_mib(machine.rss_bytes)} at the start")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def clock(config: Config, machine: Machine) -> Iterator[Finding]:
    """A clock that user space cannot read costs a system call for each look."""
    directory = "/sys/devices/system/clocksource/clocksource0"
    source = machine.text(f"{directory}/current_clocksource")
    if source is None or source.startswith(FAST_CLOCKS):
        yield Finding(OK, "clock", source or "not known")
        return
    others = (machine.text(f"{directory}/available_clocksource") or "").split()
    better = next((one for one in others if one.startswith(FAST_CLOCKS)), None)
    yield Finding(WARN, "clock", f"{source}: reading it is a system call, several a request",
                  f"echo {better} > {directory}/current_clocksource" if better else
                  "this machine offers no other")


# --- who and with what -------------------------------------------------------------------


def user(config: Config, machine: Machine) -> Iterator[Finding]:
    """Whoever breaks into a handler has the rights of its process."""
    if machine.uid == 0 and config.user is None:
        yield Finding(WARN, "user", "the workers run as root", "--user NAME --workers N, or "
                      "start as another user, below port 1024 with CAP_NET_BIND_SERVICE")
    elif machine.uid == 0:
        yield Finding(OK, "user", f"the workers become {config.user}")
    else:
        yield Finding(OK, "user", f"number {machine.uid}")


def python_build(config: Config, machine: Machine) -> Iterator[Finding]:
    """How the interpreter was built, and whether this was tried with it."""
    version = ".".join(map(str, sys.version_info[:3]))
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    maps = machine.text("/proc/self/maps")
    if "--enable-shared" in arguments and maps is not None and "libpython" not in maps:
        arguments = ""      # Debian's: the record is of the libpython that lies beside it
    yield from judge_python(version, arguments, debug=bool(sysconfig.get_config_var("Py_DEBUG")))


def judge_python(version: str, arguments: str, *, debug: bool) -> Iterator[Finding]:
    """What to say about an interpreter built with these arguments of configure."""
    number = tuple(map(int, version.split(".")[:2]))
    if debug:
        yield Finding(WARN, "Python", f"{version}, a debug build: several times slower",
                      "take a release build")
    elif arguments and "--enable-optimizations" not in arguments:
        yield Finding(NOTE, "Python", f"{version}, built without profile-guided optimization: "
                      "handlers run a tenth slower or more",
                      "build it with --enable-optimizations --with-lto, or take a distribution's")
    elif number > TRIED[1]:
        yield Finding(NOTE, "Python", f"{version} is newer than what this was tried with: async "
                      "handlers run as asyncio's tasks", "take 3.13")
    else:
        yield Finding(OK, "Python", version)


def python_mode(config: Config, machine: Machine) -> Iterator[Finding]:
    """Development mode costs speed, and runs handlers in another way."""
    if sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG"):
        yield Finding(WARN, "Python mode", "development mode: slow, and handlers run as asyncio's "
                      "tasks", "leave out -X dev, PYTHONDEVMODE and PYTHONASYNCIODEBUG")
    else:
        yield Finding(OK, "Python mode", "normal")


MACHINE_CHECKS: tuple[Check, ...] = (
    backlog, overflow, local_ports, spreading, open_files, all_open_files, processors,
    busy_polling, throttling, memory, clock, user, python_build, python_mode)


def holder_of(port: int, machine: Machine) -> str | None:
    """Who listens on a TCP port of this machine: "pid 12 (nginx -g ...)"; None: not to be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (machine.text(f"/proc/net/{table}") or "").splitlines()[1:]:
            cells = line.split()
            if int(cells[1].rpartition(":")[2], 16) == port and cells[3] == "0A":
                inodes.add(f"socket:[{cells[9]}]")
    for process in sorted(machine.root.glob("proc/[0-9]*"), key=lambda one: int(one.name)):
        with contextlib.suppress(OSError):
            if any(os.readlink(one) in inodes for one in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                return f"pid {process.name} ({ascii(command)[1:-1]})"
    return None
