"""The soak: a mixed load for long, and a fault of any kind again and again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.acts import outcome
from tests.faults.changes import descriptors, memory
from tests.faults.judging import judge, load_of
from tests.faults.serving import Serving, under_load, until
from tests.hostile.report import Report


@dataclass
class State:
    """What a group of processes holds.

    descriptors, threads:  of the supervisor and of each worker, in order
    """

    descriptors: list[int]
    threads: list[int]
    rss: int
    count: int


@dataclass
class Faults:
    """The faults that can be drawn, and how often each was."""

    server: Serving
    drawn: Counter[str] = field(default_factory=Counter)
    slow: list[object] = field(default_factory=list)

    def next(self, number: int) -> None:
        """Every kind once, then any."""
        kinds = (self.kill, self.stop, self.reload, self.more_and_fewer, self.slow_clients)
        one = kinds[number] if number < len(kinds) else random.choice(kinds)
        self.drawn[one.__name__] += 1
        one()

    def kill(self) -> None:
        self.server.kill(random.choice(self.server.workers()))

    def stop(self) -> None:
        victim = random.choice(self.server.workers())
        os.kill(victim, signal.SIGSTOP)
        time.sleep(random.uniform(0.5, 3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)

    def reload(self) -> None:
        self.server.process.send_signal(signal.SIGHUP)

    def more_and_fewer(self) -> None:
        self.server.process.send_signal(signal.SIGTTIN)
        until(lambda: len(self.server.workers()) >= 3)
        self.server.process.send_signal(signal.SIGTTOU)

    def slow_clients(self) -> None:
        """Heads that never end, for a moment."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.server.connect()) for _ in range(200)]
            for _ in range(5):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.sendall(b"G")
                time.sleep(0.2)


def f1(report: Report) -> None:
    """A mixed load, and a fault of some kind every 10 s: whatever fails can be explained."""
    seconds = report.seconds or (3600.0 if report.full else 16.0)
    every_s = min(10.0, seconds / 8)
    with Serving() as server:
        faults = Faults(server)
        with under_load(server, load_of(report)):
            time.sleep(1.5)     # every worker has had requests of every kind
        settle(server)
        until(lambda: not any(slot["connections"] for slot in server.ask("status")["slots"]))
        before = state(server)
        rss = []
        with under_load(server, load_of(report)) as watching:
            begun_s = time.monotonic()
            for number in range(int(seconds / every_s)):
                faults.next(number)
                time.sleep(max(0, begun_s + (number + 1) * every_s - time.monotonic()))
                settle(server)
                rss.append(state(server).rss)
        settle(server)
        time.sleep(1.5)
        after = state(server)
        alive = server.alive
    for name, count in sorted(faults.drawn.items()):
        report.count(name.replace("_", " "), count)
    judge(report, outcome(server, watching), None)
    report.require("the supervisor", "alive" if alive else "gone", alive, "alive")
    report.require("descriptors", f"{before.descriptors} before, {after.descriptors} after",
                   after.descriptors == before.descriptors, "as before")
    report.require("threads", f"{before.threads} before, {after.threads} after",
                   after.threads == before.threads, "as before")
    report.count("RSS of all, MB", f"{before.rss / 1e6:.1f} before, {after.rss / 1e6:.1f} after")
    if seconds >= 1800:
        half = rss[len(rss) // 2:]
        slope = (half[-1] - half[0]) / before.count / (seconds / 2) * 3600
        report.require("RSS slope, MB per hour and worker", slope / 1e6, slope < 1e6, "under 1")
    else:
        grown = (after.rss - before.rss) / before.count
        report.require("RSS that each worker has more, MB", grown / 1e6, grown <= 4e6, "at most 4")


def settle(server: Serving) -> None:
    """Until all slots serve and nobody leaves."""
    until(server.serves)


def state(server: Serving) -> State:
    """What the supervisor and its workers hold."""
    pids = [server.pid, *server.workers()]
    return State(
        [descriptors(pid) for pid in pids], [len(os.listdir(f"/proc/{pid}/task")) for pid in pids],
        sum(memory(pid)[1] for pid in pids), len(pids))
