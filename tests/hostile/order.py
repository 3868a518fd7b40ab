"""Rows S10, O4: pipelines."""

from __future__ import annotations

import socket
import time
from collections import Counter

from tests.hostile.bystanders import Seen, arrive_anew, elsewhere
from tests.hostile.report import Report
from tests.hostile.server import Server
from tests.hostile.swarm import Client, Script, Swarm, get, replies

DEPTH = 16
GREEDY_DEPTH = 1000


def s10(report: Report) -> None:
    """Answers keep the order of their requests, and nothing behind an error is served."""
    count = 500 if report.full else 30
    with Server() as server:
        before, rss = server.descriptors, server.rss_bytes
        swarm = Swarm()

        def reversed_latencies(client: Client, number: int) -> Script:
            names = [number * DEPTH + at for at in range(DEPTH)]
            data = b"".join(
                get(f"/sleep/{10 * (DEPTH - at)}/{name}") for at, name in enumerate(names))
            if not (yield from client.opened()) or not (yield from client.send(data)):
                return
            whole = yield from client.read(lambda got: len(replies(got)) == DEPTH, 30)
            found = [(status, body) for status, _, body in replies(client.received)]
            exact = found == [(200, str(name).encode()) for name in names]
            client.outcome = "exact" if whole and exact else client.outcome or "out of order"

        for number in range(count):
            client = Client(server.address)
            swarm.add(client, reversed_latencies(client, number))
        highest = rss
        while swarm.running:
            swarm.turn(0.05)
            highest = max(highest, server.rss_bytes)
        swarm.run(0)
        report.require("16 requests, the last one fastest", dict(swarm.outcomes()),
                       swarm.outcomes()["exact"] == count, f"exact in {count} of {count}")
        each = (highest - rss) / count
        report.require("RSS for each connection, KB", each / 1024, each <= 65536, "at most 64")

        swarm = Swarm()
        served = b"".join(get("/touch") for _ in range(8))
        data = served + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + served

        def error_in_the_middle(client: Client) -> Script:
            if not (yield from client.opened()) or not (yield from client.send(data)):
                return
            yield from client.read(lambda got: False, 10)
            statuses = [status for status, _, _ in replies(client.received)]
            client.outcome = " ".join(
                f"{status}x{times}" for status, times in Counter(statuses).items())
            if sorted(statuses) != statuses:
                client.outcome += " out of order"

        for _ in range(count):
            client = Client(server.address)
            swarm.add(client, error_in_the_middle(client))
        swarm.run(60)
        report.require("8 good, 1 bad, 8 good", dict(swarm.outcomes()),
                       swarm.outcomes() == {"200x8 400x1": count}, "200 x 8, then 400, then closed")
        with socket.create_connection(server.address, 10) as client_socket:
            client_socket.sendall(get("/touched"))
            touched = int(replies(client_socket.recv(65536))[0][2])
        report.require("of those, the handler saw", touched, touched == 8 * count, str(8 * count))
        left = server.wait_for_descriptors(before, 5)
        report.require("descriptors", f"{before} before, {left} after", left <= before, "as before")


def be_greedy(address: tuple[str, int], clients: int, seconds: float) -> tuple[int, Counter[str]]:
    """Pipeline a thousand requests at a time, read as fast as one can; how many were answered."""
    swarm = Swarm()
    end = time.monotonic() + seconds
    batch = get("/") * GREEDY_DEPTH
    answered = 0

    def script(client: Client) -> Script:
        nonlocal answered
        if not (yield from client.opened()):
            return
        while time.monotonic() < end:
            if not (yield from client.send(batch)):
                return
            left = GREEDY_DEPTH
            while left > 0:
                if not (yield from client.read(bool, 30)):
                    return
                count = client.received.count(b"\r\n\r\nhome")
                answered += count
                left -= count
                at = client.received.rfind(b"\r\n\r\nhome")
                del client.received[: at + 8 if at >= 0 else 0]
                if left > 0 and not client.read_some(1 << 18):
                    return
        client.outcome = "done"

    for _ in range(clients):
        client = Client(address)
        swarm.add(client, script(client))
    swarm.run(seconds + 30)
    return answered, swarm.outcomes()


def o4(report: Report) -> None:
    """Eight clients that never stop asking do not keep a ninth waiting.

    puma CVE-2019-16770, CVE-2021-29509.
    """
    seconds = 20 if report.full else 4
    count = 400 if report.full else 80
    with Server() as server, elsewhere(2) as start:
        quiet: Seen = start(arrive_anew, server.address, count // 4, 0.01).result()
        greedy = start(be_greedy, server.address, 8, seconds)
        time.sleep(0.5)
        seen: Seen = start(arrive_anew, server.address, count, (seconds - 1.5) / count / 2).result()
        answered, outcomes = greedy.result()
        report.require("greedy clients", dict(outcomes), outcomes == {"done": 8}, "8 done")
        report.count("their requests answered per second", answered / seconds)
        report.require("new clients", dict(seen.outcomes), seen.outcomes == {"200": count},
                       f"200 x {count}")
        report.measure("their p99, ms", f"{quiet.p99_ms:.1f} alone, {seen.p99_ms:.1f} beside",
                       seen.p99_ms <= 50, "at most 50")
