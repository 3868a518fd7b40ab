"""Rows S3, S9, G6: too much, nonsense, and uploads that are refused while they go on."""

from __future__ import annotations

import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tests.hostile.report import Report
from tests.hostile.server import Server
from tests.hostile.swarm import Client, Script, Swarm, first_reply, get

Pieces = Callable[[], Iterator[bytes]]
MB = 1_000_000
SLACK = 65536           # sent behind what is too much, before the answer is here


def in_pieces(data: bytes, size: int = 4096) -> Iterator[bytes]:
    """Data, a packet at a time."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def behind(head: bytes, again: Callable[[int], bytes], total: int) -> Iterator[bytes]:
    """A head, then pieces without end up to a total."""
    yield head
    sent = number = 0
    while sent < total:
        piece = again(number)
        yield piece
        sent += len(piece)
        number += 1


START = b"GET / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ATTACKS: list[tuple[str, Pieces, int, int]] = [
    # what, the bytes, the status, the limit that it meets
    ("one header of 100 KB",
     lambda: in_pieces(START + b"X: " + b"a" * 100_000 + b"\r\n\r\n"), 431, 8192),
    ("2,000 headers",
     lambda: in_pieces(
         START + b"".join(b"X-%d: 1\r\n" % n for n in range(2000)) + b"\r\n"), 431, 32768),
    ("URL of 70 KB",
     lambda: in_pieces(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"), 414, 8192),
    ("headers without end, 16 MB",
     lambda: behind(START, lambda n: b"X-%d: " % n + b"a" * 2000 + b"\r\n", 16 * MB), 431, 32768),
    ("chunk extension without end, 16 MB",
     lambda: behind(CHUNKED + b"5;a=", lambda n: b"b" * 4096, 16 * MB), 400, 4096),
    ("trailers without end, 8 MB",
     lambda: behind(CHUNKED + b"5\r\nhello\r\n0\r\n",
                    lambda n: b"X-%d: " % n + b"a" * 1000 + b"\r\n", 8 * MB), 431, 8192),
]


def attack(
    address: tuple[str, int], pieces: Iterator[bytes], due: int | None = None
) -> tuple[int, int, int]:
    """Send until there is an answer, then on until it is cut.

    due: when so many bytes were sent an answer has to come; it is given time, for a while, so
    that what was sent before it does not count how long the server waited for a processor.

    Returns the status, the bytes sent before the answer, and in all.
    """
    received, sent, before = b"", 0, 0
    with socket.create_connection(address, 10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            try:
                client.sendall(piece)
            except OSError:
                break
            sent += len(piece)
            if first_reply(received) is None:
                before = sent
                is_due = due is not None and due + 4096 < sent <= due + SLACK
                patience_s = 0.25 if is_due else 0.002
                if select.select([client], [], [], patience_s)[0]:
                    try:
                        received += client.recv(65536)
                    except OSError:
                        break
        client.settimeout(5)
        try:
            while first_reply(received) is None and (data := client.recv(65536)):
                received += data
        except OSError:
            pass
    reply = first_reply(received)
    return (reply[0] if reply else 0), before, sent


def s3(report: Report) -> None:
    """Each thing that is too large has its status, and little of it is read."""
    rounds = 20 if report.full else 2
    with Server() as server:
        for _ in range(3):
            for _, pieces, _, _ in ATTACKS:
                attack(server.address, pieces())
        for what, pieces, status, limit in ATTACKS:
            rss = server.rss_bytes
            results = [attack(server.address, pieces(), limit) for _ in range(rounds)]
            statuses = Counter(found for found, _, _ in results)
            report.require(what, dict(statuses), set(statuses) == {status}, str(status))
            before = max(count for _, count, _ in results)
            report.require("    sent before the answer, KB", before / 1024,
                           before <= limit + SLACK, f"{limit // 1024} + 64")
            report.count("    sent in all, KB", max(count for _, _, count in results) / 1024)
            grown = server.rss_bytes - rss
            report.require("    RSS, KB more", grown // 1024, grown <= MB, "at most 1,000")


def s9(report: Report) -> None:
    """Random bytes, alone or inside of what begins as a request: nothing breaks."""
    count = 10_000 if report.full else 300
    at_once = 200
    size = 10 * MB
    noise = random.Random(20_26)
    block = noise.randbytes(1 << 20)
    with Server() as server:
        before, begun, pid = server.descriptors, time.monotonic(), server.pid
        beginnings = [b"", b"", CHUNKED, START + b"X: ", b"GET /", b"POST /upload HTTP/1.1\r\n"]
        swarm = Swarm()

        def script(client: Client, beginning: bytes, at: int) -> Script:
            if not (yield from client.opened()):
                return
            view = memoryview(beginning + block[at:])
            while client.sent < size:
                if client.received and not client.read_some():
                    return
                if not (yield from client.send(view[:65536], 5)):
                    return
                view = view[65536:] or memoryview(block)
                if not (yield from client.pause(0.0001)):
                    return
            yield from client.pause(30)

        started = 0
        while started < count or swarm.running:
            while started < count and len(swarm.running) < at_once:
                client = Client(server.address)
                swarm.add(client, script(
                    client, noise.choice(beginnings), noise.randrange(len(block) - 65536)))
                started += 1
            swarm.turn(0.05)
            if time.monotonic() - begun > 1800:
                break
        swarm.run(0)
        took = time.monotonic() - begun
        statuses = Counter(client.status for client in swarm.clients)
        report.count("connections", dict(swarm.outcomes()))
        report.count("MB sent", sum(client.sent for client in swarm.clients) / MB)
        report.require("statuses", dict(statuses), all(status < 500 for status in statuses),
                       "none of 5xx")
        report.require("the worker", "the same" if server.alive and server.pid == pid else "gone",
                       server.alive, "the same process")
        rate = server.log_lines / took
        report.require("lines in the log per second", rate, rate <= 10, "at most 10")
        left = server.wait_for_descriptors(before, 10)
        report.require("descriptors", f"{before} before, {left} after", left <= before, "as before")
        report.require("a client behind it", attack(server.address, iter([get("/")]))[0],
                       attack(server.address, iter([get("/")]))[0] == 200, "200")


UPLOAD_BYTES = 10 * MB
UPLOADS: list[tuple[str, bytes, bytes, int]] = [
    # what, the head, each piece of 64 KB, the status
    ("413, by Content-Length",
     f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n".encode(),
     b"x" * 65536, 413),
    ("413, chunked", CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", 413),
    ("400, a broken chunk", CHUNKED, b"zz\r\n" + b"x" * 65536 + b"\r\n", 400),
    ("400, a broken head", b"POST /upload HTTP/1.1\r\nHost : x\r\n\r\n", b"x" * 65536, 400),
]


def upload(address: tuple[str, int], head: bytes, piece: bytes, stops: bool) -> str:
    """Upload; what was read. stops: as curl does, when there is an answer; else to the end."""
    received = b""
    with socket.create_connection(address, 10) as client:
        client.settimeout(30)
        try:
            client.sendall(head)
            for _ in range(UPLOAD_BYTES // 65536):
                if stops and select.select([client], [], [], 0)[0]:
                    break
                client.sendall(piece)
        except OSError:
            pass
        try:
            while data := client.recv(65536):
                received += data
        except OSError:
            if first_reply(received) is None:
                return "reset"
    reply = first_reply(received)
    return str(reply[0]) if reply else "eof"


def g6(report: Report) -> None:
    """Who is still uploading reads why not."""
    runs = 100 if report.full else 20
    with Server() as server:
        before = server.descriptors
        for what, head, piece, status in UPLOADS:
            polite = Counter(upload(server.address, head, piece, True) for _ in range(runs))
            report.require(what, dict(polite), polite[str(status)] == runs,
                           f"{status} in {runs} of {runs}")
            stubborn = Counter(
                upload(server.address, head, piece, False) for _ in range(runs // 10))
            report.count("    to a client that does not look before it has sent all",
                         dict(stubborn))
        left = server.wait_for_descriptors(before, 10)
        report.require("descriptors", f"{before} before, {left} after", left <= before, "as before")
