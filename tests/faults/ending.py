"""The rows of the end: of the supervisor by a kill, of the server by TERM."""

from __future__ import annotations

import contextlib
import socket
import time

from tests.faults.acts import answer, kill_parent, roll_out, send, terminate
from tests.faults.judging import judge, load_of
from tests.faults.seen import told
from tests.faults.serving import FASTSERVE, Serving, until
from tests.hostile.report import Report


def l8(report: Report) -> None:
    """kill -9 of the supervisor: the workers end what they do, and a restart succeeds."""
    for _ in range(20 if report.full else 1):
        with Serving() as server:
            found = kill_parent(server, 1)
        report.count("the workers", found.notes["workers"])
        gone = found.notes["workers"].startswith("gone")
        report.require("they are gone", gone, gone, "yes")
        restart = found.notes["restart"]
        report.require("a restart", restart, restart == "serves", "serves")
        report.count("requests", found.seen.told())
        unread = sum(ended.how == "reset" for ended in found.unexplained)
        slow = [ended for ended in found.unexplained if ended.took_s > 0.5]
        report.require("requests under way that were lost", len(slow), not slow, "none")
        report.count("reset, when nobody accepted any more", unread)


def g1(report: Report) -> None:
    """TERM while a balancer still sends, over a pool of kept connections: nothing fails."""
    delay_s, lead_s = (6.0, 15.0) if report.full else (2.0, 1.0)
    with Serving(FASTSERVE, "--drain-delay-s", str(delay_s)) as server:
        found = roll_out(server, delay_s, 64, lead_s)
    judge(report, found, 0.5)
    least = 50_000 if report.full else 1_000
    report.require("requests", found.seen.attempted, found.seen.attempted >= least,
                   f"at least {least}")
    stale = found.stale
    report.require("stale", stale, stale == 0, "none")
    status = found.notes["status"]
    report.require("status", status, status == 0, "0")


def g2(report: Report) -> None:
    """In the drain delay every answer says Connection: close, and idle connections stay open."""
    delay_s = 6.0 if report.full else 3.0
    with Serving(FASTSERVE, "--drain-delay-s", str(delay_s)) as server, \
            contextlib.ExitStack() as stack:
        kept = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in kept:
            send(client, "/echo/1")
            assert b"connection: close" not in answer(client).lower()
        server.process.terminate()
        begun_s = time.monotonic()
        until(lambda: b" 503 " in server.get("/-/ready"))
        until(lambda: server.log.count("still accepting for") == 2)
        new = server.get("/echo/1")
        said = 0
        for client in kept[:50]:
            send(client, "/echo/2")
            said += b"\r\nconnection: close\r\n" in answer(client).lower()
        ended = sum(client.recv(10) == b"" for client in kept[:50])
        early = 0
        while time.monotonic() - begun_s < delay_s - 0.5:
            early += sum(map(is_closed, kept[50:]))
            time.sleep(0.1)
        closed = sum(client.recv(10) == b"" for client in kept[50:])
        after_s = time.monotonic() - begun_s
        status = server.process.wait(30)
    report.require("Connection: close on old connections", said, said == 50, "50 of 50")
    report.require("which are closed then", ended, ended == 50, "50 of 50")
    says = b"\r\nconnection: close\r\n" in new.lower()
    report.require("on a new one", "yes" if says else "no", says, "yes")
    report.require("idle ones closed before the end of the delay", early, early == 0, "none")
    report.require("closed after it", f"{closed} of 50 after {after_s:.2f} s", closed == 50,
                   f"50 after {delay_s:g} s")
    report.require("status", status, status == 0, "0")


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed an idle connection."""
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    finally:
        client.settimeout(30)


def g3(report: Report) -> None:
    """What is under way at TERM comes to its end: a slow answer, an upload, a stream."""
    size, pieces = 400_000, 20
    for _ in range(20 if report.full else 1):
        with Serving() as server, contextlib.ExitStack() as stack:
            slow, upload, stream = [[stack.enter_context(server.connect()) for _ in range(10)]
                                    for _ in range(3)]
            for number, client in enumerate(slow):
                send(client, f"/slow/2000/{number}")
            for client in stream:
                send(client, f"/stream/{pieces}/100")
            for client in upload:
                client.sendall(b"POST /up/7 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                               % size)
                client.sendall(b"x" * (size // 2))
            time.sleep(0.5)
            server.process.terminate()
            time.sleep(0.5)
            for client in upload:
                client.sendall(b"x" * (size // 2))
            answered = sum(answer(client).endswith(b"\r\n\r\n%d" % number)
                           for number, client in enumerate(slow))
            uploaded = sum(answer(client).rpartition(b"\r\n\r\n")[2].startswith(b"7 ")
                           for client in upload)
            whole = b"piece %d\n" % (pieces - 1)
            streamed = sum(whole in (got := all_of(client)) and got.endswith(b"0\r\n\r\n")
                           for client in stream)
            status = server.process.wait(30)
        for name, count in (("answers of 2 s", answered), ("uploads", uploaded),
                            ("streams", streamed)):
            report.require(name, count, count == 10, "10 of 10")
        report.require("status", status, status == 0, "0")


def all_of(client: socket.socket) -> bytes:
    """Everything until the end."""
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def g4(report: Report) -> None:
    """The server stops: at once when idle, in bounded time always, with status 0."""
    with Serving() as server:
        found = terminate(server, 1, load_of(report))
    status = found.notes["status"]
    report.require("status", status, status == 0, "0")
    report.count("requests, the refused came after the end", found.seen.told())
    slow = [ended for ended in found.unexplained if ended.took_s > 0.5]
    report.require("requests under way that were lost", len(slow), not slow, "none")
    report.count("lost, when nobody accepted any more", told(found.by_class))
    took_s = found.notes["exit_s"]
    report.require("with requests under way, s", took_s, took_s <= (2.5 if report.full else 6),
                   "at most 2.5, with slack in the short form")

    with Serving() as server:
        took_s = ends_after(server)
    report.measure("idle, s", took_s, took_s <= 0.3, "at most 0.3")
    with Serving(FASTSERVE, "--graceful-timeout-s", "2") as server, server.connect() as client:
        send(client, "/stubborn/60000")
        time.sleep(0.3)
        took_s = ends_after(server)
        status = server.process.returncode
    report.require("with a handler that will not be cancelled, s", took_s,
                   took_s <= (3.3 if report.full else 8), "graceful_timeout_s=2, and 1")
    report.require("status", status, status == 0, "0")


def ends_after(server: Serving) -> float:
    """How long a server takes to end after TERM."""
    begun_s = time.monotonic()
    server.process.terminate()
    server.process.wait(60)
    return time.monotonic() - begun_s


def g5(report: Report) -> None:
    """The lifespan of each worker starts once, before it accepts, and ends once."""
    with Serving() as server:
        assert server.ask("reload")["ok"]
        assert server.ask("scale", workers=3)["ok"]
        assert server.ask("scale", workers=2)["ok"]
        until(server.serves)
        server.process.terminate()
        server.process.terminate()
        status = server.process.wait(30)
        events = server.events()
    pids = {pid for _, pid in events}
    for name in ("import", "startup", "shutdown"):
        counts = {sum(event == (name, pid) for event in events) for pid in pids}
        report.require(f"{name} of {len(pids)} workers", sorted(counts), counts == {1}, "once each")
    report.require("status", status, status == 0, "0")
    with Serving(mood="start 1", wait=False) as server:
        first = until(lambda: server.get("/echo/1", 30) != b"")
        begun = len(server.started())
    report.count("the first answer came after, s", first)
    report.require("start-ups before the first answer", begun, begun >= 1, "at least 1")
    with Serving(mood="lifespan", wait=False) as server:
        status = server.process.wait(30)
        answered = server.get("/echo/1", 1)
    report.require("status of a start-up that fails", status, status == 3, "3")
    report.require("answered", len(answered), not answered, "nothing")
