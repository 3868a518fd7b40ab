"""The file that names the process to send signals to, for who has no better way to know it.

Who wrote it holds a lock on it (flock) for as long as it lives, so that a number which is another
process's by now deceives nobody: a file that is locked belongs to a server that runs, and one that
is not is a leftover and is replaced. It is written whole beside its place and renamed into it, and
removed at the end only where it is still ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat

from fastserve.errors import ConfigError

MOST_BYTES = 64

logger = logging.getLogger("fastserve")


class StillRunsError(ConfigError):
    """The server that the file names runs."""


class PidFile:
    """The pid file of this process; not in its place before place().

    path:      where it will be
    replaces:  the server that holds it now hands it on
    Raises ConfigError where it cannot be written, or is a running server's.
    """

    def __init__(self, path: str, *, replaces: bool = False) -> None:
        self.path = os.path.abspath(path)   # the directory may be changed later
        self._setting = f"pid_file={path!r}"
        self._pid = os.getpid()
        self._beside = f"{self.path}.{self._pid}"
        if not replaces:
            probe(path)
        try:
            self._number = self._write()
        except OSError as error:
            raise ConfigError(f"{self._setting}: cannot be written: {error.strerror}") from None
        self._identity = os.fstat(self._number).st_ino, os.fstat(self._number).st_dev

    def place(self) -> None:
        """From now on it names this process."""
        try:
            os.rename(self._beside, self.path)
        except OSError as error:
            raise ConfigError(f"{self._setting}: cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        """Leave nothing of ours behind."""
        for path in (self._beside, self.path):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                if (found.st_ino, found.st_dev) == self._identity:
                    try:
                        os.unlink(path)
                    except OSError as error:
                        logger.warning("%s stays behind: %s", path, error.strerror)
        self.close_in_child()

    def close_in_child(self) -> None:
        """In a forked process: the lock is the parent's."""
        os.close(self._number)

    def _write(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)     # of an earlier process with our number
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        number = os.open(self._beside, flags, 0o644)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(number, b"%d\n" % self._pid)
        except OSError:
            os.close(number)
            os.unlink(self._beside)
            raise
        return number


def probe(path: str) -> None:
    """Raise ConfigError where a pid file cannot replace what is there; it is only read."""
    setting = f"pid_file={path!r}"
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{setting}: cannot be read: {error.strerror}") from None
    try:
        text = os.read(number, MOST_BYTES + 1).strip() \
            if stat.S_ISREG(os.fstat(number).st_mode) else b"?"
        if text and not (text.isdigit() and len(text) <= MOST_BYTES):
            raise ConfigError(
                f"{setting}: there is something else that is no pid file: "
                "take another path, or remove it")
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StillRunsError(
                f"{setting}: the server of process {text.decode()} runs: stop it first, "
                "or take another path") from None
    finally:
        os.close(number)
