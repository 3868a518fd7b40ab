"""A systemd of its own: the one that is installed, as process 1 of namespaces, over this root.

It sees the whole file system read-only but for one directory, none of the machine's units, and a
cgroup of its own below ours; it shares the network, so that clients ask from outside. It ends with
the block. FAULTS_SYSTEMD names a directory with another systemd, as `dpkg -x` of its packages
leaves it, to be run in place of the installed one.

It takes root, the right to make namespaces, and a cgroup2 file system to write to; obstacle() says
what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.faults.serving import until

PROGRAM = "/lib/systemd/systemd"
TARGET = "faults.target"
NAMESPACES = ("--fork", "--pid", "--mount", "--cgroup", "--uts", "--ipc", "--kill-child")
BOOT_S, ORDER_S = 30.0, 120.0
# Arguments: the directory to be written, a mount point, the units, another systemd or nothing.
BOOT = r"""
set -e
home=$1; at=$2; units=$3; other=$4
mount --make-rprivate /
mount -t tmpfs root "$at"
mkdir "$at/root"; root=$at/root
mount --rbind / "$root"
mount -o remount,bind,ro "$root"
for place in sys proc dev; do umount -R -l "$root/$place"; done
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs cgroup "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
for name in null zero full random urandom tty; do
    : > "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"
mount --bind "$home" "$root$home"
mount --bind "$units" "$root/etc/systemd/system"
if [ -n "$other" ]; then
    find "$other/usr/lib" -maxdepth 2 -type d -path "*-linux-gnu/systemd" | while read -r found; do
        mount --bind "$found" "$root${found#"$other"}"
    done
    mount --bind "$other/lib/systemd" "$root/lib/systemd"
    mount --bind "$other/bin/systemctl" "$root/bin/systemctl"
fi
cd "$root"
pivot_root . mnt
umount -l mnt
exec env -i container=faults PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=faults.target --log-target=console --show-status=no
"""


def obstacle() -> str:
    """Why no systemd can be booted here; nothing if one can."""
    if os.geteuid():
        return "only root may make the namespaces for a systemd"
    for program in (PROGRAM, "unshare", "nsenter", "pivot_root"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not os.path.isdir("/etc/systemd/system"):
        return "/etc/systemd/system is missing"
    parent = own_cgroup()
    if parent is None:
        return "no cgroup2 file system is mounted"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode:
        return f"no namespaces for us: {tried.stderr.strip()}"
    try:
        probe = parent / f"faults-probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"no cgroup for us: {error.strerror}"
    return ""


def own_cgroup() -> Path | None:
    """The directory of our cgroup, in the unified hierarchy."""
    inside = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines()
                   if line.startswith("0::")), "/")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(where) / inside.lstrip("/")
    return None


class Manager:
    """The systemd that runs; a context manager.

    home:   a directory that its services may write to, by the same path
    units:  where their units are written
    """

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.units = self.home / "units"

    def __enter__(self) -> Manager:
        self.units.mkdir()
        (self.home / "root").mkdir()
        (self.units / TARGET).write_text("[Unit]\nDefaultDependencies=no\n")
        parent = own_cgroup()
        assert parent is not None
        self.cgroup = parent / f"faults-{os.getpid()}"
        self.cgroup.mkdir()
        enter = f'echo $$ > "{self.cgroup}/cgroup.procs"; exec "$@"'
        other = os.environ.get("FAULTS_SYSTEMD", "")
        with open(self.home / "boot", "wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", enter, "enter", "unshare", *NAMESPACES, "sh", "-c", BOOT, "boot",
                 str(self.home), str(self.home / "root"), str(self.units), other],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until(lambda: self.runs() or self.process.poll() is not None, BOOT_S)
            assert self.process.poll() is None, (self.home / "boot").read_text()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
            os.kill(self.pid, signal.SIGKILL)   # with which its namespace ends
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        for directory, _, _ in os.walk(self.cgroup, topdown=False):
            for _ in range(100):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
                    break
                time.sleep(0.05)    # the last of its processes are being buried

    @property
    def pid(self) -> int:
        """Process 1, by the number that it has outside. IndexError until there is one."""
        number = self.process.pid
        return int(Path(f"/proc/{number}/task/{number}/children").read_text().split()[0])

    def runs(self) -> bool:
        """Whether it takes orders."""
        with contextlib.suppress(IndexError, FileNotFoundError):
            return self.order("is-active", TARGET).stdout.strip() == "active"
        return False

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in its namespaces."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *words],
            capture_output=True, text=True, timeout=ORDER_S, check=False)

    def order(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`systemctl`."""
        return self.inside("systemctl", *words)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.order("show", "-P", name, unit).stdout.strip()

    def install(self, name: str, text: str) -> None:
        """Write a unit, new or other."""
        (self.units / name).write_text(text)
        self.order("daemon-reload")

    @property
    def version(self) -> int:
        """Of this systemd."""
        return int(self.inside(PROGRAM, "--version").stdout.split()[1])
