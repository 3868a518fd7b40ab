"""The rows: kills, hangs, reloads, and workers that come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from tests.faults.load import REQUEST, Seen, ask
from tests.hostile.bystanders import elsewhere
from tests.hostile.report import Report
from tests.hostile.server import Server

CLIENTS = 8


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that have not ended."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def until(condition: Callable[[], bool], timeout_s: float = 60) -> float:
    """Wait for a condition; how long it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > timeout_s:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.005)
    return time.monotonic() - begun


@contextlib.contextmanager
def served(*flags: str) -> Iterator[Server]:
    """A server with two workers, both of which serve."""
    with Server("--workers", "2", *flags) as server:
        until(lambda: server.log.count("listening on") >= 2)
        yield server


@contextlib.contextmanager
def under_load(server: Server, seconds: float) -> Iterator[Future[Seen]]:
    """Clients in another process, for so long."""
    with elsewhere() as start:
        load = start(ask, server.address, CLIENTS, seconds)
        time.sleep(0.3)
        yield load


def judge(report: Report, seen: Seen, lost: int, longest_s: float) -> None:
    """What was lost, and how long anybody waited."""
    report.count("requests", seen.told())
    failed = sum(seen.failed.values())
    report.require("failed", failed, failed <= lost, f"at most {lost}")
    report.measure("longest wait, s", seen.longest_s, seen.longest_s <= longest_s,
                   f"at most {longest_s:g}")


def l1(report: Report) -> None:
    """kill -9 of a worker with connections in its queue: none is lost."""
    with served() as server:
        victim = min(children(server.pid))
        os.kill(victim, signal.SIGSTOP)
        clients = [socket.create_connection(server.address, 30) for _ in range(200)]
        for client in clients:
            client.sendall(REQUEST)
        os.kill(victim, signal.SIGKILL)
        answered = 0
        for client in clients:
            with contextlib.suppress(OSError):
                answered += client.recv(100).startswith(b"HTTP/1.1 200 ")
            client.close()
    report.require("answered of 200", answered, answered == 200, "all")


def l2(report: Report) -> None:
    """kill -9 of workers under load: what fails is what the victims had read."""
    kills = 100 if report.full else 10
    with served() as server, under_load(server, 0.6 * kills) as load:
        for _ in range(kills):
            os.kill(min(children(server.pid)), signal.SIGKILL)
            time.sleep(0.5)
        seen = load.result()
    refused = seen.failed["econnrefused"]
    report.require("refused", refused, refused == 0, "none")
    judge(report, seen, kills * CLIENTS, 0.1)


def l3(report: Report) -> None:
    """A worker that stands still: its queue is taken over, and it gets its slot back."""
    with served() as server, under_load(server, 8) as load:
        hung = min(children(server.pid))
        os.kill(hung, signal.SIGSTOP)
        time.sleep(4)
        os.kill(hung, signal.SIGCONT)
        took = until(lambda: "turns again" in server.log)
        seen = load.result()
    report.measure("back in its slot after, s", took, took <= 0.75, "0.5, and a tick")
    # what the hung one had read it answers itself, late
    judge(report, seen, 0, 6)


def l4(report: Report) -> None:
    """HUP after HUP: nothing fails."""
    reloads = 100 if report.full else 5
    with served() as server, under_load(server, 1.2 * reloads + 2) as load:
        for count in range(1, reloads + 1):
            server.process.send_signal(signal.SIGHUP)
            until(lambda count=count: server.log.count("reloaded") >= count)
        seen = load.result()
        left = len(children(server.pid))
    report.require("workers", left, left == 2, "2")
    judge(report, seen, 0, 0.05)


def l6(report: Report) -> None:
    """Workers are added and taken away: nothing is lost."""
    rounds = 50 if report.full else 3
    with served() as server, under_load(server, 5.5 * rounds) as load:
        for _ in range(rounds):
            for number, name, wanted in (
                (signal.SIGTTIN, "from 2 to 3", 3), (signal.SIGTTIN, "from 3 to 4", 4),
                (signal.SIGTTOU, "from 4 to 3", 3), (signal.SIGTTOU, "from 3 to 2", 2),
            ):
                before = server.log.count(name)
                server.process.send_signal(number)
                until(lambda name=name, before=before: server.log.count(name) > before)
                until(lambda wanted=wanted: len(children(server.pid)) == wanted)
        seen = load.result()
    judge(report, seen, 0, 0.1)


def l8(report: Report) -> None:
    """kill -9 of the supervisor: the workers end what they do, and the port is free."""
    with served() as server:
        workers = children(server.pid)
        server.process.kill()
        server.process.wait()
        took = until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        report.measure("workers gone after, s", took, took <= 1.5, "at most 1.5")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(server.address)
        report.require("the port", "free", True, "free")


def l12(report: Report) -> None:
    """Reloads leave no descriptor, process or thread behind."""
    reloads = 1000 if report.full else 10
    with served() as server:
        before = server.descriptors
        for count in range(1, reloads + 1):
            server.process.send_signal(signal.SIGHUP)
            until(lambda count=count: server.log.count("reloaded") >= count)
        until(lambda: len(children(server.pid)) == 2)
        threads = len(os.listdir(f"/proc/{server.pid}/task"))
        cpu_s, rss = server.cpu_s, server.rss_bytes
        time.sleep(3)
        share = (server.cpu_s - cpu_s) / 3
        after = server.descriptors
    report.require("descriptors", f"{before} before, {after} after", after == before, "as before")
    report.require("threads", threads, threads == 1, "1")
    report.measure("RSS of the supervisor, MB", rss / 1e6, rss < 40e6, "at most 40")
    report.measure("its share of a core when idle", share, share < 0.004, "one tick of the clock")


def g4(report: Report) -> None:
    """The supervisor stops: every request that was begun is answered."""
    with served() as server, elsewhere() as start:
        load = start(ask, server.address, CLIENTS, 3)
        time.sleep(1.5)
        begun = time.monotonic()
        server.process.terminate()
        status = server.process.wait(20)
        took = time.monotonic() - begun
        seen = load.result()
    report.require("exit status", status, status == 0, "0")
    lost = {name: count for name, count in seen.failed.items() if name != "econnrefused"}
    report.count("requests, refused ones came after the end", seen.told())
    report.require("failed, but for the refused", lost, sum(lost.values()) <= 4 * CLIENTS,
                   f"at most {4 * CLIENTS}: they came when nobody accepted any more")
    report.measure("it took, s", took, took <= 2.5, "at most 2.5")
