"""The start-ups and shutdowns of workers: each once, in their place, and failures with patience."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from server_process import ServerProcess, serve_in_process, wait_for
from test_supervisor import (
    BOTH_LISTEN,
    ENVIRONMENT,
    ask,
    children,
    killed_in_the_end,
    pids,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")

APP = """
import asyncio, os, time
from fastserve import App

app = App()

def note(what):
    with open("events", "a") as events:
        events.write(f"{what} {os.getpid()}\\n")

@app.on_startup
async def start():
    note("begin")
    await asyncio.sleep(0.3)
    note("start")

@app.on_shutdown
async def stop():
    note("stop")

@app.get("/")
def home():
    note("ask")
    return {"pid": os.getpid()}

@app.get("/slow/{seconds:float}")
async def slow(seconds: float):
    await asyncio.sleep(seconds)
    return {"pid": os.getpid()}
"""

LATE_PARENT = """
from fastserve.supervisor import Supervisor

listen_to = Supervisor.listen_to

def late(self, child):
    listen_to(self, child)
    time.sleep(1)

if __name__ == "__main__":
    Supervisor.listen_to = late
    app.run(port=0, workers=2)
"""


@pytest.fixture
def start(tmp_path):
    """Start a server of the application with some flags."""
    (tmp_path / "main.py").write_text(APP)
    with contextlib.ExitStack() as stack:
        def start_one(*flags, workers=2):
            server = stack.enter_context(serve_in_process(
                tmp_path, "--workers", str(workers), "--graceful-timeout-s", "20", *flags,
                target="main.py"))
            until(lambda: server.log.count("listening on") >= workers)
            return server

        yield start_one


def events(server):
    """What each worker noted, in its order: {pid: ["begin", "start", ...]}, asks once."""
    found: dict[int, list[str]] = {}
    for line in server.log_path.with_name("events").read_text().splitlines():
        what, pid = line.split()
        mine = found.setdefault(int(pid), [])
        if what != "ask" or "ask" not in mine:
            mine.append(what)
    return found


def check(server, count):
    """So many workers lived, each of them as it should."""
    found = events(server)
    assert len(found) == count, found
    for mine in found.values():
        assert [what for what in mine if what != "ask"] == ["begin", "start", "stop"], found
        if "ask" in mine:
            assert mine.index("start") < mine.index("ask") < mine.index("stop"), found


def test_who_connects_during_start_up_is_answered_behind_it(tmp_path):
    """Checklist G5: the queue takes them; the application sees nobody before it has started."""
    (tmp_path / "main.py").write_text(APP.replace("sleep(0.3)", "sleep(1.5)"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = []

    def early():
        while True:
            with contextlib.suppress(ConnectionRefusedError), \
                    socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answers.append(client.recv(1000))
                return
            time.sleep(0.02)

    clients = [threading.Thread(target=early) for _ in range(8)]
    for client in clients:
        client.start()
    with serve_in_process(
            tmp_path, "--workers", "2", "--bind", f"127.0.0.1:{port}", target="main.py") as server:
        for client in clients:
            client.join(30)
        until(lambda: server.log.count("listening on") == 2)
    assert len(answers) == 8
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    check(server, 2)


def test_two_signals_shut_down_once(start):
    """Each worker, though the second one drops what is under way."""
    server = start()
    clients = [threading.Thread(target=lambda: ask_in_vain(server)) for _ in range(6)]
    for client in clients:
        client.start()
    until(lambda: ask(server)[0] == 200)
    time.sleep(0.3)
    server.process.terminate()
    until(lambda: "SIGTERM: stopping" in server.log)
    server.process.terminate()
    assert server.process.wait(15) == 0
    for client in clients:
        client.join()
    check(server, 2)


def ask_in_vain(server):
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(server, "/slow/30", 40)


def test_a_signal_to_everybody_shuts_down_once(start):
    """As a terminal or a container does: TERM to the parent and to the workers too, twice."""
    server = start()
    everybody = [server.process.pid, *children(server.process.pid)]
    for _ in range(2):
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    assert server.process.wait(15) == 0
    check(server, 2)


def test_a_signal_that_comes_when_all_have_ended_changes_nothing(start, tmp_path):
    """The process is about to exit with 0, and takes its time; whoever stops it insists."""
    main = tmp_path / "main.py"
    main.write_text(APP + """
import atexit

@atexit.register
def take_time():
    open("exits", "w").close()
    time.sleep(2)
""")
    server = start("--preload")
    server.process.terminate()
    until((tmp_path / "exits").exists)
    server.process.terminate()
    assert server.process.wait(15) == 0


def test_who_ends_of_the_signal_that_the_parent_has_not_looked_at_has_no_successor(
        tmp_path, monkeypatch):
    """A busy machine: the parent is in the middle of something when the workers are gone."""
    main = tmp_path / "main.py"
    main.write_text(APP + LATE_PARENT)
    monkeypatch.chdir(tmp_path)     # where the application notes its events
    log = tmp_path / "log"
    with killed_in_the_end([sys.executable, str(main)], log) as process:
        url = wait_for(log, BOTH_LISTEN, process)[1]
        for pid in (process.pid, *children(process.pid)):
            os.kill(pid, signal.SIGTERM)
        assert process.wait(15) == 0
    check(ServerProcess(url, log, process), 2)
    assert "ERROR" not in log.read_text()


def test_a_reload_shuts_each_predecessor_down_once(start):
    """And starts each successor up once, before it has a request."""
    server = start()
    before = children(server.process.pid)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)
    until(lambda: not before & children(server.process.pid))
    pids(server, 10)
    server.process.terminate()
    assert server.process.wait(15) == 0
    check(server, 4)


def test_recycled_workers_are_shut_down_once(start):
    """max_requests: as many lives as were begun."""
    server = start("--max-requests", "5")
    until(lambda: ask(server)[0] == 200 and server.log.count("is replaced") >= 3)
    until(lambda: len(children(server.process.pid)) == 2)
    server.process.terminate()
    assert server.process.wait(15) == 0
    found = events(server)
    assert len(found) >= 5
    shutdowns = Counter(mine.count("stop") for mine in found.values())
    # who was told to end while it started up has nothing to shut down
    assert set(shutdowns) <= {0, 1}, found
    assert all("stop" in mine for mine in found.values() if "start" in mine), found


@pytest.mark.parametrize("broken", ["sleep(0.3); 1 / 0", "sleep(0.3); raise SystemExit(9)"])
def test_where_every_start_up_fails_the_status_is_3_and_soon(tmp_path, broken):
    """Within seconds of the first failure; nothing is shut down that did not start."""
    (tmp_path / "main.py").write_text(APP.replace("sleep(0.3)", broken))
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "fastserve", "run", "main.py", "--workers", "3", "--port", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert ended.returncode == 3, ended.stderr
    assert time.monotonic() - begun < 20
    assert "stop" not in (tmp_path / "events").read_text()
    assert "no worker could start" in ended.stderr


def test_a_worker_that_cannot_start_costs_one_block_of_the_log_each_time(start):
    """Checklist L10: its traceback and one line; ever later; and the others serve."""
    server = start()
    main = Path(server.log_path).with_name("main.py")
    main.write_text("1 / 0")
    victim, survivor = sorted(children(server.process.pid))
    os.kill(victim, signal.SIGKILL)
    until(lambda: server.log.count("could not start") >= 5)
    assert {ask(server)[1]["pid"] for _ in range(20)} == {survivor}
    log = server.log.partition("was ended by SIGKILL")[2]
    attempts = log.count("could not start")
    assert attempts - 1 <= log.count("Traceback") <= attempts + 1
    for block in re.split(r"Traceback", log)[1:-1]:
        assert len(block.splitlines()) < 20, block
    main.write_text(APP)
    until(lambda: len(pids(server)) == 2)
    server.log_path.write_text("")      # the tracebacks in it were asked for


def test_the_delays_grow_from_a_tenth_of_a_second_to_half_a_minute():
    """With a jitter, so that servers which broke together do not come back together."""
    from fastserve.slots import Slot
    from fastserve.supervisor import LAST_DELAY_S, Supervisor

    slot = Slot(0)
    for failures, base_s in ((1, 0.1), (2, 0.2), (3, 0.4), (8, 12.8), (10, 30.0), (1000, 30.0)):
        slot.failures = failures
        delays = set()
        for _ in range(50):
            begun_s = time.monotonic()
            Supervisor.wait_to_start(slot, LAST_DELAY_S)
            delays.add(round(slot.start_at_s - begun_s, 3))
        assert all(0.74 * base_s <= delay <= 1.27 * base_s + 0.1 for delay in delays), delays
        assert len(delays) > 5
