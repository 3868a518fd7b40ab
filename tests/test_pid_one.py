"""A supervisor as process 1 of a container: it buries everybody, and signals reach it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_supervisor import APP, ask, children, until
from upgraded_process import Address, started

from fastserve.control import ask as ask_control

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

# Processes that outlive who started them, and so become children of process 1.
ORPHANS = """
@app.get("/orphans")
def orphans():
    import subprocess
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    subprocess.run(["sh", "-c", f"({wait}; exit 3) & ({wait}; exit 4) & "
                    f"sh -c '{wait}; kill -9 $$' & sh -c '{wait}; kill -15 $$' &"],
                   check=True)
    return {}
"""
NAMESPACE = ("--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def server(tmp_path, needs):
    unshare = needs("unshare")
    tried = subprocess.run(
        [unshare, *NAMESPACE, "true"], capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode:
        pytest.skip(f"no namespace of processes for us: {tried.stderr.strip()}")
    (tmp_path / "main.py").write_text(APP + ORPHANS)
    become = f"import os, sys; os.execv({unshare!r}, sys.argv[1:])"
    with started(
            tmp_path, "-c", become, unshare, *NAMESPACE, sys.executable, "-m", "fastserve", "run",
            "main.py", "--workers", "2", "--port", "0", "--control", "control.sock",
            "--graceful-timeout-s", "5") as server:
        until(lambda: server.log.count("listening on") == 2)
        yield server


def status_of(pid):
    """The fields of a process's status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_strangers_that_end_change_nothing(server, tmp_path):
    """Whatever their status: nobody halts, nobody is left a zombie; TERM ends it with 0."""
    (supervisor,) = children(server.process.pid)
    assert status_of(supervisor)["NSpid"].split()[-1] == "1"
    workers = children(supervisor)
    port = server.port
    for _ in range(3):
        assert ask(Address(port), "/orphans")[0] == 200
        until(lambda: len(children(supervisor)) == len(workers) + 4)
        (tmp_path / "go").touch()
        until(lambda: children(supervisor) == workers)
        (tmp_path / "go").unlink()
    assert "Z" not in {status_of(pid)["State"][0] for pid in workers}
    found = ask_control(str(tmp_path / "control.sock"), {"command": "status"}, 30)
    assert found["pid"] == 1
    assert found["state"] == "serving"
    assert "exit status" not in server.log
    assert "was ended" not in server.log
    os.kill(supervisor, signal.SIGTERM)
    assert server.process.wait(20) == 0


def test_a_worker_is_replaced_as_elsewhere(server):
    """Process 1 knows its own."""
    (supervisor,) = children(server.process.pid)
    victim = min(children(supervisor))
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in children(supervisor) and len(children(supervisor)) == 2)
    until(lambda: server.log.count("listening on") == 3)


def test_it_cannot_be_upgraded(server, tmp_path):
    """Its end would be the end of its successor: that is said, and it serves on."""
    answer = ask_control(str(tmp_path / "control.sock"), {"command": "upgrade"}, 30)
    assert answer["ok"] is False
    assert "this is process 1" in answer["error"]
    (supervisor,) = children(server.process.pid)
    os.kill(supervisor, signal.SIGUSR2)
    until(lambda: "USR2: this is process 1" in server.log)
    assert ask(Address(server.port))[0] == 200
