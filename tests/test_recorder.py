"""What the log tells of a worker that died or hung: the requests it had, with nothing forged."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import threading

import pytest
from server_process import serve_in_process
from test_supervisor import APP, ask, ask_in_vain, children, until

from fastserve.readings import NO_ROUTE, RequestRecord
from fastserve.recorder import LINES, LISTINGS, Recorder, answered, asked, shown, under_way
from fastserve.shm import SharedBoard

linux = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")
DYING = APP + """
@app.get("/die/{how}")
async def die(how: str):
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), 11) if how == "segv" else os._exit(7)
"""


def record(number=1, *, age_s=2.0, handler_s=None, send_s=None, **more):
    """A request of the ring; under way unless it has phases."""
    values = {
        "block": 1, "pid": 7, "slot": 0, "begun_at_s": 0.0, "wait_s": 0.0,
        "status": 200 if handler_s else 0,
        "body_bytes": 1234, "method": "GET", "route": "/users/{id}", "id": f"id-{number}",
        "client": "10.0.0.7", "line": f"GET /users/{number}", "holds_loop": False, **more}
    return RequestRecord(
        number=number, age_s=age_s, handler_s=handler_s, send_s=send_s, **values)


def test_a_request_is_one_line_with_its_phases():
    """Request line, route, id, client; how long it has taken, and what is known of its answer."""
    assert asked(record()) == (
        "GET /users/1, route /users/{id}, id id-1, from 10.0.0.7, for 2.0 s")
    assert asked(record(handler_s=0.0154)).endswith(", for 2.0 s, 200 begun after 15.4 ms")
    assert answered(record(handler_s=0.25, send_s=0.75)) == (
        "1.0 s before: GET /users/1, route /users/{id}, id id-1, from 10.0.0.7, "
        "200 after 250.0 ms, sent in 750.0 ms, 1,234 bytes")


def test_what_was_no_request_is_told_too():
    """It has no line, route or id."""
    refused = record(
        handler_s=0.001, send_s=0.001, status=400, line="", id="", method=NO_ROUTE[0],
        route=NO_ROUTE[1])
    assert answered(refused).startswith("2.0 s before: what was no request, from 10.0.0.7, 400")


@pytest.mark.parametrize(
    "text", ["/a\n2026 ERROR forged", "/\r", "/\x1b[2J", "/\x85", "/\u2028", "/\x00", "/\ud800",
             "/\u202e", "/\xe9"])
def test_nothing_that_was_sent_can_forge_a_line(text):
    """Nor move a cursor, nor turn the text round."""
    line = asked(record(line=text, id=text, client=text, route=text))
    assert line.isprintable()
    assert line.isascii()
    assert "\\" in shown(text)


def test_a_listing_is_bounded():
    """So many lines of each kind, and a number for the rest."""
    lines = under_way([record(number) for number in range(1, 200)])
    assert len(lines) == LINES + 2
    assert lines[0] == "requests under way: 199"
    assert lines[-1] == f"  and {199 - LINES} more"


def test_listings_are_rationed(monkeypatch):
    """A crash loop does not fill the disk: but what held the loop is always told."""
    board = SharedBoard(1)
    try:
        recorder = Recorder(board)
        monkeypatch.setattr(board, "requests", lambda block: [record(holds_loop=True)])
        accounts = [recorder.account(1) for _ in range(LISTINGS + 3)]
        assert all(each.startswith("\n  its loop was in GET /users/1") for each in accounts)
        assert [each.count("\n") for each in accounts] == [3] * LISTINGS + [1] * 3
        monkeypatch.setattr(board, "requests", lambda block: [])
        assert recorder.account(1) == ""
    finally:
        board.close()


@pytest.fixture
def start(tmp_path):
    """Start a server of the application with some flags."""
    (tmp_path / "main.py").write_text(DYING)
    with contextlib.ExitStack() as stack:
        def start_one(*flags, workers=2):
            server = stack.enter_context(serve_in_process(
                tmp_path, "--workers", str(workers), "--graceful-timeout-s", "5", *flags,
                target="main.py"))
            until(lambda: server.log.count("listening on") >= workers)
            return server

        yield start_one


def send(server, path, request_id):
    """A request on a connection of its own, whose answer nobody reads."""
    client = socket.create_connection(("127.0.0.1", server.port), 20)
    client.sendall(
        f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-ID: {request_id}\r\n\r\n".encode())
    return client


@linux
@pytest.mark.parametrize(
    ("how", "shown_as"),
    [("segv", "was ended by SIGSEGV"), ("exit", r"ended \(exit status 7\)"),
     ("kill", "was ended by SIGKILL")])
def test_a_death_names_the_requests_it_took_with_it(start, how, shown_as):
    """By signal, by exit status, by kill -9: what was under way, and what had been answered."""
    server = start(workers=1)
    (pid,) = children(server.process.pid)
    assert ask(server, "/slow/0.01")[0] == 200
    waiting = [send(server, "/slow/30?secret=no", f"waits-{index}") for index in range(2)]
    with contextlib.suppress(OSError, http.client.HTTPException):
        if how == "kill":
            ask(server)
            os.kill(pid, signal.SIGKILL)
        else:
            ask(server, f"/die/{how}")
    until(lambda: "requests under way" in server.log)
    until(lambda: ask(server)[1]["pid"] != pid)
    log = server.log
    assert re.search(rf"worker {pid} of slot 0 {shown_as}", log)
    under = log.partition("requests under way")[2].partition("the last that were answered")[0]
    for index in range(2):
        assert re.search(
            rf"GET /slow/30\?secret=no, route /slow/{{seconds:float}}, id waits-{index}\S*, "
            r"from 127.0.0.1, for [\d.]+ m?s", under)
    assert re.search(r"before: GET /slow/0.01, route .*, 200 after [\d.]+ ms", log)
    for client in waiting:
        client.close()


@linux
def test_a_hang_names_the_request_that_holds_the_loop(start):
    """In the log beside the stacks; and each task of the worker names its request."""
    server = start("--stall-soft-s", "0.6", "--stall-hard-s", "2", workers=1)
    waiting = send(server, "/slow/30", "sleeper")
    victim = threading.Thread(target=lambda: ask_in_vain(server))
    victim.start()
    until(lambda: "was ended by SIGKILL: its loop had not turned" in server.log)
    victim.join()
    waiting.close()
    log = server.log
    assert re.search(
        r"its stacks follow\n  its loop was in GET /block/60, route /block/{seconds:float}, "
        r"id \S+, from 127.0.0.1, for \d", log)
    assert log.count("its loop was in") == 1, log
    assert re.search(
        r"Request-\d+: .*, for GET /slow/30, route /slow/{seconds:float}, id sleeper\S*, "
        r"for [\d.]+ s", log)
    assert "in block" in log


@linux
def test_a_worker_that_was_told_to_end_is_not_accounted_for(start):
    """Only what nobody asked for is told at length."""
    server = start(workers=2)
    assert ask(server)[0] == 200
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert "requests under way" not in server.log
