"""The row of the unix socket, which all workers share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.acts import kill_parent, kill_workers, reload
from tests.faults.judging import judge, load_of
from tests.faults.serving import FASTSERVE, ROOT, Serving
from tests.hostile.report import Report


def l15(report: Report) -> None:
    """A unix socket: kills, reloads and the death of the supervisor lose nothing there either."""
    with tempfile.TemporaryDirectory(prefix="faults-") as home:
        path = f"{home}/app.sock"
        with Serving(unix=path) as server:
            found = kill_workers(server, 100 if report.full else 2, load_of(report))
            report.require("workers", found.notes["workers"], found.notes["workers"] == "all",
                           "all")
            judge(report, found, 0.1)
        with Serving(unix=path) as server:
            found = reload(server, 100 if report.full else 1, load_of(report))
            judge(report, found, 0.05)
        with Serving(unix=path) as server:
            found = kill_parent(server, 1)
            restart = found.notes["restart"]
            report.require("a restart over the file that was left", restart, restart == "serves",
                           "serves")
        report.require("the file at the end", os.path.exists(path), not os.path.exists(path),
                       "gone")
        foreign(report, Path(home))


def foreign(report: Report, home: Path) -> None:
    """What is there and not ours is left as it was."""
    cases: dict[str, Callable[[Path], contextlib.AbstractContextManager[object]]] = {
        "a file": _file, "a living socket": _living}
    for name, make in cases.items():
        path = home / "foreign"
        with make(path):
            before = os.lstat(path)
            done = subprocess.run(
                [FASTSERVE.python, "-m", "fastserve", "run", "tests/faults/app.py", "--workers",
                 "2", "--uds", str(path)],
                cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            same = (before.st_ino, before.st_mtime_ns) == (
                os.lstat(path).st_ino, os.lstat(path).st_mtime_ns)
        path.unlink()
        report.require(f"{name} in its place: status", done.returncode, done.returncode != 0,
                       "not 0")
        report.require("it is", "as it was" if same else "another", same, "as it was")


@contextlib.contextmanager
def _file(path: Path) -> object:
    path.write_text("mine")
    yield


@contextlib.contextmanager
def _living(path: Path) -> object:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        yield
