"""What systemd tells a server and hears of it: a real datagram socket, real descriptors."""

from __future__ import annotations

import array
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from server_process import is_alive
from test_supervisor import APP, ENVIRONMENT, ask, children, until
from test_upgrade import upgrade
from upgraded_process import Address, UpgradedProcess, flags, started

from fastserve.listeners import Group, Listener
from fastserve.systemd import MOST_UNSENT, Notifier, heritage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")

UNIT = Path(__file__).parent.parent / "examples" / "systemd" / "fastserve.service"
APP_WITH_ENVIRONMENT = APP + """
@app.get("/environment")
def environment():
    return [name for name in os.environ
            if name.startswith(("NOTIFY", "WATCHDOG", "LISTEN_", "FDSTORE"))]
"""
# Opens sockets as systemd does, and becomes the server: ADDRESSES NAMES COMMAND...
LAUNCHER = """
import os, socket, sys
numbers = [int(number) for number in sys.argv[1].split(",")]
for number in numbers:
    os.set_inheritable(number, True)
assert numbers == list(range(3, 3 + len(numbers)))
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers)),
               "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


class Manager:
    """systemd's end: what it was told, and the sockets that it keeps."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.bind(address.replace("@", "\0", 1))
        self.sock.setblocking(False)
        self.told: list[dict[str, str]] = []
        self.stored: dict[str, int] = {}
        self.is_slow = False        # it has not yet acted on what it was told
        self.barriers: list[int] = []

    def listen(self) -> list[dict[str, str]]:
        """All that it was told so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, beside, _, _ = self.sock.recvmsg(65536, 4096)
                message = dict(line.split("=", 1) for line in data.decode().splitlines())
                self.keep(message, beside)
                self.told.append(message)
        while self.barriers and not self.is_slow:
            os.close(self.barriers.pop())
        return self.told

    def keep(self, message, beside):
        """What is to be kept, and what no longer."""
        for level, kind, data in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                (number,) = array.array("i", data)
                if "BARRIER" in message:
                    self.barriers.append(number)
                else:
                    self.stored[message["FDNAME"]] = number
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                message["pid"] = str(array.array("i", data)[0])
        if "FDSTOREREMOVE" in message and message["FDNAME"] in self.stored:
            os.close(self.stored.pop(message["FDNAME"]))

    def said(self, name: str) -> list[str]:
        """Every value that one name had, in order."""
        return [message[name] for message in self.listen() if name in message]


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"@fastserve-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.sock.close()
    for number in manager.stored.values():
        os.close(number)


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "main.py"
    path.write_text(APP_WITH_ENVIRONMENT)
    return path


def serve(tmp_path, code, manager, *more, **variables):
    """A server with two workers that talks to the manager."""
    environment = {
        **ENVIRONMENT, "NOTIFY_SOCKET": manager.address, "LISTEN_PID": "1", "LISTEN_FDS": "1",
        **variables}
    return started(
        tmp_path, "-m", "fastserve", "run", str(code), "--workers", "2", "--port", "0",
        "--graceful-timeout-s", "5", *flags(tmp_path), *more, env=environment)


def test_it_is_told_of_code_that_a_canary_refused(tmp_path, code, manager):
    """For as long as that is what a worker that dies comes back with."""
    with serve(tmp_path, code, manager, "--canary", "1", "--canary-s", "1") as server:
        until(lambda: manager.said("READY"))
        code.write_text("1 / 0")
        server.send(signal.SIGHUP)
        until(lambda: "refused" in manager.said("STATUS")[-1])
        assert re.fullmatch(
            "serving: 2 of 2 workers; the code on disk was refused: .*could not start.*",
            manager.said("STATUS")[-1])
        code.write_text(APP_WITH_ENVIRONMENT)
        server.send(signal.SIGHUP)
        until(lambda: manager.said("STATUS")[-1] == "serving: 2 of 2 workers")


def test_it_is_told_what_a_server_with_workers_does(tmp_path, code, manager):
    """Ready once every worker serves, reloading, ready again, stopping; nobody else is told."""
    with serve(tmp_path, code, manager) as server:
        until(lambda: manager.said("READY"))
        assert server.log.count("listening on") == 2
        assert manager.told[0]["STATUS"] == "starting"
        assert int(manager.told[0]["EXTEND_TIMEOUT_USEC"]) == 65_000_000
        assert manager.said("STATUS")[-1] == "serving: 2 of 2 workers"
        assert ask(Address(server.port), "/environment")[1] == []
        server.send(signal.SIGHUP)
        until(lambda: len(manager.said("READY")) == 2)
        (reloading,) = (message for message in manager.told if "RELOADING" in message)
        age_us = time.monotonic_ns() // 1000 - int(reloading["MONOTONIC_USEC"])
        assert 0 < age_us < 60_000_000
        assert manager.told.index(reloading) < max(
            index for index, message in enumerate(manager.told) if "READY" in message)
        until(lambda: len(children(server.pid)) == 2)
        os.kill(min(children(server.pid)), signal.SIGKILL)
        until(lambda: "serving: 1 of 2 workers" in manager.said("STATUS"))
        until(lambda: manager.said("STATUS")[-1] == "serving: 2 of 2 workers")
        pid = server.pid
        server.send(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert manager.said("STOPPING") == ["1"]
        assert manager.said("WATCHDOG") == []
        assert {message["pid"] for message in manager.told} == {str(pid)}


def test_a_reload_that_fails_is_over_too(tmp_path, code, manager):
    """It is ready again, with the old code."""
    with serve(tmp_path, code, manager) as server:
        until(lambda: manager.said("READY"))
        code.write_text("nonsense(")
        server.send(signal.SIGHUP)
        until(lambda: len(manager.said("READY")) == 2)
        assert "the reload failed" in server.log


def test_a_server_that_never_serves_is_never_ready(tmp_path, code, manager):
    """It ends, and has said why."""
    code.write_text("nonsense(")
    with serve(tmp_path, code, manager) as server:
        assert server.process.wait(30) == 3
    assert manager.said("READY") == []


def test_it_hears_of_the_supervisor_only_while_a_worker_is_alive(tmp_path, code, manager):
    """At less than half of the time; nothing when no loop turns, and again when one does."""
    with serve(tmp_path, code, manager, WATCHDOG_USEC="1000000") as server:
        until(lambda: len(manager.said("WATCHDOG")) > 5)
        pids = children(server.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: server.log.count("no turn of its loop") == 2)
        time.sleep(0.3)     # what was on its way
        before = len(manager.said("WATCHDOG"))
        time.sleep(1.5)
        assert len(manager.said("WATCHDOG")) == before
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        until(lambda: len(manager.said("WATCHDOG")) > before)


def test_a_watchdog_of_another_process_is_not_fed(tmp_path, code, manager):
    """WATCHDOG_PID says whose it is."""
    with serve(tmp_path, code, manager, WATCHDOG_USEC="200000", WATCHDOG_PID="1") as server:
        until(lambda: manager.said("READY"))
        server.send(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert manager.said("WATCHDOG") == []


def test_a_server_without_workers_says_the_same(tmp_path, code, manager):
    """Ready, alive, stopping."""
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    with started(tmp_path, "-m", "fastserve", "run", str(code), "--port", "0",
                 env=environment) as server:
        until(lambda: manager.said("READY"))
        until(lambda: len(manager.said("WATCHDOG")) > 3)
        port = int(re.search(r"http://127.0.0.1:(\d+)", server.log)[1])
        assert ask(Address(port), "/environment")[1] == []
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(manager.said("READY")) == 2)
        assert manager.said("RELOADING") == ["1"]
        server.process.terminate()
        assert server.process.wait(20) == 0
        assert manager.said("STOPPING") == ["1"]


def test_after_an_upgrade_the_main_process_is_another(tmp_path, code, manager):
    """The old one says so, as the one that is listened to; then the new one speaks."""
    with serve(tmp_path, code, manager, WATCHDOG_USEC="1000000") as server:
        until(lambda: manager.said("READY"))
        old = server.pid
        server.send(signal.SIGUSR2)
        until(lambda: manager.said("MAINPID") and not is_alive(old))
        new = server.pid
        until(lambda: len(manager.said("READY")) == 2)
        (moved,) = (message for message in manager.told if "MAINPID" in message)
        assert (moved["MAINPID"], moved["pid"]) == (str(new), str(old))
        behind = manager.told[manager.told.index(moved) + 1:]
        assert {message["pid"] for message in behind} == {str(new)}
        count = len(manager.said("WATCHDOG"))
        until(lambda: len(manager.said("WATCHDOG")) > count)
        assert ask(Address(server.port), "/environment")[1] == []


def test_the_next_main_process_is_no_grandchild(tmp_path, code, manager):
    """When it is told of: systemd waits for the end of none but a child, and kills at once."""
    code.write_text(APP_WITH_ENVIRONMENT.replace("import os", "import asyncio\nimport os", 1) + """
@app.get("/slow")
async def slow():
    await asyncio.sleep(3)
    return {}
""")
    with serve(tmp_path, code, manager) as server:
        until(lambda: manager.said("READY"))
        old = server.pid
        with socket.create_connection(("127.0.0.1", server.port), 20) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            server.send(signal.SIGUSR2)
            until(lambda: manager.said("MAINPID"))
            (new,) = map(int, manager.said("MAINPID"))
            parent = int(Path(f"/proc/{new}/stat").read_text().rpartition(")")[2].split()[1])
            assert is_alive(old)
            assert parent != old
            assert parent not in children(old)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


# --- sockets -----------------------------------------------------------------------------


@contextlib.contextmanager
def launched(tmp_path, sockets, command, **variables):
    """A server that inherits sockets from descriptor 3 on: {name: socket}."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "server.log").open("ab"))
        numbers = list(range(3, 3 + len(sockets)))
        sources = [os.dup(sock.fileno()) for sock in sockets.values()]
        for source in sources:
            stack.callback(os.close, source)

        def place():
            high = [os.dup2(source, 100 + index) for index, source in enumerate(sources)]
            for number, source in zip(numbers, high, strict=True):
                os.dup2(source, number)

        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, ",".join(map(str, numbers)), ":".join(sockets),
             "-m", "fastserve", "run", *command],
            stderr=log, cwd=tmp_path, start_new_session=True, preexec_fn=place, close_fds=False,
            env={**ENVIRONMENT, **variables})
        try:
            yield UpgradedProcess(tmp_path, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listening():
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, Address(sock.getsockname()[1])


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_socket_that_was_opened_for_it_is_served(tmp_path, code, workers):
    """Nothing else is: no address was asked for. What waited in it is answered."""
    (first, here), (second, there) = listening(), listening()
    with first, second, socket.create_connection(("127.0.0.1", here.port), 20) as early:
        early.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        sockets = {"web": first, "admin": second}
        with launched(tmp_path, sockets, [str(code), *workers]) as server:
            assert early.recv(100).startswith(b"HTTP/1.1 200 ")
            assert ask(there)[0] == 200
            assert ask(here, "/environment")[1] == []
            assert ":8000" not in server.log
            if workers:
                victim = min(children(server.process.pid))
                os.kill(victim, signal.SIGKILL)
            server.process.terminate()
            assert server.process.wait(20) == 0


def test_an_upgrade_keeps_the_sockets_that_were_opened_for_it(tmp_path, code):
    """Without LISTEN_FDS, which was for the first process alone."""
    (first, here), (second, there) = listening(), listening()
    with first, second:
        command = [str(code), "--workers", "2", "--graceful-timeout-s", "2", *flags(tmp_path)]
        with launched(tmp_path, {"web": first, "admin": second}, command) as server:
            until(lambda: server.log.count("listening on") == 2)
            upgrade(server)
            upgrade(server)
            assert ask(here)[0] == ask(there)[0] == 200


def test_an_address_that_is_given_comes_first(tmp_path, code):
    """The sockets are left alone, with a line that says so."""
    sock, here = listening()
    with sock, launched(tmp_path, {"web": sock}, [str(code), "--bind", "127.0.0.1:0"]) as server:
        until(lambda: "listening on" in server.log)
        assert "LISTEN_FDS: its sockets are left alone" in server.log
        assert f":{here.port}" not in server.log


@pytest.mark.parametrize("flag", [("--fd", "3"), ("--bind", "fd://3")])
def test_a_descriptor_that_is_named_is_one_of_them(tmp_path, code, flag):
    """As units for other servers have it."""
    sock, here = listening()
    with sock, launched(tmp_path, {"web": sock}, [str(code), *flag]) as server:
        until(lambda: "listening on" in server.log)
        assert "left alone" not in server.log
        assert ask(here)[0] == 200


def test_what_does_not_listen_is_refused(tmp_path, code):
    """A unit whose socket is a datagram's, or connected."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, \
            launched(tmp_path, {"web": sock}, [str(code)]) as server:
        assert server.process.wait(30) == 1
        assert "the socket 3 of LISTEN_FDS: it is no stream socket" in server.log


def test_nothing_is_taken_that_is_for_another_process():
    """LISTEN_PID says whose; the variables go in any case."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "LISTEN": "x"}
    found = heritage(environ)
    assert (found.sockets, found.activated) == ({}, [])
    assert environ == {"LISTEN": "x"}


def test_a_restart_loses_nothing_where_the_sockets_are_kept(tmp_path, code, manager):
    """Each slot's own comes back to it, with what waits in it; what is retired is not kept."""
    path = tmp_path / "the.sock"
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'workers = 3\nbind = ["127.0.0.1:0", "unix:{path}"]\ngraceful_timeout_s = 5\n')
    command = [str(code), "--config", str(settings), *flags(tmp_path)]
    variables = {"NOTIFY_SOCKET": manager.address, "FDSTORE": "16"}
    with started(tmp_path, "-m", "fastserve", "run", *command,
                 env={**ENVIRONMENT, **variables}) as server:
        until(lambda: len(stored(manager)) == 4)
        manager.is_slow = True
        server.send(signal.SIGTTOU)
        until(lambda: len(stored(manager)) == 3 and manager.barriers)
        until(lambda: [slot["state"] for slot in server.status()["slots"]][2:] == ["retiring"]
              and "pid" not in server.status()["slots"][2] and not server.status()["leaving"])
        assert len(server.status()["slots"]) == 3   # it may still hold the listener
        manager.is_slow = False
        until(lambda: manager.listen() and len(server.status()["slots"]) == 2)
        port = server.port
        server.send(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert path.exists()    # the listener behind it is
    assert sorted(manager.stored) == [
        "fastserve-0-tcp%3A127.0.0.1%3A0", f"fastserve-0-unix%3A{str(path).replace('/', '%2F')}",
        "fastserve-1-tcp%3A127.0.0.1%3A0"]
    clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(20)]
    clients.append(socket.socket(socket.AF_UNIX))
    clients[-1].settimeout(20)
    clients[-1].connect(str(path))
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    kept = {name: socket.socket(fileno=number)
            for name, number in sorted(manager.stored.items(), reverse=True)}
    manager.stored = {}
    settings.write_text(settings.read_text().replace("workers = 3", "workers = 1"))
    code.write_text(     # it starts for longer than a slot that is too many is emptied
        APP_WITH_ENVIRONMENT + "\nimport time; time.sleep(1.5)")
    with launched(tmp_path, kept, command, **variables) as server:
        for sock in kept.values():
            sock.close()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            client.close()
        until(lambda: "fastserve-1-tcp%3A127.0.0.1%3A0" in [
            message["FDNAME"] for message in manager.listen() if "FDSTOREREMOVE" in message])
        until(lambda: manager.listen() and len(server.status()["slots"]) == 1)
        assert server.port == port
        assert ask(Address(port), "/environment")[1] == []


def stored(manager):
    """What it keeps by now."""
    manager.listen()
    return manager.stored


def test_a_reload_that_cannot_be_is_over_for_who_asked(tmp_path, code, manager):
    """Type=notify-reload: systemd waits for RELOADING and READY behind every HUP it sends."""
    with serve(tmp_path, code, manager, "--preload") as server:
        until(lambda: manager.said("READY"))
        told = len(manager.listen())
        server.send(signal.SIGHUP)
        until(lambda: "RELOADING" in [name for message in manager.listen()[told:]
                                      for name in message])
        until(lambda: "READY" in [name for message in manager.listen()[told:]
                                  for name in message])
        assert "without --preload" in server.log


def test_what_nobody_wants_any_more_is_given_back(tmp_path, code, manager):
    """Settings that name another address now."""
    sock, here = listening()
    name = f"fastserve-0-tcp%3A127.0.0.1%3A{here.port}"
    with sock, launched(
            tmp_path, {name: sock}, [str(code), "--workers", "1", "--bind", "127.0.0.1:0"],
            NOTIFY_SOCKET=manager.address, FDSTORE="16") as server:
        until(lambda: manager.said("READY"))
        assert [message["FDNAME"] for message in manager.told if "FDSTOREREMOVE" in message] \
            == [name]
        assert f":{here.port}" not in server.log
        server.process.terminate()
        assert server.process.wait(20) == 0


# --- the notifier ------------------------------------------------------------------------


def test_without_a_manager_nobody_is_told():
    """No variable, or one that is no address of a socket."""
    for variables in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"},
                      {"NOTIFY_SOCKET": "relative", "FDSTORE": "7", "WATCHDOG_USEC": "many"}):
        notifier = Notifier.from_environment(variables)
        notifier.ready("serving")
        notifier.alive()
        assert variables == {}
        assert notifier.environment() == {}
        assert notifier.stores == 0


def test_the_next_process_is_told_where_it_is(tmp_path):
    """By the variables that were taken, without that of the process."""
    variables = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000",
                 "WATCHDOG_PID": str(os.getpid()), "FDSTORE": "3"}
    notifier = Notifier.from_environment(variables)
    assert notifier.environment() == {
        "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000", "FDSTORE": "3"}
    notifier.leave()


def test_a_manager_that_is_busy_hears_it_later(manager):
    """Nothing is lost but what is beyond a bound, and nothing waits."""
    notifier = Notifier(manager.address)
    count = MOST_UNSENT + 500
    for number in range(count):
        notifier.send(STATUS=number)
    while len(manager.listen()) < MOST_UNSENT:
        before = len(manager.told)
        notifier.flush()
        assert len(manager.listen()) > before
    heard = [int(status) for status in manager.said("STATUS")]
    assert heard == list(range(len(heard)))
    notifier.leave()


def test_the_last_word_is_waited_for(manager):
    """For a manager that is busy when the process ends."""
    notifier = Notifier(manager.address)
    for number in range(50):
        notifier.send(STATUS=number)
    reader = threading.Thread(target=lambda: until(lambda: "STOPPING" in manager.listen()[-1]))
    notifier.stopping(1)
    reader.start()
    notifier.leave()
    reader.join()
    assert manager.told[-1]["STOPPING"] == "1"


def test_a_manager_that_is_gone_is_not_missed(tmp_path):
    """The server serves on."""
    manager = Manager(str(tmp_path / "gone"))
    manager.sock.close()
    notifier = Notifier(manager.address)
    notifier.ready("serving")
    (tmp_path / "gone").unlink()
    notifier.ready("serving")
    assert not notifier._unsent
    notifier.leave()


def test_no_more_is_stored_than_it_takes(manager):
    """FileDescriptorStoreMax; and no descriptor of ours is left open for it."""
    sockets = [listening()[0] for _ in range(4)]
    group = Group("tcp:a:1", [Listener(sock, "") for sock in sockets], None)
    before = len(os.listdir("/proc/self/fd"))
    notifier = Notifier(manager.address, stores=3)
    notifier.store([group], 2)
    notifier.store([group], 4)
    notifier.store([group], 4)
    notifier.leave()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(stored(manager)) == 3
    group.close()


# --- the unit ----------------------------------------------------------------------------


def test_the_example_is_a_unit_that_systemd_takes(tmp_path, needs):
    """`systemd-analyze verify`, with commands and users that exist here."""
    text = UNIT.read_text().replace("/srv/app/venv/bin/fastserve", sys.executable)
    (tmp_path / "fastserve.service").write_text(text)
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", "--man=no", str(tmp_path / "fastserve.service")],
        capture_output=True, text=True, timeout=60, check=False)
    assert "fastserve.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
