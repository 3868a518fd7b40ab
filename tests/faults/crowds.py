"""The rows of many connections and many requests: balance, idle memory, and what stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.acts import answer, send
from tests.faults.changes import cpu, memory
from tests.faults.load import Kind, Load, run
from tests.faults.seen import together
from tests.faults.serving import FASTSERVE, Serving, until
from tests.hostile.bystanders import elsewhere
from tests.hostile.report import Report

SPARE_FILES = 1000
A_SOURCE = 4_000        # connections from one address of ours: a free port is soon found


def l11(report: Report) -> None:
    """New connections are spread evenly over the workers, and over a pool of 32 too."""
    for workers in (2, 4, 8) if report.full else (4, 8):
        with Serving(workers=workers) as server:
            until(server.serves)
            counts = answered_by(server, 10_000)
            mean = sum(counts.values()) / workers
            share = max(counts.values()) / mean
            report.require(f"of 10,000 connections, the fullest of {workers} has, times the mean",
                           share, share <= 1.10 and sum(counts.values()) == 10_000,
                           "at most 1.10")
            rounds = 1000 if report.full else 30
            idle = sum(len(answered_by(server, 32)) < workers for _ in range(rounds))
        if workers == 8:
            report.count(f"of {rounds} pools of 32 over 8, some worker had none of", idle)
        else:
            # chance gives 0.04 % at 4: more than 1 of 30, or 5 of 1,000, is none
            most = 5 if report.full else 1
            report.require(f"of {rounds} pools of 32 over {workers}, some worker had none of",
                           idle, idle <= most, f"at most {most}")


def answered_by(server: Serving, count: int) -> Counter[bytes]:
    """Which worker answers each of so many new connections."""
    counts: Counter[bytes] = Counter()
    left = count
    while left:
        some = min(left, 100)
        clients = [server.connect() for _ in range(some)]
        for client in clients:
            send(client, "/pid", close=True)
        for client in clients:
            counts[answer(client).rpartition(b"\r\n")[2]] += 1
            client.recv(1)      # the server closes first: the ports stay free
            client.close()
        left -= some
    return counts


def o2(report: Report) -> None:
    """Idle connections: what each costs, and what they cost the clients that ask."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    workers, clients = (4, 4) if report.full else (2, 1)
    each = (limit - SPARE_FILES) if report.full else min(2500, limit - SPARE_FILES)
    # With chance as the only judge a worker may get a little more than its share.
    each = min(each, int(0.95 * (limit - SPARE_FILES) * workers / clients))
    active = (Kind("kept", 100, 2000 if report.full else 500, kept=True),)
    seconds = 15 if report.full else 2
    with Serving(FASTSERVE, "--keep-alive-timeout-s", "3600", "--backlog", "4096",
                 workers=workers) as server, elsewhere(clients + 1) as start, \
            leaving(server.home / "leave") as stop:
        alone = together(start(run, Load(server.address, active, seconds)).result().values())
        before = sum(memory(pid)[0] for pid in server.workers())
        holding = [start(hold, server.address, each, str(stop), str(server.home / f"held{number}"),
                         number) for number in range(clients)]
        until(lambda: all(os.path.exists(server.home / f"held{number}")
                          for number in range(clients)), 600)
        held = sum(int((server.home / f"held{number}").read_text())
                   for number in range(clients))
        after = sum(memory(pid)[0] for pid in server.workers())
        idle_cpu = sum(map(cpu, server.workers()))
        time.sleep(seconds)
        share = (sum(map(cpu, server.workers())) - idle_cpu) / seconds / workers
        crowded = together(start(run, Load(server.address, active, seconds)).result().values())
        stop.touch()
        left = [one.result() for one in holding]
    report.count("open files allowed to each process", limit)
    report.require("idle connections", held, held == clients * each, f"{clients * each}")
    report.require("of which the server closed", sum(left), not sum(left), "none")
    report.require("PSS of each, KB", (after - before) / held / 1024,
                   (after - before) / held <= 3 * 1024, "at most 3")
    report.require("failed, of the active", alone.failed + crowded.failed,
                   not alone.failed + crowded.failed, "none")
    report.count("p99 of the active, without and with them, ms",
                 f"{1000 * alone.p99_s:.2f}, {1000 * crowded.p99_s:.2f}")
    report.measure("ratio", crowded.p99_s / alone.p99_s, crowded.p99_s <= 1.2 * alone.p99_s,
                   "at most 1.2")
    report.measure("share of a core that a worker takes for idle ones", share, share <= 0.005,
                   "at most 0.005")


@contextlib.contextmanager
def leaving(stop: Path) -> Iterator[Path]:
    """A file that is there in the end, whatever happens: who waits for it goes."""
    try:
        yield stop
    finally:
        stop.touch()


def hold(address: tuple[str, int], count: int, until_file: str, done_file: str, part: int) -> int:
    """Open so many connections, ask once on each, keep them; how many the server has closed."""
    held = []
    with contextlib.ExitStack() as stack:
        for number in range(count):
            client = stack.enter_context(socket.socket())
            client.bind((f"127.{part // 250}.{part % 250 + 1}.{number // A_SOURCE + 1}", 0))
            client.settimeout(30)
            client.connect(address)
            send(client, "/echo/1")
            held.append(client)
            if len(held) % 50 == 0:
                for one in held[-50:]:
                    answer(one)
        for one in held[len(held) - len(held) % 50:]:
            answer(one)
        with open(f"{done_file}.new", "w") as file:
            file.write(str(len(held)))
        os.rename(f"{done_file}.new", done_file)
        while not os.path.exists(until_file):
            time.sleep(0.1)
        poll = select.poll()
        for one in held:
            poll.register(one, select.POLLIN)
        return len(poll.poll(0))


def f2(report: Report) -> None:
    """Many requests to one worker, then a collection: nothing of them stays."""
    requests = 10_000_000 if report.full else 200_000
    with Serving(workers=1) as server:
        pour(server, 50_000)    # what is made once is made now
        before, size = objects(server), memory(server.workers()[0])[1]
        begun_s = time.monotonic()
        pour(server, requests)
        took_s = time.monotonic() - begun_s
        after, grown = objects(server), memory(server.workers()[0])[1] - size
    report.count(f"{requests} requests took, s", took_s)
    report.require("RSS grew by, MB", grown / 1e6, grown <= 2e6, "at most 2")
    share = abs(after["objects"] - before["objects"]) / before["objects"]
    report.require("objects", f"{before['objects']} before, {after['objects']} after",
                   share <= 0.001, "within 0.1 %")
    report.require("gc.garbage", after["garbage"], after["garbage"] == 0, "empty")


def objects(server: Serving) -> dict[str, int]:
    """What the only worker holds after a collection."""
    found: dict[str, int] = json.loads(server.get("/objects", 60).rpartition(b"\r\n")[2])
    return found


def pour(server: Serving, requests: int) -> None:
    """So many requests over a few connections, in pipelines, each answered."""
    depth = 16
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(8)]
        send(clients[0], "/echo/1")
        size = len(answer(clients[0]))
        for _ in range(requests // depth // len(clients)):
            for client in clients:
                client.sendall(b"GET /echo/1 HTTP/1.1\r\nHost: a\r\n\r\n" * depth)
            for client in clients:
                missing = size * depth
                while missing:
                    data = client.recv(missing)
                    if not data:
                        raise ConnectionError("the server closed")
                    missing -= len(data)
