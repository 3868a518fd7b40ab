"""Rows S16, O1: more than there is room for."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from tests.hostile.bystanders import keep_asking
from tests.hostile.report import Report
from tests.hostile.server import Server
from tests.hostile.swarm import Client, Script, Swarm, first_reply, get, percentile, whole_reply

RESERVE = 32
CAPACITY = 10           # requests in flight
SERVICE_MS = 50


def s16(report: Report) -> None:
    """More connections than descriptors: the rest waits, costs nothing, and is served."""
    files, count = (1000, 1200) if report.full else (100, 130)
    report.count("a worker of descriptors", files)
    with Server(files=files) as server:
        crowd(report, server, count, files - RESERVE)
    report.count("the same, with fewer descriptors than the limit was made from", files // 2)
    with Server(files=files) as server:
        free = files // 2 - server.descriptors
        server.allow_files(files // 2)
        crowd(report, server, free * 6 // 5, free)
    report.count("the same, with the surplus rejected", files)
    with Server("--when-full", "reject", files=files) as server:
        rejected(report, server, count, files - RESERVE)


def crowd(report: Report, server: Server, count: int, room: int) -> None:
    """`count` clients ask where there is room for `room`; then some leave."""
    swarm = Swarm()

    def script(client: Client) -> Script:
        if not (yield from client.opened()) or not (yield from client.send(get("/"))):
            return
        if (yield from client.read(whole_reply, 60)):
            client.notes["answered_s"] = time.monotonic()
            while not client.notes.get("leaves") and (yield from client.pause(0.2)):
                pass
            client.outcome = client.outcome or "served"

    for _ in range(count):
        client = Client(server.address)
        swarm.add(client, script(client))

    def served() -> int:
        return sum("answered_s" in client.notes for client in swarm.clients)

    turn_until(swarm, lambda: served() >= room, 20)
    report.require("    served at once", served(), served() == room, str(room))
    first = [client for client in swarm.clients if "answered_s" in client.notes]
    cpu_s, begun = server.cpu_s, time.monotonic()
    turn_until(swarm, lambda: False, 4 if report.full else 2)
    share = (server.cpu_s - cpu_s) / (time.monotonic() - begun)
    report.require("    CPU while they wait, share of a core", share, share < 0.05, "below 0.05")
    report.require("    still waiting", len(swarm.running) - served(),
                   len(swarm.running) - served() == count - room, str(count - room))
    for client in first[: count - room + count // 10]:
        client.notes["leaves"] = True
    turn_until(swarm, lambda: served() >= count, 20)
    left_s = max((client.ended_s for client in first if client.outcome), default=0.0)
    last = max(client.notes.get("answered_s", 0.0) for client in swarm.clients)
    late_s = 1 if report.full else 10
    report.require("    all served", served(), served() == count, str(count))
    report.require("    the last one, seconds behind the last that left", last - left_s,
                   last - left_s <= late_s, f"at most {late_s}")
    lines = server.log_lines
    report.require("    lines in the log", lines, lines <= 4, "one per ten seconds")
    swarm.run(0)


def turn_until(swarm: Swarm, reached: Callable[[], bool], seconds: float) -> None:
    """Run the scripts until it is so, or the time is over."""
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        swarm.turn(0.05)


def rejected(report: Report, server: Server, count: int, room: int) -> None:
    """The surplus reads a 503, whether it asks at once or later."""
    swarm = Swarm()
    answered = 0

    def script(client: Client) -> Script:
        nonlocal answered
        if not (yield from client.opened()) or not (yield from client.send(get("/"))):
            return
        if (yield from client.read(whole_reply, 30)):
            answered += 1
            client.outcome = str(client.status)
            while client.status == 200 and answered < count:
                yield 0, 0.2

    for _ in range(count):
        client = Client(server.address)
        swarm.add(client, script(client))
        swarm.turn(0)
    swarm.run(30)
    outcomes = swarm.outcomes()
    report.require("    answers", dict(outcomes),
                   outcomes == {"200": room, "503": count - room}, f"{room} and {count - room}")
    lines = server.log_lines
    report.require("    lines in the log", lines, lines <= 4, "one per ten seconds")


def o1(report: Report) -> None:
    """Overload: as much is served as without it, and the rest is told at once."""
    seconds = 10 if report.full else 3
    peak = CAPACITY * 1000 / SERVICE_MS
    with Server(
        "--max-in-flight", str(CAPACITY), "--max-queued", str(CAPACITY), "--queue-timeout-s", "0.1"
    ) as server:
        path = f"/sleep/{SERVICE_MS}/1"
        calm = keep_asking(server.address, CAPACITY, 2, 0, path)
        goodput = calm.outcomes["200"] / 2
        report.count("peak, answers per second", f"{goodput:.0f} of {peak:.0f} in theory")
        report.count("uncongested p99, ms", calm.p99_ms)
        for times in (2, 5, 10):
            answers, ended = offer(server.address, path, times * peak, seconds)
            statuses = Counter(status for status, _, _ in answers)
            report.require(f"{times} x: answers", dict(statuses), set(statuses) <= {200, 503},
                           "200 and 503")
            report.require("    connections that ended", dict(ended), not ended, "none")
            hints = sum(hint for status, _, hint in answers if status == 503)
            report.require("    503 with Retry-After", hints, hints == statuses[503],
                           str(statuses[503]))
            rate = statuses[200] / seconds
            report.measure("    served per second", rate, rate >= 0.9 * goodput, "90 % of the peak")
            admitted = percentile([took for status, took, _ in answers if status == 200], 0.99)
            report.measure("    p99 of the served, ms", 1000 * admitted,
                           1000 * admitted <= 3 * calm.p99_ms, "3 x uncongested")
            shed = percentile([took for status, took, _ in answers if status == 503], 0.5)
            report.measure("    median of the 503, ms", 1000 * shed, shed <= 0.005, "at most 5")
        cost_of_refusals(report, server, path, seconds)


def cost_of_refusals(report: Report, server: Server, path: str, seconds: int) -> None:
    """As many requests as there can be, of which next to none is served."""
    wrk = shutil.which("wrk")
    if wrk is None:
        report.count("CPU for each 503", "not measured: there is no wrk")
        return
    begun_cpu = server.cpu_s
    said = subprocess.run(
        [wrk, "-t1", "-c96", f"-d{seconds}s", "http://{}:{}{}".format(*server.address, path)],
        check=True, capture_output=True, text=True, timeout=60).stdout
    cpu_s = server.cpu_s - begun_cpu
    found = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    refused = int(found[1]) if found else 0
    report.require("503 flat out", refused, refused > 0, "some")
    each = 1e6 * cpu_s / max(refused, 1)
    report.count("503 per second, flat out", f"{refused / seconds:.0f}")
    report.measure("CPU for each, microseconds", each, each <= 15, "at most 15")


def offer(
    address: tuple[str, int], path: str, rate: float, seconds: float
) -> tuple[list[tuple[int, float, bool]], Counter[str]]:
    """Ask at a fixed rate, whether it is answered or not: (status, seconds, has Retry-After)."""
    swarm = Swarm()
    answers: list[tuple[int, float, bool]] = []
    count = max(1, int(rate * 0.25))    # connections enough for answers of a quarter second
    each_s = count / rate
    begun = time.monotonic() + 0.5
    end = begun + seconds

    def script(client: Client, number: int) -> Script:
        if not (yield from client.opened()):
            return
        when = begun + each_s * number / count
        while when < end:
            if not (yield from client.pause(when - time.monotonic())):
                return
            client.received.clear()
            sent = time.monotonic()
            if not (yield from client.send(get(path))):
                return
            if not (yield from client.read(whole_reply, 30)):
                return
            reply = first_reply(client.received)
            if reply is not None:
                took = time.monotonic() - sent
                answers.append((reply[0], took, b"\nretry-after:" in reply[1].lower()))
            when += each_s
        client.outcome = "done"

    for number in range(count):
        client = Client(address)
        swarm.add(client, script(client, number))
    swarm.run(seconds + 30)
    return answers, Counter({
        outcome: times for outcome, times in swarm.outcomes().items() if outcome != "done"})
