"""The server under attack, as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 30


class Server:
    """`fastserve run tests/hostile/app.py` on a free port; a context manager.

    options:  flags of `fastserve run`
    files:    its limit of open files; None for ours
    """

    def __init__(self, *options: str, files: int | None = None) -> None:
        self.options = options
        self.files = files

    def __enter__(self) -> Server:
        self._log = tempfile.NamedTemporaryFile(suffix=".log")
        with contextlib.ExitStack() as stack:
            if self.files is not None:
                before = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, before[1]))
                stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
            code = (
                "import resource, runpy, sys\n"
                f"files = {self.files}\n"
                "if files: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))\n"
                "runpy.run_module('fastserve', run_name='__main__', alter_sys=True)\n"
            )
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "run", "tests/hostile/app.py", "--port", "0",
                 *self.options],
                cwd=ROOT, stderr=self._log, stdout=subprocess.DEVNULL)
        self.pid = self.process.pid
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"listening on http://127.0.0.1:(\d+)", self.log)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log}")
            time.sleep(0.02)
        self.address = ("127.0.0.1", int(found[1]))
        self.lines_at_start = len(self.log.splitlines())
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def allow_files(self, count: int) -> None:
        """Change its limit of open files while it runs."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (count, hard))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    @property
    def log_lines(self) -> int:
        """Lines written since the start."""
        return len(self.log.splitlines()) - self.lines_at_start

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def connections(self) -> int:
        """Sockets it holds, the listener and the loop's own among them."""
        held = 0
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                held += os.readlink(entry.path).startswith("socket:")
        return held

    @property
    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def waited_s(self) -> float:
        """How long it was ready to run and others had the processors."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def wait_for_descriptors(self, count: int, timeout_s: float) -> int:
        """How many are open when no more than `count` are, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while self.descriptors > count and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.descriptors
