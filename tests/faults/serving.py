"""A server of any make, as processes: how it is started, who its workers are, how they are broken.

What is asked here of all makes alike goes by processes, signals, /proc and the events of
tests/faults/moods.py; nothing reads a log but where it says so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve import control
from tests.faults.load import MIXED, Address, Kind, Load, run
from tests.faults.seen import Ended, Seen, together
from tests.hostile.bystanders import elsewhere
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
START_S = 60.0
# of linux/netlink.h, linux/sock_diag.h and net/tcp_states.h
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP = 4, 20, 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
TIME_WAIT, LISTEN = 6, 10


@dataclass(frozen=True)
class Make:
    """How servers of one make are started.

    command:  {python}, {port} and {workers} are filled in, and {settings}, a file of settings
              that says how many workers
    python:   the interpreter that has it
    scales:   whether TTIN and TTOU change the number of its workers
    """

    name: str
    command: str
    python: str = sys.executable
    scales: bool = True


FASTSERVE = Make(
    "fastserve",
    "{python} -m fastserve run tests/faults/app.py --workers {workers} --port {port}"
    " --control {control}")


def until(condition: Callable[[], bool], timeout_s: float = 60) -> float:
    """Wait for a condition; how long it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > timeout_s:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.005)
    return time.monotonic() - begun


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that have not ended."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@dataclass(frozen=True)
class Kill:
    """A worker that was killed, and the clients whose connections it had accepted.

    after_s, before_s:  between which moments
    ports:              of the clients; None where the sockets have none, and the time must do
    """

    pid: int
    after_s: float
    before_s: float
    ports: frozenset[int] | None

    def explains(self, ended: Ended) -> bool:
        """Whether a request failed because its connection was the victim's."""
        in_time = ended.begun_s <= self.before_s + 0.05 \
            and self.after_s - 0.05 <= ended.ended_s <= self.before_s + 2
        broken = ended.how in ("reset", "eof", "stale")
        return broken and in_time and (self.ports is None or ended.port in self.ports)


def accepted(pid: int, address: Address) -> frozenset[int] | None:
    """The ports of the clients whose connections a process has accepted; let it stand still."""
    if isinstance(address, str):
        return None
    mine = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                mine.add(int(target[8:-1]))
    return frozenset(port for port, inode in connections(address[1]) if inode in mine)


def connections(port: int) -> Iterator[tuple[int, int]]:
    """The open connections to a port of ours: (port of the client, inode of our socket).

    The kernel is asked by netlink: /proc/net/tcp would list all that are waiting for their time
    to be over, too, which takes long while a worker stands still for it.
    """
    open_states = 0xFFF & ~(1 << TIME_WAIT | 1 << LISTEN)
    message = struct.pack("=IHHII", 72, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + struct.pack(
        "=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, open_states) + struct.pack(
        "!H", port) + bytes(46)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.sendto(message, (0, 0))
        while True:
            data = kernel.recv(262144)
            at = 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return
                (client,) = struct.unpack_from("!H", data, at + 22)
                (inode,) = struct.unpack_from("=I", data, at + 84)
                yield client, inode
                at += (length + 3) & ~3


class Serving:
    """A running server; a context manager that is left when nothing of it runs any more.

    flags:    for its command line
    unix:     the path of a unix socket, in place of a free port; fastserve's alone
    port:     0 is a free one
    mood:     of the application, see moods.py
    wait:     whether entering waits until all workers have started up
    """

    def __init__(
        self, make: Make = FASTSERVE, *flags: str, workers: int = 2, mood: str = "",
        unix: str | None = None, port: int = 0, wait: bool = True,
    ) -> None:
        self.make, self.flags, self.count = make, flags, workers
        self.first_mood, self.unix, self.port, self.wait = mood, unix, port, wait
        self.kills: list[Kill] = []

    def __enter__(self) -> Serving:
        self._home = tempfile.TemporaryDirectory(prefix="faults-")
        self.home = Path(self._home.name)
        (self.home / "events").touch()
        if "--user" in self.flags:      # who says there what happens
            os.chmod(self.home, 0o755)
            os.chmod(self.home / "events", 0o666)
        self.mood = self.first_mood
        self.control = str(self.home / "control")
        self.settings = self.home / "settings.toml"
        self.settings.write_text(f"workers = {self.count}\n")
        self.port = self.port or free_port()
        self.address: Address = self.unix or ("127.0.0.1", self.port)
        self.process = self.start()
        self.pid = self.process.pid
        try:
            if self.wait:
                until(lambda: len(self.workers()) >= self.count or not self.alive, START_S)
                until(self.answers, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> subprocess.Popen[bytes]:
        """Another process of the same command line."""
        words = self.make.command.format(
            python=self.make.python, port=self.port, workers=self.count,
            control=self.control, settings=self.settings).split()
        if self.unix is not None:
            words[words.index("--port"):words.index("--port") + 2] = ["--uds", self.unix]
        environ = dict(os.environ, FAULTS_DIR=str(self.home), PYTHONPATH=str(ROOT))
        with open(self.home / "log", "ab") as log:
            return subprocess.Popen(
                [*words, *self.flags], cwd=ROOT, env=environ, stdout=log, stderr=log,
                start_new_session=True)

    def __exit__(self, *_: object) -> None:
        everyone = {*self.started(), *self.of_its_session()}
        if self.alive:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.alive:
            self.process.kill()
        self.process.wait()
        for pid in everyone | set(self.of_its_session()):
            with contextlib.suppress(ProcessLookupError):
                if self.is_ours(pid):
                    os.kill(pid, signal.SIGKILL)
        self._home.cleanup()

    def of_its_session(self) -> list[int]:
        """Every process that it or its workers have started."""
        return [int(name) for name in os.listdir("/proc") if name.isdigit()
                and self.is_ours(int(name))]

    def is_ours(self, pid: int) -> bool:
        """Whether it is of the session that this server leads."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(fields[3]) == self.process.pid

    # What can be seen of it.

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    @property
    def mood(self) -> str:
        return (self.home / "mood").read_text()

    @mood.setter
    def mood(self, mood: str) -> None:
        new = self.home / "new"
        new.write_text(mood)
        new.rename(self.home / "mood")

    def events(self) -> list[tuple[str, int]]:
        """What its processes have said: (event, process), in order."""
        lines = (self.home / "events").read_text().splitlines()
        return [(line.partition(" ")[0], int(line.partition(" ")[2])) for line in lines]

    def started(self) -> list[int]:
        """The workers that have ever started up."""
        return [pid for event, pid in self.events() if event == "startup"]

    def workers(self) -> list[int]:
        """Those that run, and have not shut down; the oldest first."""
        done = {pid for event, pid in self.events() if event == "shutdown"}
        return [pid for pid in self.started() if pid not in done and is_running(pid)]

    def answers(self) -> bool:
        """Whether a request is answered."""
        return self.get("/echo/1").endswith(b"\r\n\r\n1")

    def get(self, path: str, timeout_s: float = 5) -> bytes:
        """What a request of its own is answered; nothing where that fails."""
        with contextlib.suppress(OSError), self.connect(timeout_s) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            received = b""
            while data := client.recv(65536):
                received += data
            return received
        return b""

    def connect(self, timeout_s: float = 30) -> socket.socket:
        """A connection to it."""
        if isinstance(self.address, str):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(timeout_s)
            client.connect(self.address)
            return client
        return socket.create_connection(self.address, timeout_s)

    def ask(self, command: str, **more: Any) -> dict[str, Any]:
        """What fastserve's control socket answers."""
        return control.ask(self.control, {"command": command, **more}, START_S)

    def serves(self) -> bool:
        """Whether every slot of fastserve is served, and nothing is under way."""
        status = self.ask("status")
        return status["state"] == "serving" and not status["leaving"] \
            and len(status["slots"]) == status["workers"] \
            and all(slot["state"] == "serving" for slot in status["slots"])

    # What is done to it.

    def kill(self, pid: int) -> Kill:
        """kill -9 of a worker, of which is then known whose connections it had."""
        os.kill(pid, signal.SIGSTOP)
        ports = accepted(pid, self.address)
        after_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        kill = Kill(pid, after_s, time.monotonic(), ports)
        self.kills.append(kill)
        return kill

    def replaced(self, old: list[int]) -> bool:
        """Whether there are as many workers as there should be, and none of the old."""
        now = self.workers()
        return len(now) >= self.count and not set(now) & set(old)

    def held_by(self, pid: int) -> frozenset[int]:
        """The ports of the clients that a worker, which stands still, has accepted."""
        return accepted(pid, self.address) or frozenset()


@dataclass
class Watching:
    """A load under way, and what it saw once it is over."""

    tally: dict[str, Seen] = field(default_factory=dict)

    @property
    def all(self) -> Seen:
        return together(self.tally.values())


@contextlib.contextmanager
def under_load(
    server: Serving, kinds: tuple[Kind, ...] = MIXED, lead_s: float = 0.4,
) -> Iterator[Watching]:
    """Clients in another process, from before the block until after it."""
    watching = Watching()
    stop = server.home / "stop"
    stop.unlink(missing_ok=True)
    with elsewhere() as start:
        result = start(run, Load(server.address, kinds, until=str(stop)))
        time.sleep(lead_s)
        try:
            yield watching
        finally:
            stop.touch()
            watching.tally = result.result(120)
