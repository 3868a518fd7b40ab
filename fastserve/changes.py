"""Files that change: a process of its own that watches directories and tells its parent.

The parent may run no thread, and the watcher (watchfiles) is one: so it is forked, closes what
is not its own, and for each batch of changes writes a line into a pipe and sends HUP. It ends
when its parent has. What matters is decided here too: which directories are never looked into,
and which names are asked for.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import os
import select
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NoReturn

from fastserve.errors import ConfigError, MissingExtraError
from fastserve.forking import fork, let_go_of_signals

PYTHON = "*.py"
NEVER = frozenset({"__pycache__", "node_modules", "site-packages"})     # nor what begins with a dot
QUIET_MS, LONGEST_MS = 50, 1000     # a batch ends when nothing has changed for so long
LOOK_UP_MS = 200                    # how often it looks whether its parent lives
LINE_BYTES = 65536

logger = logging.getLogger("fastserve")


@dataclass(frozen=True)
class Watched:
    """What is watched.

    directories:  real paths
    include:      patterns of names, or of paths below a directory, beside `*.py`
    exclude:      patterns that win over those; the name of a directory is all below it
    """

    directories: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def below(
        cls, directories: Sequence[str], include: Sequence[str], exclude: Sequence[str]
    ) -> Watched:
        """The same with real paths. Raises ConfigError for what is no directory."""
        real = []
        for directory in directories:
            if not os.path.isdir(directory):
                raise ConfigError(f"reload_dir={directory!r}: must be a directory")
            real.append(os.path.realpath(directory))
        kept = [one for one in real if not any(_inside(one, other) for other in real)]
        return cls(tuple(dict.fromkeys(kept)), tuple(include), tuple(exclude))

    def wants(self, path: str) -> bool:
        """Whether a change of this file matters."""
        root = next((one for one in self.directories if _inside(path, one)), None)
        if root is None:
            return False
        below = os.path.relpath(path, root)
        directories, name = below.split(os.sep)[:-1], os.path.basename(path)
        if any(part.startswith(".") or part in NEVER for part in directories):
            return False
        if not _matches(name, below, (PYTHON, *self.include)):
            return False
        prefixes = [os.sep.join(directories[:n + 1]) for n in range(len(directories))]
        if _matches(name, below, self.exclude) or any(
                _matches(os.path.basename(one), one, self.exclude) for one in prefixes):
            return False
        return not any(
            os.path.exists(os.path.join(root, one, "pyvenv.cfg")) for one in prefixes)


def _inside(path: str, directory: str) -> bool:
    return path != directory and path.startswith(directory.rstrip(os.sep) + os.sep)


def _matches(name: str, path: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatch(one, pattern.rstrip("/")) for pattern in patterns for one in (name, path))


class Watcher:
    """The process, as its parent knows it."""

    def __init__(self, watched: Watched) -> None:
        if find_spec("watchfiles") is None:
            raise MissingExtraError("fastserve dev", "dev")
        self.watched = watched
        self.pid = 0
        self._pipe = -1
        self._unread = b""

    def start(self) -> None:
        """Fork it, in the place of one that has ended; where that cannot be, say so."""
        self.close()
        self._unread = b""
        parent = os.getpid()
        try:
            self._pipe, writing = os.pipe()
        except OSError as error:
            logger.error("cannot watch files: %s", error)
            return
        os.set_blocking(self._pipe, False)
        try:
            self.pid = fork(lambda: _become_watcher(self.watched, writing, parent))
        except OSError as error:
            logger.error("cannot watch files: %s", error)
            os.close(self._pipe)
        finally:
            os.close(writing)

    @property
    def lives(self) -> bool:
        """Whether it watches: its end of the pipe is open."""
        if self.pid == 0:
            return False
        poll = select.poll()
        poll.register(self._pipe, 0)
        return not poll.poll(0)

    def take(self) -> list[str]:
        """The files that have changed since the last question."""
        found: list[str] = []
        while self.pid != 0:
            try:
                data = os.read(self._pipe, LINE_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                found += json.loads(line)
        return sorted(set(found))

    def close(self) -> None:
        """End it."""
        if self.pid != 0:
            if self.lives:      # else the number may be another's by now
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.forget()

    def forget(self) -> None:
        """In a process that is not its parent: let go of the pipe."""
        if self.pid != 0:
            os.close(self._pipe)
            self.pid = 0


def _become_watcher(watched: Watched, writing: int, parent: int) -> NoReturn:
    status = 1
    try:
        let_go_of_signals()
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        _report(watched, writing, parent)
        status = 0
    except BaseException as error:
        logger.error("cannot watch files: %s (many files: name fewer by --reload-dir, or raise "
                     "fs.inotify.max_user_watches)", error)
    finally:
        os._exit(status)


def _report(watched: Watched, writing: int, parent: int) -> None:
    from watchfiles import watch

    watching = False
    for changes in watch(
        *watched.directories,
        watch_filter=lambda _, path: watched.wants(path),
        step=QUIET_MS, debounce=LONGEST_MS, rust_timeout=LOOK_UP_MS, yield_on_timeout=True,
        raise_interrupt=False, ignore_permission_denied=True,
    ):
        if os.getppid() != parent:
            return
        if not watching:
            watching = True
            logger.info("watching %s for changes", ", ".join(watched.directories))
        if changes:
            os.write(writing, json.dumps(sorted({path for _, path in changes})).encode() + b"\n")
            os.kill(parent, signal.SIGHUP)
