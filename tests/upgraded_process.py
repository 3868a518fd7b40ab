"""A server that may become another process: started for a test, and ended wherever it has gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from test_supervisor import ENVIRONMENT, until

from fastserve.control import ask


class UpgradedProcess:
    """A server with a pid file and a control socket in a directory, by whichever process."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process
        self.log_path = directory / "server.log"

    @property
    def log(self) -> str:
        """What its processes wrote to stderr so far."""
        return self.log_path.read_text()

    @property
    def port(self) -> int:
        """Its TCP port."""
        label = next(text for text in self.status()["listening"] if text.startswith("http"))
        return int(label.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The supervisor that its pid file names."""
        return int((self.directory / "server.pid").read_text())

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `fastserve ctl`."""
        return subprocess.run(
            [sys.executable, "-m", "fastserve", "ctl", "--control",
             str(self.directory / "control.sock"), *arguments],
            capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)

    def status(self) -> dict[str, Any]:
        """What `fastserve ctl status` says."""
        return self.ask("status")

    def ask(self, command: str) -> dict[str, Any]:
        """The answer of the control socket to a command."""
        return ask(str(self.directory / "control.sock"), {"command": command}, 60)

    def send(self, number: signal.Signals) -> None:
        """A signal to the supervisor that its pid file names."""
        os.kill(self.pid, number)


class Address:
    """What ask() wants to know of a server."""

    def __init__(self, port: int) -> None:
        self.port = port


@contextlib.contextmanager
def started(
    directory: Path, *command: str, ready: str = "listening on", **options: Any
) -> Iterator[UpgradedProcess]:
    """A command that starts a server; nothing of it is left behind.

    options:  of subprocess.Popen
    """
    log_path = directory / "server.log"
    options = {"env": ENVIRONMENT, "cwd": directory, **options}
    with log_path.open("ab") as log:    # ab: several processes write to it
        process = subprocess.Popen(
            [sys.executable, *command], stderr=log, start_new_session=True, **options)
    try:
        until(lambda: ready in log_path.read_text() or process.poll() is not None)
        yield UpgradedProcess(directory, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def flags(directory: Path) -> tuple[str, ...]:
    """Those that an UpgradedProcess needs."""
    return ("--pid-file", str(directory / "server.pid"),
            "--control", str(directory / "control.sock"))
