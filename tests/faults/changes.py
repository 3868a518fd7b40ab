"""The rows of reloads, of workers that are added and taken away, and of what those leave behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fastserve.status import lines
from tests.faults.acts import Outcome, outcome, reload, scale
from tests.faults.judging import judge, load_of
from tests.faults.serving import FASTSERVE, ROOT, Serving, is_running, under_load, until
from tests.hostile.report import Report

NOBODY = "65534"
MOST_LINES = 40     # of an explanation


def l4(report: Report) -> None:
    """HUP after HUP: nothing fails, and there are never fewer workers."""
    for import_s, times in ((0, 100), (4, 100)) if report.full else ((0, 2), (2, 1)):
        report.count("an import takes, s", import_s)
        with Serving(mood=f"import {import_s}") as server:
            found = reload(server, times, load_of(report))
        judge_reloads(report, found, times)


def judge_reloads(report: Report, found: Outcome, times: int) -> None:
    """All are done, with all workers at every time."""
    done = found.notes["reloads"]
    report.require("reloads", done, done == f"{times} of {times}", "all")
    fewest = found.notes["fewest"]
    report.require("fewest workers", fewest, fewest >= 2, "2")
    judge(report, found, 0.05)


def l5(report: Report) -> None:
    """A reload that cannot be: the old workers serve on, and whoever asked is told."""
    boot_timeout_s = 2 if report.full else 8
    with Serving(FASTSERVE, "--boot-timeout-s", str(boot_timeout_s)) as server:
        old = server.workers()
        with under_load(server, load_of(report)) as watching:
            for mood in ("broken", "exit 9", "lifespan", "hang"):
                server.mood = mood
                failures = server.log.count("the reload failed")
                begun_s = time.monotonic()
                if mood == "exit 9":    # by signal, the others by the control socket
                    server.process.send_signal(signal.SIGHUP)
                else:
                    done = ctl(server, "reload")
                    report.require(f"`ctl reload`, {mood}", done.returncode, done.returncode == 1,
                                   "status 1")
                    report.count("it says", done.stderr.strip())
                until(lambda failures=failures: server.log.count("the reload failed") > failures)
                took_s = time.monotonic() - begun_s
                most_s = boot_timeout_s + (2 if report.full else 5)
                report.require(f"told after, s ({mood})", took_s, took_s <= most_s,
                               f"boot_timeout_s={boot_timeout_s}, and a client that starts")
            same = server.workers() == old
            report.require("the workers", "the old ones" if same else "others", same,
                           "the old ones")
            server.mood = ""
            done = ctl(server, "reload")
            report.require("`ctl reload`, mended", done.returncode, done.returncode == 0,
                           "status 0")
        judge(report, outcome(server, watching), 0.1)


def ctl(server: Serving, *words: str) -> subprocess.CompletedProcess[str]:
    """`fastserve ctl`."""
    return subprocess.run(
        [sys.executable, "-m", "fastserve", "ctl", "--control", server.control, *words],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def l6(report: Report) -> None:
    """Workers are added and taken away: nothing is lost."""
    again, dropped = handshakes_repeated(), packets_dropped()
    with Serving() as server:
        found = scale(server, 50 if report.full else 1, load_of(report))
    report.count("handshakes that clients of this machine repeated, each after 1 s",
                 handshakes_repeated() - again)
    report.count("packets that its kernel had no room for", packets_dropped() - dropped)
    done = found.notes["workers"]
    report.require("as many as were asked for", done, done == "all", "all")
    judge(report, found, 0.1)


def handshakes_repeated() -> int:
    """SYNs that were sent again, in this network namespace, so far."""
    lines = Path("/proc/net/netstat").read_text().splitlines()
    names, numbers = (line.split() for line in lines[:2])
    return int(numbers[names.index("TCPSynRetrans")])


def packets_dropped() -> int:
    """What came while net.core.netdev_max_backlog packets waited, whosever they were."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def l7(report: Report) -> None:
    """Another supervisor takes over, with a worker more, and one less again: nothing is lost."""
    upgrades(report)
    if report.full:
        reason = no_drop()
        if reason:
            report.skip(f"workers of another user: {reason}")
        else:
            report.count("the same, with workers of user", NOBODY)
            # the loop of the library: this Python may be root's alone, and uvloop unread yet
            upgrades(report, "--user", NOBODY, "--group", NOBODY, "--loop", "asyncio")


def no_drop() -> str:
    """Why no worker can become another user here; nothing if it can."""
    if os.geteuid():
        return "only root may"
    done = subprocess.run(
        ["test", "-r", str(ROOT / "tests" / "faults" / "app.py")],
        user=int(NOBODY), group=int(NOBODY), extra_groups=[], check=False)
    return "" if done.returncode == 0 else f"it may not read {ROOT}"


def upgrades(report: Report, *flags: str) -> None:
    """Upgrade after upgrade, and one that fails."""
    from_file = dataclasses.replace(
        FASTSERVE, command=FASTSERVE.command.replace("--workers {workers}", "--config {settings}"))
    with Serving(from_file, *flags) as server:
        with under_load(server, load_of(report)) as watching:
            for wanted in (3, 2) * (50 if report.full else 1):
                old = server.ask("status")["pid"]
                server.settings.write_text(f"workers = {wanted}\n")
                done = ctl(server, "upgrade")
                if done.returncode:
                    report.require(f"upgrade to {wanted}", done.stderr.strip(), False, "status 0")
                until(lambda old=old: not is_running(old))
                until(server.serves)
            serving = server.workers()
            server.mood = "broken"
            done = ctl(server, "upgrade")
            report.require("an upgrade to broken code", done.returncode, done.returncode == 1,
                           "status 1")
            report.count("it says", done.stderr.strip())
            same = server.workers() == serving
            report.require("the workers", "the old ones" if same else "others", same,
                           "the old ones")
        left = server.get("/environment").rpartition(b"\r\n")[2]
        report.require("variables that are left of it", left.decode(), left == b"[]", "none")
        last = server.ask("status")["pid"]
        report.require("the supervisor", "another", last != server.pid, "another")
        os.kill(last, signal.SIGTERM)
        until(lambda: not is_running(last))
        alive = [pid for pid in server.started() if is_running(pid)]
        report.require("workers after TERM", len(alive), not alive, "none")
    found = outcome(server, watching)
    least = 100_000 if report.full else 1000
    report.require("requests", found.seen.attempted, found.seen.attempted >= least,
                   f"at least {least}")
    judge(report, found, 0.1)


def l13(report: Report) -> None:
    """The supervisor as process 1 of a container: orphans that end do nothing, nor stay."""
    some = [] if report.full else ["-k", "strangers"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_pid_one.py",
         *some],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout.strip().splitlines()[-1]
    report.require("tests/test_pid_one.py", said, done.returncode == 0, "passed")


def l14(report: Report) -> None:
    """All workers are due at once, for each of the three reasons: one at a time, nothing lost."""
    seconds = report.seconds or (600 if report.full else 60)
    for flags in (("--max-requests", "1000"), ("--max-lifetime-s", "1.5"),
                  ("--max-rss-bytes", "60M")):
        replaced: set[int] = set()
        with Serving(FASTSERVE, *flags, workers=3) as server:
            most, fewest = 0, 3
            short: list[str] = []       # the state when fewer served than ever before
            with under_load(server, load_of(report)) as watching:
                begun_s = time.monotonic()
                grow_s = begun_s
                while len(replaced) < 5 or report.full:
                    if flags[0] == "--max-rss-bytes" and time.monotonic() >= grow_s:
                        server.get("/grow/6000000")
                        grow_s = time.monotonic() + 0.1
                    if time.monotonic() - begun_s > seconds:
                        break
                    status = server.ask("status")
                    slots = status["slots"]
                    changing = sum("successor" in slot for slot in slots)
                    most = max(most, changing + len(status["leaving"]))
                    serving = sum(slot["state"] == "serving" for slot in slots)
                    if serving < fewest:
                        fewest = serving
                        short += lines(status)
                    replaced |= {slot["pid"] for slot in slots if "pid" in slot}
                    time.sleep(0.02)
            hung = server.log.count("no turn of its loop")
            errors = [line for line in server.log.splitlines() if " ERROR " in line]
        count = len(replaced) - 3
        report.count("taken for hung", hung)
        for line in (short + errors)[:MOST_LINES]:
            report.count("why", line)
        report.require(f"replaced for {flags[0]}", count, count >= 2, "at least 2")
        report.require("at a time", most, most <= 1, "1")
        report.require("fewest that served", fewest, fewest == 3, "3")
        judge(report, outcome(server, watching), 0.1)


def l12(report: Report) -> None:
    """Reloads leave no descriptor, process or thread behind, and each worker has one listener."""
    reloads = 1000 if report.full else 5
    with Serving(FASTSERVE, "--backlog", "1234") as server:
        until(server.serves)
        before = descriptors(server.pid)
        for _ in range(reloads):
            assert server.ask("reload")["ok"]
        until(server.serves)
        threads = len(os.listdir(f"/proc/{server.pid}/task"))
        listening = [listeners(pid, server.port) for pid in server.workers()]
        backlogs = {queue for pid in server.workers() for queue in listening_queues(server.port)}
        pss, rss = memory(server.pid)
        cpu_s = cpu(server.pid)
        seconds = 30 if report.full else 3
        time.sleep(seconds)
        share = (cpu(server.pid) - cpu_s) / seconds
        after = descriptors(server.pid)
    report.require("descriptors", f"{before} before, {after} after", after == before, "as before")
    report.require("threads", threads, threads == 1, "1")
    report.require("listeners of each worker", listening, listening == [1, 1], "1")
    report.require("their backlog", sorted(backlogs), backlogs == {1234}, "1234")
    report.measure("PSS of the supervisor, MB", pss / 1e6, pss < 25e6, "at most 25")
    report.count("its RSS, MB", rss / 1e6)
    report.measure("its share of a core when idle", share, share < 0.004, "one tick of the clock")


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def listening_sockets(port: int) -> dict[str, int]:
    """Inode and backlog of each socket that listens on a port, as `ss -ltn` has them."""
    shown = subprocess.run(["ss", "-ltneH", f"sport = :{port}"], capture_output=True, text=True,
                           timeout=30, check=True).stdout
    found = {}
    for line in shown.splitlines():
        inode = line.partition(" ino:")[2].split()[0]
        found[inode] = int(line.split()[2])
    return found


def listening_queues(port: int) -> list[int]:
    """The backlogs of the sockets that listen on a port."""
    return list(listening_sockets(port).values())


def listeners(pid: int, port: int) -> int:
    """How many of them a process holds."""
    there = listening_sockets(port)
    held = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        target = os.readlink(entry.path)
        held += target.startswith("socket:[") and target[8:-1] in there
    return held


def memory(pid: int) -> tuple[int, int]:
    """PSS and RSS of a process, in bytes."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return sizes["Pss"], sizes["Rss"]


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
