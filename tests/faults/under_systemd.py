"""The row of a real systemd: what it does to a service of ours, under load.

The unit is examples/systemd/fastserve.service with this application in it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import serving
from tests.faults.acts import Outcome, outcome
from tests.faults.judging import load_of
from tests.faults.load import Kind
from tests.faults.manager import Manager, obstacle
from tests.faults.seen import told
from tests.faults.serving import ROOT, START_S, Serving, until
from tests.hostile.report import Report
from tests.ports import free_port

EXAMPLE = ROOT / "examples" / "systemd" / "fastserve.service"
HARDENED = ("ProtectSystem", "ProtectHome", "PrivateTmp")   # where this checkout may be
STORE_SINCE = 254
WATCHDOG_S = 2


def systemd(report: Report) -> None:
    """A real systemd starts, reloads, upgrades, watches, restarts and stops a service of ours."""
    reason = obstacle()
    if reason:
        report.skip(reason)
        return
    with tempfile.TemporaryDirectory(prefix="faults-") as home, Manager(Path(home)) as manager:
        report.count("systemd", manager.version)
        started_and_changed(report, manager)
        restarted(report, manager, "a socket unit", "activated")
        if manager.version >= STORE_SINCE:
            restarted(report, manager, "kept sockets", "kept")
        else:
            report.count("kept sockets", f"not run: they take systemd {STORE_SINCE}")
        watched(report, manager)


class Service(Serving):
    """A unit with our application, as systemd runs it; stopped at the end of the block.

    name:  of the unit
    flags: of the command line, beside those that it always has
    """

    def __init__(self, manager: Manager, name: str, *flags: str, mood: str = "") -> None:
        super().__init__(port=free_port(), mood=mood)
        self.manager, self.name, self.words = manager, f"{name}.service", flags

    def __enter__(self) -> Service:
        self.home = self.manager.home / self.name
        self.home.mkdir()
        (self.home / "events").touch()
        (self.home / "log").touch()
        self.mood = self.first_mood
        self.control = str(self.home / "control")
        self.address = ("127.0.0.1", self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.order("stop", self.name)

    def install(self, *words: str, socket: str = "", **changes: str) -> None:
        """Write its unit, and that of its socket, if it has one."""
        command = (f"{sys.executable} -m fastserve run tests/faults/app.py --workers {self.count} "
                   f"--control {self.control} {' '.join(words)}")
        output = f"append:{self.home}/log"
        changes = {"ExecStart": command, "WorkingDirectory": str(ROOT), "StandardOutput": output,
                   "StandardError": output, **dict.fromkeys(HARDENED, ""), **changes}
        lines = []
        for line in EXAMPLE.read_text().splitlines():
            key = line.partition("=")[0]
            value = changes.pop(key, None)
            lines += [line] if value is None else [f"{key}={value}"] if value else []
            if line == "[Service]":
                lines += [f"Environment=FAULTS_DIR={self.home} PYTHONPATH={ROOT}"]
                lines += [f"{name}={changes.pop(name)}" for name in list(changes)
                          if f"\n{name}=" not in EXAMPLE.read_text()]
        text = "\n".join(lines).replace("[Unit]", "[Unit]\nDefaultDependencies=no", 1)
        if socket:
            self.manager.install(f"{self.name.partition('.')[0]}.socket", socket)
        self.manager.install(self.name, text)

    def order(self, word: str, *words: str) -> int:
        """`systemctl WORD ... UNIT`; its status."""
        return self.manager.order(word, *words, self.name).returncode

    def show(self, name: str) -> str:
        """A property."""
        return self.manager.show(self.name, name)

    def serves_anew(self, before: int) -> bool:
        """Whether as many have started up since as there should be, and all is quiet."""
        if len(self.started()) < before + self.count:
            return False
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return self.serves()
        return False


def judge(report: Report, what: str, found: Outcome) -> None:
    """Nothing fails; what was stale may be asked again."""
    report.count(f"{what}: requests", found.seen.told())
    failed = sum(found.by_class.values())
    report.require(f"{what}: failed", told(found.by_class), failed == 0, "none")
    report.count(f"{what}: longest wait, s", found.seen.longest_s)


def started_and_changed(report: Report, manager: Manager) -> None:
    """Start, reload, a reload that fails, upgrade, stop."""
    times = 20 if report.full else 2
    with Service(manager, "plain", mood="start 1") as server:
        server.install("--port", str(server.port), "--graceful-timeout-s", "5",
                       WatchdogSec=str(WATCHDOG_S), FileDescriptorStoreMax="0")
        server.order("start", "--no-block")
        until(lambda: server.show("ActiveState") == "activating", START_S)
        early = 0
        while server.show("ActiveState") == "activating":
            early = len(server.started())
        begun = len(server.started())
        state = server.show("ActiveState")
        report.require("started", state, state == "active", "active")
        report.require("workers that had started up by then", begun, begun == server.count,
                       str(server.count))
        report.count("of those, while it was still starting", early)
        says = server.show("StatusText")
        report.require("its status", says, says == "serving: 2 of 2 workers", "2 of 2")
        server.mood = ""
        with under_load(server, report) as found:
            for _ in range(times):
                before = len(server.started())
                assert server.order("reload") == 0
                until(lambda before=before: server.serves_anew(before), START_S)
            until(lambda: server.show("StatusText") == "serving: 2 of 2 workers", START_S)
            server.mood = "broken"
            server.order("reload")
            until(lambda: "the reload failed" in server.log, START_S)
            until(lambda: server.show("ActiveState") == "active", START_S)
            until(server.serves, START_S)
            server.mood = ""
            for _ in range(times):
                upgrade(server)
        report.count("reloads, and upgrades", times)
        judge(report, "reloads and upgrades", found[0])
        restarts = server.show("NRestarts")
        report.require("restarts by systemd", restarts, restarts == "0", "none")
        stopped(report, server)


def upgrade(server: Service) -> None:
    """USR2, until the old supervisor has gone."""
    before, pid = len(server.started()), server.show("MainPID")
    server.order("kill", "--kill-who=main", "--signal=USR2")
    until(lambda: server.show("MainPID") != pid, START_S)
    until(lambda: server.serves_anew(before), START_S)
    until(lambda: processes(server) == server.count + 1, START_S)


def processes(server: Service) -> int:
    """How many there are in its cgroup."""
    listed = server.manager.inside("cat", f"/sys/fs/cgroup{server.show('ControlGroup')}"
                                   "/cgroup.procs").stdout
    return len(listed.split())


def stopped(report: Report, server: Service) -> None:
    """`systemctl stop` under load: what is under way is answered, and the status is 0."""
    with under_load(server, report) as found:
        begun_s = time.monotonic()
        status = server.order("stop")
        took_s = time.monotonic() - begun_s
    slow = [ended for ended in found[0].unexplained if ended.took_s > 0.5]
    report.require("stop: requests under way that were lost", len(slow), not slow, "none")
    report.require("stop: `systemctl` says", status, status == 0, "0")
    report.require("stop: took, s", took_s, took_s <= 7, "graceful_timeout_s=5, and 2")
    ends = f"{server.show('Result')}, {server.show('ExecMainStatus')}"
    report.require("stop: result and status", ends, ends == "success, 0", "success, 0")


def restarted(report: Report, manager: Manager, what: str, name: str) -> None:
    """`systemctl restart` under load, where systemd holds the listening sockets."""
    times = 20 if report.full else 2
    with Service(manager, name) as server:
        flags = ("--graceful-timeout-s", "5")
        if name == "activated":
            server.install(*flags, FileDescriptorStoreMax="0", socket=(
                "[Unit]\nDefaultDependencies=no\n"
                f"[Socket]\nListenStream=127.0.0.1:{server.port}\nBacklog=2048\n"))
            assert manager.order("start", f"{name}.socket").returncode == 0
            idle = server.show("ActiveState")
            report.require(f"{what}: before the first client", idle, idle == "inactive",
                           "inactive")
        else:
            server.install(*flags, "--port", str(server.port))
            server.order("start")
        until(server.answers, START_S)
        until(lambda: server.serves_anew(0), START_S)
        with under_load(server, report) as found:
            for _ in range(times):
                before, pid = len(server.started()), server.show("MainPID")
                assert server.order("restart") == 0
                until(lambda before=before: server.serves_anew(before), START_S)
                assert server.show("MainPID") != pid
        report.count(f"{what}: restarts", times)
        judge(report, what, found[0])
        if name == "activated":
            manager.order("stop", f"{name}.socket")


def watched(report: Report, manager: Manager) -> None:
    """The supervisor stands still, then every worker: systemd starts the service again."""
    stores = manager.version >= STORE_SINCE
    with Service(manager, "watched") as server:
        server.install("--port", str(server.port), WatchdogSec=str(WATCHDOG_S), Restart="always",
                       RestartSec="100ms")
        assert server.order("start") == 0
        until(lambda: server.serves_anew(0), START_S)
        clients = (Kind("new", 8, 100),)
        with watching(server, clients) as found:
            for number, who in enumerate(("the supervisor", "every worker"), 1):
                before = len(server.started())
                if who == "the supervisor":
                    server.order("kill", "--kill-who=main", "--signal=STOP")
                else:
                    pids = [str(slot["pid"]) for slot in server.ask("status")["slots"]]
                    manager.inside("kill", "-STOP", *pids)
                begun_s = time.monotonic()
                until(lambda number=number: server.show("NRestarts") == str(number), START_S)
                until(lambda before=before: server.serves_anew(before), START_S)
                took_s = time.monotonic() - begun_s
                most_s = 2 * WATCHDOG_S + 5
                report.require(f"{who} stands still: serves again after, s", took_s,
                               took_s <= most_s, f"WatchdogSec={WATCHDOG_S}, and a start")
    refused = found[0].seen.by_class["refused"]
    report.count("meanwhile", found[0].seen.told())
    if stores:
        report.require("refused, where systemd keeps the sockets", refused, not refused, "none")


@contextlib.contextmanager
def under_load(server: Service, report: Report) -> Iterator[list[Outcome]]:
    """The mixed load; what came of it, once it is over."""
    with watching(server, load_of(report)) as found:
        yield found


@contextlib.contextmanager
def watching(server: Service, kinds: tuple[Kind, ...]) -> Iterator[list[Outcome]]:
    """Some clients."""
    found: list[Outcome] = []
    with serving.under_load(server, kinds) as seen:
        yield found
    found.append(outcome(server, seen))
