"""Why a worker ended, in words: its exit status, its signal, or the kernel's lack of memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

MEANINGS = {
    0: "ended by itself",
    1: "failed",
    3: "could not start",
}


class OomKills:
    """How often the kernel killed for memory in our cgroup, as far as it tells."""

    def __init__(self) -> None:
        self._path = self._find()
        self._count = self._read()

    def more(self) -> bool:
        """Whether there were more since the last question."""
        before, self._count = self._count, self._read()
        return self._count > before

    @staticmethod
    def _find() -> Path | None:
        try:
            for line in Path("/proc/self/cgroup").read_text().splitlines():
                number, _, path = line.split(":", 2)
                if number == "0":
                    return Path("/sys/fs/cgroup", path.lstrip("/"), "memory.events")
        except (OSError, ValueError):
            pass
        return None

    def _read(self) -> int:
        if self._path is None:
            return 0
        try:
            counts = dict(line.split() for line in self._path.read_text().splitlines())
            return int(counts.get("oom_kill", 0))
        except (OSError, ValueError):
            return 0


def kind_of(status: int, because: str, out_of_memory: bool) -> str:
    """The same in a word, one of readings.REASONS."""
    if not os.WIFSIGNALED(status):
        return "exited"
    if because:
        return "stalled"
    return "out_of_memory" if out_of_memory else "killed"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:      # one of the real-time signals
        return f"signal {number}"


def explain(status: int, because: str, out_of_memory: bool) -> str:
    """A sentence about an end, without its subject.

    status:         as waitpid() gives it
    because:        what we did it for, or nothing
    out_of_memory:  the kernel killed for memory just now
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        text = f"was ended by {_name(number)}"
        if because:
            text += f": {because}"
        elif number == signal.SIGKILL:
            text += ": out of memory" if out_of_memory else \
                ", not ours: somebody's kill -9, or the system was out of memory"
        if os.WCOREDUMP(status):
            text += " (core dumped)"
        return text
    code = os.WEXITSTATUS(status)
    return f"{MEANINGS.get(code, 'ended')} (exit status {code})"
