"""The pid file: whole, locked by who lives, and never another's to lose."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest
from test_supervisor import APP, ENVIRONMENT, until
from upgraded_process import started

from fastserve.errors import ConfigError
from fastserve.pidfile import PidFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "the.pid"


@contextlib.contextmanager
def in_place(path, **options):
    """A pid file of this process."""
    file = PidFile(str(path), **options)
    try:
        file.place()
        yield file
    finally:
        file.remove()


def test_it_names_this_process_while_it_lives(path):
    """Readable for all; nothing is left beside it, nor of it at the end."""
    with in_place(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
        assert os.listdir(path.parent) == ["the.pid"]
    assert os.listdir(path.parent) == []


def test_it_is_not_there_before_its_time(path):
    """What is written beside it goes, too, where it never came to its place."""
    file = PidFile(str(path))
    assert not path.exists()
    file.remove()
    assert os.listdir(path.parent) == []


def test_a_server_that_runs_is_not_replaced(path):
    """Its lock tells, and the line names it."""
    with in_place(path):
        with pytest.raises(ConfigError, match=f"the server of process {os.getpid()} runs"):
            PidFile(str(path))
        assert os.listdir(path.parent) == ["the.pid"]
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", [b"", b"1\n", b"999999999\n", b"%d\n" % os.getppid()])
def test_what_a_dead_server_left_is_replaced(path, text):
    """Even where its number is somebody else's by now."""
    path.write_bytes(text)
    with in_place(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", [b"import fastserve\n", b"1" * 100, b"-1", b"12 34"])
def test_what_is_no_pid_file_is_left_alone(path, text):
    """A path that was mistyped costs nobody a file."""
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="is no pid file: take another path"):
        PidFile(str(path))
    assert path.read_bytes() == text


def test_what_is_no_file_is_left_alone(path):
    """A directory, a pipe, which nobody waits for."""
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is no pid file"):
        PidFile(str(path))
    with pytest.raises(ConfigError, match="is no pid file"):
        PidFile(str(path.parent))


def test_anothers_is_not_removed(path):
    """Who came after us has replaced it."""
    first = PidFile(str(path))
    first.place()
    with in_place(path, replaces=True):
        first.remove()
        assert path.exists()
    assert not path.exists()


def test_a_path_that_cannot_be_is_one_line(path):
    """No such directory; a device that is full."""
    with pytest.raises(ConfigError, match=r"pid_file='.*gone/the.pid': cannot be written: No such"):
        PidFile(str(path.parent / "gone" / "the.pid"))


def test_a_full_disk_is_one_line_and_nothing_is_left(path, monkeypatch):
    """It is found out before anybody relies on it."""
    def write(number, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        PidFile(str(path))
    assert os.listdir(path.parent) == []


def test_a_forked_process_does_not_hold_the_lock(path):
    """A worker that outlives its supervisor is not the server."""
    file = PidFile(str(path))
    file.place()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        file.close_in_child()
        theirs.send(b"closed")
        theirs.recv(1)
        os._exit(0)
    assert ours.recv(10) == b"closed"
    os.close(file._number)      # as the end of this process would
    with path.open() as left:
        fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
    ours.send(b"x")
    os.waitpid(pid, 0)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_server_writes_it_and_removes_it(tmp_path, path, workers):
    """By either kind; a second server with it is refused, and one killed is no hindrance."""
    (tmp_path / "main.py").write_text(APP)
    command = ("-m", "fastserve", "run", "main.py", "--port", "0", "--pid-file", str(path),
               *workers)
    with started(tmp_path, *command) as server:
        until(lambda: path.exists() and path.read_text() == f"{server.process.pid}\n")
        second = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True,
            text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert f"the server of process {server.process.pid} runs" in second.stderr
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    assert path.exists()
    with started(tmp_path, *command) as server:
        until(lambda: path.exists() and path.read_text() == f"{server.process.pid}\n")
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert not path.exists()
