"""`fastserve ctl` and the socket behind it, against a real server with workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_process import serve_in_process

import fastserve
from fastserve.control import ask_for_board
from fastserve.errors import ConfigError
from fastserve.shm import read_board
from fastserve.status import lines

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}
APP = """
import asyncio
from fastserve import App

app = App()

@app.get("/")
def home():
    return "one"
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    with serve_in_process(
            tmp_path, "--workers", "2", "--control", "control.sock", "--boot-timeout-s", "20",
            "--graceful-timeout-s", "5", target="main.py") as server:
        deadline = time.monotonic() + 20
        while server.log.count("listening on") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield server


def ctl(directory, *arguments):
    """What `fastserve ctl` prints and returns."""
    return subprocess.run(
        [sys.executable, "-m", "fastserve", "ctl", "--control", "control.sock", *arguments],
        cwd=directory, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)


def status(directory):
    return json.loads(ctl(directory, "status", "--json").stdout)


def connect(directory):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(15)
    sock.connect(str(directory / "control.sock"))
    return sock


def test_status_tells_what_there_is(server, tmp_path):
    """For people and as JSON: every slot with its worker."""
    found = status(tmp_path)
    assert found["state"] == "serving"
    assert found["pid"] == server.process.pid
    assert [slot["state"] for slot in found["slots"]] == ["serving"] * 2
    assert all(slot["loop_turned_s_ago"] < 5 for slot in found["slots"])
    shown = ctl(tmp_path, "status")
    assert shown.returncode == 0
    assert f"slot 1: serving, worker {found['slots'][1]['pid']}" in shown.stdout


def test_the_board_is_given_to_read_and_not_to_write(server, tmp_path):
    """A descriptor comes with the answer; what the workers count is in it, and stays theirs."""
    path = str(tmp_path / "control.sock")
    fd = ask_for_board(path)
    try:
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)
        reading = read_board(fd)
        assert reading.pid == server.process.pid
        assert [worker.pid for worker in sorted(reading.workers, key=lambda each: each.slot)] == [
            slot["pid"] for slot in status(tmp_path)["slots"]]
        ctl(tmp_path, "scale", "3")
        assert len(read_board(fd).workers) == 3
    finally:
        os.close(fd)
    for _ in range(50):
        os.close(ask_for_board(path))
    with pytest.raises(ConfigError, match="nowhere.sock"):
        ask_for_board(str(tmp_path / "nowhere.sock"))


def test_reload_answers_when_the_new_workers_serve(server, tmp_path):
    """Status 0, and none of the old ones is left in its slot."""
    before = {slot["pid"] for slot in status(tmp_path)["slots"]}
    assert ctl(tmp_path, "reload").returncode == 0
    after = status(tmp_path)
    assert not before & {slot["pid"] for slot in after["slots"]}
    assert {slot["state"] for slot in after["slots"]} == {"serving"}


def test_a_reload_that_fails_says_so(server, tmp_path):
    """Status 1 and the reason; the old workers serve on."""
    before = [slot["pid"] for slot in status(tmp_path)["slots"]]
    (tmp_path / "main.py").write_text("nonsense(")
    failed = ctl(tmp_path, "reload")
    assert failed.returncode == 1
    assert "could not start" in failed.stderr
    assert [slot["pid"] for slot in status(tmp_path)["slots"]] == before
    server.log_path.write_text("")      # the traceback in it was asked for


def test_scale_answers_when_it_is_so(server, tmp_path):
    """Up and down; and what cannot be is refused."""
    assert ctl(tmp_path, "scale", "4").returncode == 0
    assert len(status(tmp_path)["slots"]) == 4
    assert ctl(tmp_path, "scale", "1").returncode == 0
    assert len(status(tmp_path)["slots"]) == 1
    refused = ctl(tmp_path, "scale", "0")
    assert refused.returncode == 1
    assert "0 workers cannot be" in refused.stderr
    assert ctl(tmp_path, "scale").returncode == 2
    assert ctl(tmp_path, "status", "3").returncode == 2


def test_drain_keeps_serving_and_is_not_ready(server, tmp_path):
    """For a load balancer that is to look elsewhere; new workers drain too."""
    assert ctl(tmp_path, "drain").returncode == 0
    assert status(tmp_path)["state"] == "draining"
    assert ctl(tmp_path, "reload").returncode == 0
    deadline = time.monotonic() + 10
    while True:
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(b"GET /-/ready HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = client.recv(1000)
        if answer.startswith(b"HTTP/1.1 503 "):
            break
        assert time.monotonic() < deadline
    assert b"connection: close" in answer.lower()


def ready(server):
    """What a load balancer is told on a connection of its own."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"GET /-/ready HTTP/1.1\r\nHost: a\r\n\r\n")
        return client.recv(1000)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_resume_undoes_drain(server, tmp_path):
    """In every worker, also one that starts meanwhile; as often as one likes."""
    for _ in range(2):      # the second one finds it so
        assert ctl(tmp_path, "drain").returncode == 0
    assert ctl(tmp_path, "scale", "3").returncode == 0
    assert status(tmp_path)["draining"] is True
    until(lambda: all(ready(server).startswith(b"HTTP/1.1 503 ") for _ in range(12)))
    pids = [slot["pid"] for slot in status(tmp_path)["slots"]]
    for _ in range(2):
        done = ctl(tmp_path, "resume", "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout) == {"ok": True}
    found = status(tmp_path)
    assert (found["state"], found["draining"]) == ("serving", False)
    assert [slot["pid"] for slot in found["slots"]] == pids
    until(lambda: all(ready(server).startswith(b"HTTP/1.1 200 ") for _ in range(12)))
    assert b"connection: close" not in ready(server).lower()
    assert ctl(tmp_path, "reload").returncode == 0
    assert ready(server).startswith(b"HTTP/1.1 200 ")
    assert ctl(tmp_path, "resume", "3").returncode == 2


def test_a_drain_shows_while_something_else_is_under_way(server, tmp_path):
    """Its word is the state's only when there is no other."""
    assert ctl(tmp_path, "drain").returncode == 0
    found = {**status(tmp_path), "state": "reloading"}
    assert "reloading, draining for" in lines(found)[0]
    assert "draining for" in lines(status(tmp_path))[0]
    assert "draining, draining" not in lines(status(tmp_path))[0]


def test_who_rests_or_stops_does_not_resume(server, tmp_path):
    """Status 1, and what to do."""
    server.process.send_signal(signal.SIGWINCH)
    until(lambda: status(tmp_path)["state"] == "resting")
    refused = ctl(tmp_path, "resume")
    assert refused.returncode == 1
    assert "the workers rest: reload starts them" in refused.stderr
    assert ctl(tmp_path, "reload").returncode == 0
    until(lambda: len(status(tmp_path)["slots"]) == 2)
    assert ctl(tmp_path, "resume").returncode == 0


@pytest.mark.parametrize("how", [(), ("--now",)])
def test_stop_stops(server, tmp_path, how):
    """As TERM or a second one do; the file is gone behind it."""
    assert ctl(tmp_path, "stop", *how).returncode == 0
    assert server.process.wait(10) == 0
    assert not (tmp_path / "control.sock").exists()
    gone = ctl(tmp_path, "status")
    assert gone.returncode == 1
    assert "is a server with workers running" in gone.stderr


def test_only_its_owner_may_use_it(server, tmp_path):
    """By the permissions of the file."""
    assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line", [b"nonsense", b"[]", b'{"command": "dance"}', b'{"command": "scale"}', b"{}", b"\xff"])
def test_what_makes_no_sense_is_refused(server, tmp_path, line):
    """With a reason, and the server goes on."""
    with connect(tmp_path) as client:
        client.sendall(line + b"\n")
        answer = json.loads(client.recv(1000))
    assert answer["ok"] is False
    assert answer["error"]
    assert status(tmp_path)["state"] == "serving"


def test_clients_that_mean_harm_are_cut(server, tmp_path):
    """One that says too much at once, those that say nothing for long, and more than a few."""
    with connect(tmp_path) as talker, pytest.raises(OSError, match="."):
        talker.sendall(b"x" * 4_000_000)
    silent = [connect(tmp_path) for _ in range(20)]
    begun = time.monotonic()
    assert status(tmp_path)["state"] == "serving"       # waits for its turn behind them
    assert time.monotonic() - begun < 15
    for client in silent:
        client.close()
