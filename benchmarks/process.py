"""A server as a process: started on one core, watched through /proc, stopped as a whole."""

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from benchmarks.cases import Case
from benchmarks.probe import Answer, ask
from benchmarks.servers import PEERS, ROOT


class ServerFailed(Exception):
    """The server did not come up, or did not stay up."""


def free_port() -> int:
    """A port that nobody uses, and that the kernel gives to nobody until a server binds it."""
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    lowest = max(1024, below - 20_000)
    dice = random.SystemRandom()
    while True:
        port = dice.randrange(lowest, max(below, lowest + 10_000))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def raise_file_limit() -> None:
    """As many open files as we are allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found


def pss_bytes(pids: list[int]) -> int:
    """The memory that is theirs: shared pages count by their share."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def _exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


class Running:
    """A started server; a context manager that stops it and all its children.

    variables: of its environment, above those of this process
    """

    def __init__(
        self,
        command: list[str],
        port: int,
        core: int,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        environment = {**os.environ, "PYTHONPATH": str(PEERS), "PYTHONUNBUFFERED": "1"}
        environment.update(variables or {})

        def prepare() -> None:
            os.sched_setaffinity(0, {core})
            raise_file_limit()

        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - there are no threads here
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self, case: Case, timeout: float = 20, pause: float = 0.01) -> Answer:
        """The first answer to the case's request, checked."""
        return self.wait_answer(
            case.request, lambda answer: answer.check(case.expect), timeout, pause)

    def wait_answer(
        self,
        request: bytes,
        check: Callable[[Answer], None],
        timeout: float = 20,
        pause: float = 0.01,
    ) -> Answer:
        """The first answer to the request, once the server takes connections; `check` judges it."""
        while True:
            if self.process.poll() is not None:
                raise ServerFailed(self.explain(ServerFailed("did not come up")))
            try:
                answer = ask(self.port, request)
            except OSError as error:
                if time.monotonic() - self.started > timeout:
                    raise ServerFailed(f"no answer in {timeout:.0f} s ({error})") from error
                time.sleep(pause)
            else:
                check(answer)
                return answer

    def pids(self) -> list[int]:
        return tree(self.process.pid)

    def log_text(self) -> str:
        # Not by seeking: the server writes at the same offset.
        fd = self.log.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    def last_words(self) -> str:
        lines = self.log_text().strip().splitlines()
        return " | ".join(lines[-3:])[-400:]

    def explain(self, error: Exception) -> str:
        """What went wrong, seen from both sides."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(0.2)
            return f"died ({_exit(code)}): {self.last_words() or error}"
        return f"{error} {self.last_words()}".strip()

    def stop(self) -> None:
        """Ask, then insist; the session was started for this server alone."""
        for signum, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                if not self._group_lives():
                    break
        self.log.close()

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True
