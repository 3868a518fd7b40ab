"""Several workers under a supervisor: real processes, real signals, clients that count."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from server_process import ServerProcess, serve_in_process, wait_for

import fastserve
from fastserve.control import ask as ask_control

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots and steering are Linux's")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}
BOTH_LISTEN = r"(?s)listening on (\S+) \(pid.*listening on"
APP = """
import asyncio, os, time
from fastserve import App

app = App()
VERSION = "one"

@app.get("/")
def home():
    return {"pid": os.getpid(), "version": VERSION}

@app.get("/slow/{seconds:float}")
async def slow(seconds: float):
    await asyncio.sleep(seconds)
    return {"pid": os.getpid(), "version": VERSION}

@app.get("/block/{seconds:float}")
def block(seconds: float):
    time.sleep(seconds)
    return {"pid": os.getpid()}
"""


@pytest.fixture
def code(tmp_path) -> Path:
    """The file of the application, which a test may change."""
    path = tmp_path / "main.py"
    path.write_text(APP)
    return path


@pytest.fixture
def start(tmp_path, code):
    """Start a server of the application with some flags."""
    with contextlib.ExitStack() as stack:
        def start_one(*flags):
            server = stack.enter_context(serve_in_process(
                tmp_path, "--graceful-timeout-s", "5", *flags, target=str(code)))
            count = int(flags[flags.index("--workers") + 1])
            until(lambda: server.log.count("listening on") >= count)
            # A worker says so a moment before it tells the supervisor, which steers then.
            until(lambda: "--uds" in flags or len(pids(server)) == count)
            return server

        yield start_one


def until(condition, seconds=30):
    """Wait for a condition; how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + seconds, "it did not come to pass"
        time.sleep(0.01)
    return time.monotonic() - begun


def ask(server, path="/", timeout_s=10):
    """One request on a connection of its own: (status, JSON, seconds)."""
    import json

    begun = time.monotonic()
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read()), time.monotonic() - begun
    finally:
        client.close()


def begin(server, path):
    """Ask, and leave the answer for later: the connection."""
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    client.request("GET", path)
    return client


def times_of(text, log):
    """When each line with a text was written to a log."""
    return [datetime.fromisoformat(when.replace(",", "."))
            for when in re.findall(rf"(?m)^(\S+ \S+) .*{text}", log)]


def asked(client):
    """The answer to one more request on a connection; read_pid is who gave it."""
    import json

    client.request("GET", "/")
    answer = client.getresponse()
    answer.read_pid = json.loads(answer.read())["pid"]
    return answer


def pids(server, requests=40):
    """The workers that answer."""
    return {ask(server)[1]["pid"] for _ in range(requests)}


@contextlib.contextmanager
def killed_in_the_end(command, log):
    """A process that writes to a log; it may end before."""
    with log.open("wb") as stderr, subprocess.Popen(
            command, stderr=stderr, env=ENVIRONMENT) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid):
    """The living processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


class Load(threading.Thread):
    """Requests one after the other, each on a connection of its own, until told to stop."""

    def __init__(self, server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.over = threading.Event()
        self.answered = 0
        self.failed: list[str] = []
        self.longest_s = 0.0

    def run(self) -> None:
        while not self.over.is_set():
            try:
                status, _, seconds = ask(self.server)
                assert status == 200
                self.answered += 1
                self.longest_s = max(self.longest_s, seconds)
            except Exception as error:
                self.failed.append(repr(error))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.over.set()
        self.join(20)


def test_every_worker_answers_and_all_end_with_the_supervisor(start):
    """Two processes share the port; TERM ends all of them."""
    server = start("--workers", "2")
    assert pids(server) == children(server.process.pid)
    assert len(pids(server)) == 2
    server.process.terminate()
    assert server.process.wait(10) == 0
    with pytest.raises(ConnectionRefusedError):
        ask(server)


def test_what_waits_for_a_killed_worker_is_answered(start):
    """Connections queued at a worker outlive it: a neighbour takes them, and then a successor."""
    server = start("--workers", "2")
    victim = min(pids(server))
    os.kill(victim, signal.SIGSTOP)
    clients = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(40)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    os.kill(victim, signal.SIGKILL)
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        client.close()
    until(lambda: len(pids(server)) == 2)
    assert victim not in pids(server)
    assert f"worker {victim} of slot" in server.log
    assert "was ended by SIGKILL" in server.log


def test_nobody_fails_or_waits_while_workers_are_killed(start):
    """Ten kills, and each request was answered that no victim had read."""
    server = start("--workers", "2")
    with Load(server) as load:
        for _ in range(10):
            os.kill(min(children(server.process.pid)), signal.SIGKILL)
            until(lambda: len(children(server.process.pid)) == 2)
            time.sleep(0.3)
    assert len(load.failed) <= 10, load.failed  # what a victim had read is lost with it
    assert all("Remote" in error or "reset" in error for error in load.failed), load.failed
    assert load.answered > 100


def test_a_hung_workers_queue_is_taken_over(start):
    """After a second others accept for it; when it turns again, it has its slot back."""
    server = start("--workers", "2")
    hung = min(pids(server))
    os.kill(hung, signal.SIGSTOP)
    try:
        clients = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(20)]
        begun = time.monotonic()
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            client.close()
        assert time.monotonic() - begun < 10
        assert hung not in pids(server)
    finally:
        os.kill(hung, signal.SIGCONT)
    until(lambda: hung in pids(server))
    assert "turns again" in server.log


def test_a_worker_that_hangs_for_good_is_replaced_and_its_stacks_are_shown(start):
    """What held the loop is named before it is killed."""
    server = start("--workers", "2", "--stall-soft-s", "0.6", "--stall-hard-s", "2")
    before = pids(server)
    victim = threading.Thread(target=lambda: ask_in_vain(server))
    victim.start()
    until(lambda: "its stacks follow" in server.log)
    until(lambda: len(children(server.process.pid) - before) == 1 and len(pids(server)) == 2)
    victim.join()
    assert "in block" in server.log
    assert "its loop had not turned for" in server.log
    assert "tasks:" in server.log


def test_a_worker_that_turns_again_at_the_last_moment_stays(start):
    """Between its stacks and the kill its loop turns: it keeps its place and its clients."""
    server = start("--workers", "2", "--stall-soft-s", "0.5", "--stall-hard-s", "1")
    before = pids(server)
    hung = min(before)
    with contextlib.ExitStack() as stack:
        clients = []
        while not any(pid == hung for _, pid in clients):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            stack.callback(client.close)
            client.request("GET", "/")
            clients.append((client, json.loads(client.getresponse().read())["pid"]))
        os.kill(hung, signal.SIGSTOP)
        try:
            until(lambda: "its stacks follow" in server.log)
        finally:
            os.kill(hung, signal.SIGCONT)
        until(lambda: "it turned in time, and stays" in server.log)
        time.sleep(1.5)     # it would have been killed after one second
        clients[-1][0].request("GET", "/")
        assert json.loads(clients[-1][0].getresponse().read())["pid"] == hung
    until(lambda: pids(server) == before)
    assert "SIGKILL" not in server.log


def ask_in_vain(server):
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(server, "/block/60", 30)


def test_a_busy_worker_is_not_killed(start):
    """Its loop turns, if late: every request takes longer than the soft limit, none the hard."""
    server = start("--workers", "1", "--stall-soft-s", "0.3", "--stall-hard-s", "3")
    (pid,) = pids(server)
    for _ in range(8):
        assert ask(server, "/block/0.8")[1] == {"pid": pid}


def test_a_server_that_stood_still_as_a_whole_loses_no_worker(start):
    """A paused container: the supervisor has seen no silence that it did not sleep through."""
    server = start("--workers", "2", "--stall-soft-s", "3", "--stall-hard-s", "5")
    before = pids(server)
    everyone = [server.process.pid, *before]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(6)
    os.kill(server.process.pid, signal.SIGCONT)
    time.sleep(0.4)     # it looks at them before they can turn
    for pid in before:
        os.kill(pid, signal.SIGCONT)
    time.sleep(2)
    assert "no turn of its loop" not in server.log
    assert "its stacks follow" not in server.log
    assert pids(server) == before


def test_a_reload_brings_new_code_and_fails_nobody(start, code):
    """A successor for each, ready before its predecessor goes."""
    server = start("--workers", "2")
    before = pids(server)
    with Load(server) as load:
        code.write_text(APP.replace('"one"', '"two"'))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log)
        until(lambda: not before & children(server.process.pid))
    assert load.failed == []
    assert ask(server)[1]["version"] == "two"


def test_a_reload_replaces_who_was_just_starting_with_the_old_code(start, code, tmp_path):
    """Once it serves; and who starts with the new code meanwhile is left alone."""
    server = start("--workers", "3")
    slowly = 'import pathlib, time\npathlib.Path("begun").touch()\ntime.sleep(1.5)\n'
    code.write_text(slowly + APP)
    before = children(server.process.pid)
    os.kill(min(before), signal.SIGKILL)
    until((tmp_path / "begun").exists)
    (starting,) = children(server.process.pid) - before
    code.write_text(APP.replace('"one"', '"two"'))
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)
    until(lambda: not {starting, *before} & children(server.process.pid))
    assert {ask(server)[1]["version"] for _ in range(40)} == {"two"}
    assert server.log.count("listening on") == 7


@pytest.mark.parametrize(
    ("change", "shown", "boot_timeout_s"),
    [
        ("nonsense(", "SyntaxError", 60),
        ("@app.on_startup\ndef fail():\n    raise OSError('no database')", "no database", 60),
        ("import time; time.sleep(60)", "boot_timeout_s=6", 6),
    ],
    ids=["does not compile", "start-up fails", "import hangs"],
)
def test_a_reload_that_fails_leaves_the_old_code_serving(
        start, code, change, shown, boot_timeout_s):
    """The log says why, and the workers are the same as before."""
    server = start("--workers", "2", "--boot-timeout-s", str(boot_timeout_s))
    before = pids(server)
    code.write_text(APP + change)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "the reload failed" in server.log)
    assert shown in server.log
    assert pids(server) == before
    # its own check of tracebacks is for servers that were given good code
    with contextlib.suppress(AssertionError):
        assert "Traceback" not in server.log
    Path(server.log_path).write_text("")


def test_workers_are_added_and_taken_away_without_loss(start):
    """TTIN and TTOU, under load."""
    server = start("--workers", "2")
    with Load(server) as load:
        for count in (3, 4):
            server.process.send_signal(signal.SIGTTIN)      # the kernel keeps one, not two
            until(lambda count=count: f"to {count} workers" in server.log)
        until(lambda: len(pids(server)) == 4)
        for count in (3, 2, 1):
            server.process.send_signal(signal.SIGTTOU)
            until(lambda count=count: f"{count + 1} to {count} workers" in server.log)
        until(lambda: len(children(server.process.pid)) == 1)
        server.process.send_signal(signal.SIGTTOU)  # refused: nobody would be left
        until(lambda: "0 workers cannot be" in server.log)
    assert load.failed == []
    assert len(pids(server)) == 1


def test_nobody_holds_the_listener_of_a_slot_that_goes(start, tmp_path):
    """Neighbours accept for slots that come back: the next listener has the number of this one."""
    server = start("--workers", "2", "--control", str(tmp_path / "control"))

    def slots():
        return ask_control(str(tmp_path / "control"), {"command": "status"}, 30)["slots"]

    with contextlib.ExitStack() as stack:
        for _ in range(30):     # some of them keep the worker for two seconds
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        server.process.send_signal(signal.SIGTTOU)
        seen = []
        until(lambda: seen.append(slots()) or len(seen[-1]) == 1)
    gone = [found[1] for found in seen if len(found) == 2]
    assert any(slot["state"] == "retiring" and "pid" not in slot for slot in gone)
    assert not any("covered_by" in slot for slot in gone)


def test_what_is_under_way_is_answered_before_the_end(start):
    """TERM: the slow one has its answer, and the process ends soon after."""
    server = start("--workers", "2")
    client = begin(server, "/slow/1.0")
    time.sleep(0.3)
    server.process.terminate()
    assert client.getresponse().status == 200
    client.close()
    assert server.process.wait(10) == 0


def test_what_takes_too_long_is_dropped_at_the_bound(start):
    """graceful_timeout_s, and a second signal quickens it."""
    server = start("--workers", "2", "--graceful-timeout-s", "30")
    client = threading.Thread(target=lambda: ask_slowly_in_vain(server))
    client.start()
    time.sleep(0.3)
    server.process.terminate()
    time.sleep(0.3)
    begun = time.monotonic()
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert time.monotonic() - begun < 5
    client.join()


def ask_slowly_in_vain(server):
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(server, "/slow/60", 30)


def test_without_the_supervisor_the_workers_go_and_the_port_is_free(tmp_path, code):
    """kill -9 of the parent: what is under way is answered, then a new server may start."""
    log = tmp_path / "first.log"
    command = [sys.executable, "-m", "fastserve", "run", str(code), "--workers", "2"]
    with killed_in_the_end([*command, "--port", "0"], log) as process:
        url = wait_for(log, BOTH_LISTEN, process)[1]
        server = ServerProcess(url, log, process)
        workers = children(process.pid)
        client = begin(server, "/slow/1.0")
        time.sleep(0.3)
        process.kill()
    assert client.getresponse().status == 200
    client.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "the supervisor is gone" in server.log
    with serve_in_process(
            tmp_path, "--bind", f"127.0.0.1:{server.port}", target=str(code)) as other:
        assert ask(other)[0] == 200


def test_a_worker_that_hangs_in_an_import_goes_with_its_supervisor(tmp_path):
    """Nothing of a server outlives it, not even what has no loop yet to notice."""
    code = tmp_path / "hangs.py"
    code.write_text("import pathlib, time\n"
                    f"pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
                    "time.sleep(600)\n")
    command = [sys.executable, "-m", "fastserve", "run", str(code), "--port", "0",
               "--workers", "2"]
    with killed_in_the_end(command, tmp_path / "log") as process:
        until((tmp_path / "begun").exists)
        until(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_second_server_on_the_port_does_not_start(start, code):
    """Though its sockets could share it: it says who is in the way, and the first serves on."""
    server = start("--workers", "2")
    second = subprocess.run(
        [sys.executable, "-m", "fastserve", "run", str(code), "--workers", "2",
         "--port", str(server.port)],
        capture_output=True, text=True, timeout=30, env=ENVIRONMENT)
    assert second.returncode == 1
    assert f"port {server.port} on 127.0.0.1 is in use" in second.stderr
    assert len(pids(server)) == 2


@pytest.mark.parametrize("text", ["nonsense(", APP + "@app.on_startup\ndef no():\n    1 / 0"])
def test_where_no_worker_can_start_the_status_is_3(tmp_path, text):
    """And soon: there is nothing to keep."""
    (tmp_path / "main.py").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "fastserve", "run", "main.py", "--workers", "2", "--port", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, env=ENVIRONMENT)
    assert ended.returncode == 3
    assert "no worker could start" in ended.stderr


def test_a_slot_whose_worker_cannot_start_is_tried_again_later_and_later(start, code):
    """The others serve; each attempt waits for longer than the one before."""
    server = start("--workers", "2")
    code.write_text("1 / 0")
    survivor, victim = sorted(pids(server))
    os.kill(victim, signal.SIGKILL)
    until(lambda: server.log.count("could not start") >= 6)
    assert pids(server, 20) == {survivor}
    times = times_of("could not start", server.log)
    assert times[5] - times[4] > times[1] - times[0]    # 1.6 s and 0.1 s, and starting
    code.write_text(APP)
    until(lambda: len(pids(server)) == 2)
    Path(server.log_path).write_text("")    # the tracebacks in it were asked for


def test_the_workers_rest_and_the_connections_wait(start):
    """WINCH stops the workers and keeps the queue; HUP starts them again."""
    server = start("--workers", "2")
    server.process.send_signal(signal.SIGWINCH)
    until(lambda: not children(server.process.pid))
    client = socket.create_connection(("127.0.0.1", server.port), 20)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    server.process.send_signal(signal.SIGHUP)
    assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    client.close()


def test_a_unix_socket_is_shared(start, tmp_path):
    """One listener for all; it is removed at the end and not before."""
    path = tmp_path / "the.sock"
    server = start("--workers", "2", "--uds", str(path))
    os.kill(min(children(server.process.pid)), signal.SIGKILL)
    time.sleep(0.2)
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert not path.exists()


def test_who_comes_while_it_ends_is_refused(start):
    """And does not wait in the queue of a listener, to be reset when the last answer is out."""
    server = start("--workers", "2")
    with socket.create_connection(("127.0.0.1", server.port), 10) as slow:
        slow.sendall(b"GET /slow/3 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        server.process.terminate()

        def refused():
            try:
                socket.create_connection(("127.0.0.1", server.port), 10).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused)
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1000)     # is still under way
        slow.settimeout(10)
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(10) == 0


def test_it_goes_on_accepting_for_as_long_as_it_was_asked(start):
    """drain_delay_s: what comes after TERM is answered, and told to come elsewhere next time."""
    server = start("--workers", "2", "--drain-delay-s", "2")
    idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    idle.request("GET", "/")
    assert idle.getresponse().read()
    server.process.terminate()
    until(lambda: server.log.count("still accepting") == 2)
    for client in (idle, http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)):
        client.request("GET", "/")
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.getheader("connection") == "close"
        client.close()
    assert server.process.wait(10) == 0


def test_a_reload_does_not_wait_for_those_who_go_on_accepting(start):
    """drain_delay_s is for the end: a successor accepts what the old worker need not."""
    server = start("--workers", "2", "--drain-delay-s", "20", "--graceful-timeout-s", "1")
    before = children(server.process.pid)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)
    assert until(lambda: not before & children(server.process.pid)) < 10
    server.process.terminate()
    time.sleep(3)   # longer than the graceful timeout, which begins when the delay is over
    assert ask(server)[0] == 200
    server.process.terminate()


def test_a_kept_connection_is_told_before_it_is_closed(start):
    """A reload: no request that is on its way meets a connection that is closed already."""
    server = start("--workers", "2")
    clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in range(8)]
    old = {asked(client).read_pid for client in clients}
    assert old <= children(server.process.pid)
    server.process.send_signal(signal.SIGHUP)
    while clients:
        for client in list(clients):
            answer = asked(client)      # raises where the connection was closed
            assert answer.read_pid in old
            if answer.getheader("connection") == "close":
                clients.remove(client)


def test_an_application_that_was_imported_before_cannot_be_reloaded(start):
    """--preload: HUP is refused with the reason, and nothing happens."""
    server = start("--workers", "2", "--preload")
    before = pids(server)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "without --preload" in server.log)
    assert pids(server) == before


def test_an_object_may_have_workers(tmp_path, code):
    """app.run(workers=2) of a script."""
    code.write_text(APP + "\nif __name__ == '__main__':\n    app.run(port=0, workers=2)\n")
    log = tmp_path / "log"
    with killed_in_the_end([sys.executable, str(code)], log) as process:
        url = wait_for(log, BOTH_LISTEN, process)[1]
        until(lambda: len(pids(ServerProcess(url, log, process))) == 2)
        process.terminate()
        assert process.wait(10) == 0


def test_a_worker_holds_its_own_listener_only(start):
    """And no more descriptors after many reloads than before."""
    server = start("--workers", "2")

    def listening(pid):
        links = []
        for n in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):    # closed since
                links.append(os.readlink(f"/proc/{pid}/fd/{n}"))
        inodes = {link[8:-1] for link in links if link.startswith("socket:")}
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return sum(row.split()[9] in inodes and row.split()[3] == "0A" for row in rows)

    assert listening(server.process.pid) == 2
    until(lambda: {listening(pid) for pid in children(server.process.pid)} == {1})
    before = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    for count in range(1, 6):
        server.process.send_signal(signal.SIGHUP)
        until(lambda count=count: server.log.count("reloaded") == count)
    until(lambda: len(children(server.process.pid)) == 2)
    until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) == before)
    assert wait_for(server.log_path, "reloaded", server.process)
