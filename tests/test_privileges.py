"""Workers as another user: from root, for good. These tests are root's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from server_process import is_alive
from test_supervisor import ENVIRONMENT, ask, children, until
from test_upgrade import loads, upgrade
from upgraded_process import Address, flags, started

from fastserve.config import Config
from fastserve.errors import ConfigError, StartupError
from fastserve.privileges import User

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may become somebody else")

NOBODY = 65534
APP = """
import os
from fastserve import App

app = App()
IMPORTED_AS = os.getresuid()

def can(do, *arguments):
    try:
        do(*arguments)
    except PermissionError:
        return False
    return True

@app.get("/")
def home():
    return {
        "pid": os.getpid(), "imported_as": IMPORTED_AS,
        "user": os.getresuid(), "group": os.getresgid(), "groups": os.getgroups(),
        "regains": [can(os.setuid, 0), can(os.seteuid, 0), can(os.setgid, 0),
                    can(os.setgroups, [0]), can(open, "/etc/shadow")],
    }
"""


@pytest.fixture
def tmp_path():
    """A directory that others may read, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="fastserve-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "main.py"
    path.write_text(APP)
    return path


def command(tmp_path, code, *more):
    """With asyncio's loop, which is imported already: the Python itself may be root's alone."""
    return ("-m", "fastserve", "run", str(code), "--workers", "2", "--graceful-timeout-s", "5",
            "--user", str(NOBODY), "--loop", "asyncio", *more, *flags(tmp_path))


def test_a_worker_is_another_user_before_the_application_is_imported(tmp_path, code):
    """In every identity, with that user's groups alone, and there is no way back."""
    more = ("--port", "0", "--group", "12345")
    with started(tmp_path, *command(tmp_path, code, *more)) as server:
        until(lambda: server.log.count("listening on") == 2)
        found = ask(Address(server.port))[1]
        assert found["imported_as"] == found["user"] == [NOBODY] * 3
        assert found["group"] == [12345] * 3
        assert 12345 in found["groups"]
        assert 0 not in found["groups"]
        assert found["regains"] == [False] * 5
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "\nUid:\t0\t0\t0\t0\n" in status


def test_the_supervisor_still_scales_reloads_and_upgrades(tmp_path, code):
    """More listeners of the port need the owner of the first; nobody is lost."""
    with started(tmp_path, *command(tmp_path, code, "--port", "0")) as server:
        until(lambda: server.log.count("listening on") == 2)
        with loads(server):
            server.send(signal.SIGTTIN)
            until(lambda: len(server.status()["slots"]) == 3
                  and all(slot["state"] == "serving" for slot in server.status()["slots"]))
            assert server.ask("reload") == {"ok": True}
            upgrade(server)
            upgrade(server)
        assert ask(Address(server.port))[1]["user"] == [NOBODY] * 3
        before = server.pid
        until(lambda: len(children(before)) == 2)
        victim = min(children(before))
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in children(before) and len(children(before)) == 2)
        server.send(signal.SIGTERM)
        until(lambda: not is_alive(before))
        assert "Traceback" not in server.log


def test_a_port_and_a_unix_socket_of_roots(tmp_path, code):
    """Below 1024, and in a directory that only root may write to."""
    port = next(port for port in range(601, 1000) if is_free(port))
    more = ("--bind", f"127.0.0.1:{port}", "--bind", f"unix:{tmp_path}/the.sock",
            "--uds-owner", str(NOBODY), "--uds-mode", "600")
    with started(tmp_path, *command(tmp_path, code, *more)) as server:
        until(lambda: server.log.count("listening on") == 2)
        assert ask(Address(port))[1]["user"] == [NOBODY] * 3
        assert (tmp_path / "the.sock").stat().st_uid == NOBODY
        assert (tmp_path / "control.sock").stat().st_uid == 0
        assert (tmp_path / "server.pid").stat().st_uid == 0


def test_code_that_the_user_may_not_read_is_one_line(tmp_path, code):
    """As the most likely mistake; no traceback of ours."""
    code.chmod(0o600)
    with started(tmp_path, *command(tmp_path, code, "--port", "0")) as server:
        assert server.process.wait(30) == 3
        assert f"user {NOBODY} may not read '{code}'" in server.log
        assert "Traceback" not in server.log


def test_logs_are_made_for_the_user(tmp_path, code):
    """In a directory that only root may write to, and again when they were moved."""
    logs = {tmp_path / "server.txt": "listening on", tmp_path / "access.txt": "GET"}
    server_log, access_log = logs
    more = ("--port", "0", "--log-file", str(server_log), "--access-log", "text",
            "--access-log-file", str(access_log))
    with started(tmp_path, *command(tmp_path, code, *more), ready="") as server:
        until(lambda: server_log.exists() and server_log.read_text().count("listening on") == 2)
        for _ in range(2):
            assert ask(Address(server.port))[0] == 200
            until(lambda: "GET" in access_log.read_text())
            for path in logs:
                assert path.stat().st_uid == NOBODY
                path.rename(path.with_suffix(".old"))
            server.send(signal.SIGUSR1)
            until(lambda: server_log.exists() and access_log.exists()
                  and server_log.read_text().count("reopened the logs") == 2)


def test_a_line_of_the_supervisor_makes_its_log_for_the_user(tmp_path, code):
    """When the file was moved, and before anybody sent USR1: else no worker could open it."""
    path = tmp_path / "server.txt"
    more = ("--port", "0", "--log-file", str(path))
    with started(tmp_path, *command(tmp_path, code, *more), ready="") as server:
        until(lambda: path.exists() and path.read_text().count("listening on") == 2)
        path.rename(path.with_suffix(".old"))
        server.send(signal.SIGTTIN)
        until(lambda: path.exists() and "listening on" in path.read_text())
        assert path.stat().st_uid == NOBODY
        server.send(signal.SIGUSR1)
        until(lambda: path.read_text().count("reopened the logs") == 3)


def is_free(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def test_who_is_not_root_is_refused(monkeypatch):
    """Since nothing would come of it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=r"user='nobody': only root may .* user 1000: start it"):
        User.from_config(Config(workers=1, user="nobody"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"user": "no-such-user"}, "user='no-such-user': there is no such user"),
        ({"user": "nobody", "group": "no-such-group"}, "group='no-such-group': there is no such"),
        ({"user": "root"}, "user='root' is root"),
        ({"user": "0"}, "user='0' is root"),
        ({"user": "54321"}, "user='54321' has no entry .* give group too"),
        ({"user": "4294967295"}, "there is no such user"),
    ],
)
def test_names_that_cannot_be_are_refused(settings, words):
    """With the name and the way out."""
    with pytest.raises(ConfigError, match=words):
        User.from_config(Config(workers=1, **settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"user": "nobody"}, "user='nobody' is for a server with workers, .* give workers too"),
        ({"user": "nobody", "workers": 2, "preload": True}, "user='nobody' contradicts preload"),
        ({"group": "nogroup", "workers": 2}, "group='nogroup' without user .* give user too"),
    ],
)
def test_settings_that_would_run_code_as_root_are_refused(settings, words):
    """Before anything is imported."""
    with pytest.raises(ConfigError, match=words):
        Config(**settings)


def test_a_user_without_a_name_has_the_one_group_that_is_given():
    """By numbers alone, as containers have it."""
    assert User.from_config(Config(workers=1, user="54321", group="12345")) \
        == User(54321, 12345, None)
    found = in_child(User(54321, 12345, None))
    assert found == {"user": [54321] * 3, "group": [12345] * 3, "groups": [12345], "root": False}


def in_child(user):
    """What a process is that became the user."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            user.become()
            root = True
            try:
                os.setuid(0)
            except PermissionError:
                root = False
            os.write(write, json.dumps({
                "user": os.getresuid(), "group": os.getresgid(), "groups": os.getgroups(),
                "root": root}).encode())
        os._exit(0)
    os.close(write)
    with open(read) as told:
        text = told.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def test_one_who_could_go_back_does_not_start(monkeypatch):
    """The system's word is not taken for it: what only looks like another user is found out."""
    monkeypatch.setattr(os, "setresuid", lambda *_: None)
    monkeypatch.setattr(os, "setresgid", lambda *_: None)
    monkeypatch.setattr(os, "setgroups", lambda *_: None)
    with pytest.raises(StartupError, match="still user"):
        User(54321, 12345, None).become()
    monkeypatch.setattr(os, "getresuid", lambda: (54321,) * 3)
    monkeypatch.setattr(os, "getresgid", lambda: (12345,) * 3)
    with pytest.raises(StartupError, match="can become root again"):
        User(54321, 12345, None).become()


def test_a_system_that_refuses_is_said_so(tmp_path):
    """A container without CAP_SETUID: the worker does not start, and nothing runs as root."""
    script = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "for capability in (6, 7): assert libc.prctl(24, capability, 0, 0, 0) == 0\n"
        "import sys\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'fastserve', 'run', 'main.py', "
        "'--workers', '1', '--port', '0', '--user', '65534'])\n")
    (tmp_path / "main.py").write_text("raise SystemError('it was imported')")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True,
        text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "cannot become user 65534: Operation not permitted" in done.stderr
    assert "it was imported" not in done.stderr
