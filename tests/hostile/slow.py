"""Rows S1, S2, O3: clients that are slow on purpose."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

from tests.hostile.bystanders import Seen, elsewhere, keep_asking
from tests.hostile.report import Report
from tests.hostile.server import Server
from tests.hostile.swarm import IN, Client, Script, Swarm, get, percentile, whole_reply


@dataclass
class Deadlines:
    """What the server is told; flags() of the defaults are none."""

    header_s: float = 10
    keep_alive_s: float = 75
    body_s: float = 30
    grace_s: float = 10
    write_s: float = 30
    default: bool = True

    def flags(self) -> tuple[str, ...]:
        if self.default:
            return ()
        return (
            "--header-timeout-s", str(self.header_s),
            "--keep-alive-timeout-s", str(self.keep_alive_s),
            "--body-timeout-s", str(self.body_s),
            "--body-grace-s", str(self.grace_s),
            "--write-timeout-s", str(self.write_s),
        )


SHORT = Deadlines(header_s=2, keep_alive_s=4, body_s=4, grace_s=2, write_s=3, default=False)
LATE_S = 5              # the short form runs on machines that do other things
ONE_BYTE_EACH_S = 2.0
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 200
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
STREAM_BYTES = 1 << 30


def drip(client: Client, data: bytes, each_s: float) -> Script:
    """Send one byte after the other, and read what comes, until the peer ends it."""
    for at in range(len(data)):
        if not (yield from client.send(data[at : at + 1])):
            break
        if not (yield from client.pause(each_s)):
            break
    return None


def silent(client: Client, each_s: float) -> Script:
    """Connect, send nothing."""
    if (yield from client.opened()):
        yield from client.pause(3600)


def slow_head(client: Client, each_s: float) -> Script:
    """A head, a byte at a time."""
    if (yield from client.opened()):
        yield from drip(client, HEAD, each_s)


def be_answered(client: Client) -> Generator[tuple[int, float], int, bool]:
    """Connect, ask, read the answer and forget it."""
    if not (yield from client.opened()) or not (yield from client.send(get("/"))):
        return False
    answered = yield from client.read(whole_reply, 30)
    client.received.clear()
    return answered


def idle(client: Client, each_s: float) -> Script:
    """One request, and then nothing."""
    if (yield from be_answered(client)):
        client.begun_s = time.monotonic()
        yield from client.pause(3600)


def one_byte_more(client: Client, each_s: float) -> Script:
    """One request, then the first byte of a second."""
    if (yield from be_answered(client)):
        yield from client.send(b"G")
        client.begun_s = time.monotonic()
        yield from client.pause(3600)


def slow_body(client: Client, each_s: float) -> Script:
    """An upload, a byte at a time."""
    if (yield from client.opened()) and (yield from client.send(UPLOAD)):
        yield from drip(client, b"x" * 10_000, each_s)


def no_reader(client: Client, each_s: float) -> Script:
    """Ask for a gigabyte and read none of it."""
    if (yield from client.opened()) and (yield from client.send(get(f"/stream/{STREAM_BYTES}"))):
        yield 0, 3600       # a reset is all that can be noticed
        client.outcome = "reset"


def shapes(wanted: Deadlines, late_s: float) -> list[tuple[str, object, float, float, int]]:
    """Name, script, seconds within which it must be closed (from, to), the status it reads.

    late_s: how much later than that, on this machine
    """
    head, alive, slack = wanted.header_s, wanted.keep_alive_s, 1.0 + late_s
    return [
        ("connect, send nothing", silent, head - 1, head + slack, 0),
        ("head, a byte at a time", slow_head, head - 1, head + slack, 408),
        ("idle behind a response", idle, alive - 2, alive + 1 + slack, 0),
        ("one byte behind a response", one_byte_more, head - 1, head + slack, 408),
        ("body, a byte at a time", slow_body, 0, 2 * wanted.grace_s + slack, 408),
        ("response never read", no_reader, wanted.write_s - 2, wanted.write_s + slack, 0),
    ]


def s1(report: Report) -> None:
    """Every slow shape is closed in its time, and told so where a request was begun."""
    wanted = Deadlines() if report.full else SHORT
    each_s = ONE_BYTE_EACH_S if report.full else 0.2
    planned = shapes(wanted, 0 if report.full else LATE_S)
    count = 20 if report.full else 3
    with Server(*wanted.flags()) as server:
        before = server.descriptors
        swarm = Swarm()
        groups = []
        for name, script, low, high, status in planned:
            clients = [Client(server.address, 4096) for _ in range(count)]
            for client in clients:
                swarm.add(client, script(client, each_s))  # type: ignore[operator]
            groups.append((name, clients, low, high, status))
        swarm.run(max(high for *_, high, _ in groups) + 10)
        for name, clients, low, high, status in groups:
            lasted = [client.lasted_s for client in clients]
            closed = all(client.outcome in ("eof", "reset") for client in clients)
            report.require(
                name,
                f"{dict(Counter(client.outcome for client in clients))} "
                f"after {min(lasted):.1f} to {max(lasted):.1f} s",
                closed and low <= min(lasted) and max(lasted) <= high,
                f"closed after {low:g} to {high:g} s",
            )
            statuses = Counter(client.status for client in clients)
            report.require(
                "    status", dict(statuses), set(statuses) == {status}, str(status or "none"))
        left = server.wait_for_descriptors(before, 5)
        report.require("descriptors", f"{before} before, {left} after", left <= before, "as before")
        report.count("lines in the log", server.log_lines)


def s2(report: Report) -> None:
    """Thousands of slow heads do not disturb a hundred clients, and are all gone in time."""
    count = 10_000 if report.full else 500
    wanted = Deadlines() if report.full else SHORT
    seconds = wanted.header_s + 4
    late_s = 2 if report.full else 2 + LATE_S
    with Server(*wanted.flags()) as server, elsewhere() as start:
        keep_asking(server.address, 10, 1, 0.01)
        quiet: Seen = start(keep_asking, server.address, 100, 4, 0.1).result()
        before, rss, begun_cpu = server.descriptors, server.rss_bytes, server.cpu_s
        load = start(keep_asking, server.address, 100, seconds, 0.1)
        begun, waited = time.monotonic(), server.waited_s
        swarm = Swarm()

        def script(client: Client) -> Script:
            if (yield from client.opened()):
                yield from drip(client, HEAD, 1.0)

        highest = rss
        for number in range(count):
            client = Client(server.address)
            swarm.add(client, script(client))
            if number % 64 == 0:
                swarm.turn(0)
        started_s = time.monotonic() - begun
        highest = max(highest, server.rss_bytes)
        while swarm.running and time.monotonic() - begun < seconds + 10:
            swarm.turn(0.05)
            highest = max(highest, server.rss_bytes)
        ended = max(client.ended_s for client in swarm.clients)
        swarm.run(0)
        seen: Seen = load.result()
        cpu_s = server.cpu_s - begun_cpu
        own_s = cpu_s / (ended - begun)
        report.count("slow clients", dict(swarm.outcomes()))
        report.count("their statuses", dict(Counter(client.status for client in swarm.clients)))
        report.count("their start took, s", started_s)
        gone = swarm.outcomes()["eof"] + swarm.outcomes()["reset"]
        lasted = [client.lasted_s for client in swarm.clients]
        report.require("all gone", f"{gone} after at most {max(lasted):.1f} s",
                       gone == count and max(lasted) <= wanted.header_s + late_s,
                       f"{count}, {wanted.header_s + late_s:g} s after each came")
        report.require("normal clients", dict(seen.outcomes), set(seen.outcomes) == {"200"},
                       "200 only")
        report.measure("their p99, ms", f"{quiet.p99_ms:.1f} quiet, {seen.p99_ms:.1f} attacked",
                       seen.p99_ms <= 1.5 * quiet.p99_ms, "x 1.5")
        report.count("their longest wait, ms", seen.told_worst(begun))
        report.count("the server waited for a processor, s", server.waited_s - waited)
        report.count("CPU of the server, share of a core, with the normal clients", own_s)
        grown = highest - rss
        report.require("RSS, MB more", grown / 1e6, grown <= 80e6, "80")
        left = server.wait_for_descriptors(before, 5)
        report.require("descriptors", f"{before} before, {left} after", left <= before, "as before")


def o3(report: Report) -> None:
    """A slow reader of a gigabyte costs little memory, and others do not notice it."""
    count = 1000 if report.full else 50
    seconds = 20 if report.full else 4
    with Server() as server, elsewhere() as start:
        keep_asking(server.address, 10, 1, 0.01)
        quiet: Seen = start(keep_asking, server.address, 20, 3, 0.05).result()
        rss, begun, waited = server.rss_bytes, time.monotonic(), server.waited_s
        swarm = Swarm()

        def script(client: Client) -> Script:
            if not (yield from client.opened()):
                return
            if not (yield from client.send(get(f"/stream/{STREAM_BYTES}"))):
                return
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                yield 0, 0.5
                if (yield IN, 0.5) and not client.read_some(4096):
                    return
                client.notes["read"] = client.notes.get("read", 0) + len(client.received)
                client.received.clear()
            client.outcome = "still read"

        for _ in range(count):
            client = Client(server.address, 4096)
            swarm.add(client, script(client))
            swarm.turn(0)
        for _ in range(10):
            swarm.turn(0.05)
        load = start(keep_asking, server.address, 20, seconds - 2, 0.05)
        highest = 0
        while swarm.running:
            swarm.turn(0.05)
            highest = max(highest, server.rss_bytes)
        seen: Seen = load.result()
        swarm.run(0)
        each = (highest - rss) / count
        report.require("slow readers", dict(swarm.outcomes()),
                       swarm.outcomes()["still read"] == count, "all still read")
        amounts = [client.notes.get("read", 0) / 1e3 for client in swarm.clients]
        report.count("each has read, KB, median", percentile(amounts, 0.5))
        report.require("RSS for each, KB", each / 1024, each <= 128 * 1024, "at most 128")
        report.require("others", dict(seen.outcomes), set(seen.outcomes) == {"200"}, "200 only")
        report.count("their longest wait, ms", seen.told_worst(begun))
        report.count("the server waited for a processor, s", server.waited_s - waited)
        report.measure("their p99, ms", f"{quiet.p99_ms:.1f} before, {seen.p99_ms:.1f} beside",
                       seen.p99_ms <= max(1.5 * quiet.p99_ms, quiet.p99_ms + 5), "x 1.5 or 5 ms")
