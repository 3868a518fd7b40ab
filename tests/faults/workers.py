"""The rows of workers that die, stand still, or never start."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import time

from tests.faults.acts import SETTLE_S, answer, kill_workers, outcome, send, stop_a_worker
from tests.faults.judging import judge, load_of
from tests.faults.serving import FASTSERVE, Kill, Serving, is_running, under_load, until
from tests.hostile.report import Report


def l1(report: Report) -> None:
    """kill -9 of a worker with connections in its queue: none is lost."""
    with Serving() as server:
        victim = server.workers()[0]
        os.kill(victim, signal.SIGSTOP)
        clients = [server.connect() for _ in range(200)]
        for number, client in enumerate(clients):
            send(client, f"/echo/{number}", close=True)
        held = len(server.held_by(victim))
        os.kill(victim, signal.SIGKILL)
        answered = 0
        for number, client in enumerate(clients):
            with contextlib.suppress(OSError):
                answered += answer(client).endswith(b"\r\n\r\n%d" % number)
            client.close()
    report.count("accepted by the victim, which stood still", held)
    report.require("answered of 200", answered, answered == 200, "all")


def l2(report: Report) -> None:
    """kill -9 of workers under load: what fails is what the victims had accepted."""
    for import_s, times in ((0, 100), (4, 100)) if report.full else ((0, 3), (2, 1)):
        report.count("an import takes, s", import_s)
        with Serving(mood=f"import {import_s}") as server:
            found = kill_workers(server, times, load_of(report))
        kills = found.notes["kills"]
        report.require("kills", kills, kills == times, str(times))
        report.require("workers", found.notes["workers"], found.notes["workers"] == "all", "all")
        judge(report, found, 0.1)
        report.require("refused", found.seen.by_class["refused"],
                       not found.seen.by_class["refused"], "none")


def l3(report: Report) -> None:
    """A worker that stands still: its queue is taken over, and it gets its slot back."""
    with Serving() as server:
        found = stop_a_worker(server, 10 if report.full else 1, load_of(report))
        back = server.log.count("turns again")
        alive = len(server.workers())
    judge(report, found, None)
    waited_s = found.notes["others_waited_s"]
    report.require("the others waited, s", waited_s, waited_s <= (1.5 if report.full else 3),
                   "at most 1.5, with slack in the short form")
    report.require("back in its slot", back, back >= 1, "at least once")
    report.require("workers", alive, alive == 2, "2")
    l3_hard(report)


def l3_hard(report: Report) -> None:
    """One whose loop never turns again is killed, with its stacks in the log."""
    with Serving(FASTSERVE, "--stall-hard-s", "2") as server:
        with under_load(server, load_of(report)) as watching:
            with server.connect() as client:
                send(client, "/block/60000")
                until(lambda: "no turn of its loop" in server.log)
                found = re.search(r"worker (\d+) of slot \d+: no turn", server.log)
                assert found is not None
                victim = int(found[1])
                held = server.held_by(victim)
                seen_s = [time.monotonic()]     # until the last but one it lived
                took_s = until(lambda: seen_s.append(time.monotonic()) or not is_running(victim))
                server.kills.append(Kill(victim, seen_s[-2], time.monotonic(), held))
            until(lambda: server.replaced([victim]))
            time.sleep(SETTLE_S)
        log = server.log
    report.count("a loop that is blocked for good is killed after, s", took_s)
    shown = "in block" in log and "tests/faults/app.py" in log
    report.require("its stack is in the log", "yes" if shown else "no", shown, "yes")
    judge(report, outcome(server, watching), None)


def l9(report: Report) -> None:
    """A second server on the port refuses to start, and the first one notices nothing."""
    with Serving() as server, under_load(server, load_of(report)) as watching:
        before = server.ask("status")
        second = server.make.command.format(
            python=server.make.python, port=server.port, workers=2,
            control=f"{server.home}/second").split()
        for _ in range(20 if report.full else 1):
            done = subprocess.run(second, capture_output=True, text=True, timeout=60, check=False)
            said = done.stderr.strip().splitlines()[-1:]
            report.require("status", done.returncode, done.returncode != 0, "not 0")
            named = bool(said) and str(server.port) in said[0] and len(said[0]) < 200
            report.require("it says", said[0] if said else "nothing", named, "names the port")
        after = server.ask("status")
        same = [(slot["pid"], slot["deaths"]) for slot in before["slots"]] \
            == [(slot["pid"], slot["deaths"]) for slot in after["slots"]]
        report.require("the first one's workers", "the same" if same else "others", same,
                       "the same")
    judge(report, outcome(server, watching), 0.1)


def l10(report: Report) -> None:
    """A worker that cannot start is tried less and less often; one block of log for each try."""
    with Serving() as server, under_load(server, load_of(report)) as watching:
        server.mood = "broken"
        before = server.log
        imports = sum(event == "import" for event, _ in server.events())
        server.kill(server.workers()[0])
        seconds = 60 if report.full else 4
        time.sleep(seconds)
        tried = sum(event == "import" for event, _ in server.events()) - imports
        log = server.log[len(before):]
        server.mood = ""
        until(lambda: len(server.workers()) >= 2)
    found = outcome(server, watching)
    judge(report, found, 0.1)
    most = 11 if report.full else 8
    report.require(f"tries in {seconds} s", tried, 2 <= tried <= most, f"2 to {most}")
    blocks = len(re.findall(r"worker \d+ of slot \d+ ", log))
    traces = log.count("Traceback (most recent call last)")
    report.require("tracebacks", traces, traces <= tried + 1, "one for each try")
    report.require("lines about its death", blocks, blocks <= tried + 1, "one for each try")
    with Serving(mood="broken", wait=False) as server:
        took_s = until(lambda: not server.alive)
        status = server.process.wait()
    report.require("status where nobody can start", status, status == 3, "3")
    report.require("after, s", took_s, took_s <= (5 if report.full else 15),
                   "at most 5, with slack in the short form")


def o5(report: Report) -> None:
    """A loop that is blocked for 200 ms again and again: it is measured, and nobody is killed."""
    with Serving(FASTSERVE, "--metrics", "--stall-hard-s", "5") as server:
        old = server.workers()
        longest = []
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < (60 if report.full else 4):
            longest.append(float(server.get("/block/200").rpartition(b"\r\n")[2]))
        metrics = server.get("/metrics").decode()
        same = server.workers() == old
        stalled = server.log.count("no turn of its loop")
    found = re.findall(r"^fastserve_loop_lag_longest_seconds\S* (\S+)", metrics, re.MULTILINE)
    lag_s = max(map(float, found))
    truth_s = max(longest[-40:])
    report.count("blocked so often", len(longest))
    least_s, most_s = 0.9 * truth_s, 1.1 * truth_s
    if not report.full:
        most_s = math.inf       # a busy machine may stop a worker for longer
    report.require("longest lag in /metrics, s", lag_s, least_s <= lag_s <= most_s,
                   f"within 10 % of {truth_s:.4f}, with slack above in the short form")
    report.require("workers", "the same" if same else "others", same, "the same")
    report.require("taken for hung", stalled, stalled == 0, "never")
