"""Logging for a process that has none: one handler on stderr or a file, control bytes escaped.

Nothing is configured on import. `configure()` is called by the doors, and once more in a worker
when it has imported the application; it steps back where that has set up logging itself, unless a
file was asked for. The names: "fastserve" for what the server does, "fastserve.error" for what
went wrong in a handler, "fastserve.access" for requests (access_log="logging").
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastserve.errors import ConfigError

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler      # CPython 3.10 takes no [Any]

LEVELS = ("critical", "error", "warning", "info", "debug")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
ROOT = "fastserve"
OURS = "fastserve"      # the name of the handler that configure() makes, and takes back
PATIENCE_MS = 100       # with a pipe that takes no line
PIECE_BYTES = 4096      # PIPE_BUF: a pipe that takes a line takes as much
MOST_WRITES = 1000      # of one line
OWN_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What every record has: the rest is what somebody gave as `extra`.
USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Text that cannot move a cursor or forge a line: control characters as \xNN.

    Line feeds stay, for tracebacks; whoever logs what a client sent escapes them itself.
    """
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


class PrintableFormatter(logging.Formatter):
    """The usual formatter, with every control character escaped but the line feed."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object on a line for each record, in ASCII.

    Its keys: time (UTC), level, logger, pid, message, then what was given as `extra`, exception
    and stack.
    """

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{seconds}.{int(record.created * 1e6) % 1_000_000:06d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        extra = {key: value for key, value in vars(record).items()
                 if key not in USUAL and key not in fields}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps({**fields, **extra}, default=str, allow_nan=False)
        except (TypeError, ValueError):     # keys that are no text, a number that is none, a circle
            shown = {str(key): repr(value) for key, value in extra.items()}
            return json.dumps({**fields, **shown})


class StderrHandler(_StreamHandler):
    """Lines for stderr, less those that nobody takes there: who serves must not wait.

    A pipe whose reader stands still, or a terminal that does, gets PATIENCE_MS once; what comes
    after that is left out and counted until it takes a line again.

    To have what others write not block is not ours to decide, so a pipe or a terminal is opened
    anew; what is written there at once also stays whole among the lines of other processes.

    before:  one whose descriptor it takes over, which this user perhaps could not open
    """

    def __init__(self, before: StderrHandler | None = None) -> None:
        super().__init__(sys.stderr)
        self._left_out = 0
        self._is_cut = False
        self._own: tuple[int, int, int] | None = None   # device, inode, number
        if before is not None:
            self._own, before._own = before._own, None

    def emit(self, record: logging.LogRecord) -> None:
        number = self._number()
        if number is None:
            super().emit(record)
            return
        try:
            text = self.format(record) + "\n"
        except Exception:
            self.handleError(record)
            return
        if self._left_out:
            text = f"{self._left_out} lines were left out, which nobody read\n{text}"
        data = text.encode(errors="backslashreplace")
        if self._is_cut:
            data = b"\n" + data
        left = self._write(number, data)
        self._left_out = self._left_out + 1 if left else 0
        self._is_cut = left != 0 and (self._is_cut or left < len(data))

    def _number(self) -> int | None:
        """Of stderr; None where that takes all it is given, a file, or is somebody's object."""
        if type(self.stream) is not io.TextIOWrapper:
            return None
        try:
            number = self.stream.fileno()
            there = os.fstat(number)
        except (OSError, ValueError):
            return None
        if stat.S_ISREG(there.st_mode):
            return None
        if not stat.S_ISSOCK(there.st_mode) and (there.st_dev, there.st_ino) != self._place():
            self._let_go()
            with contextlib.suppress(OSError):      # no /proc, or another user's
                own = os.open(f"/proc/self/fd/{number}", OWN_FLAGS)
                self._own = there.st_dev, there.st_ino, own
        return number

    def _place(self) -> tuple[int, int] | None:
        return None if self._own is None else self._own[:2]

    def _write(self, number: int, data: bytes) -> int:
        """Write as much as is taken; how many bytes are left."""
        blocks = self._own is None
        if self._own is not None:
            number = self._own[2]
        for _ in range(MOST_WRITES):
            if not data or (blocks and not self._takes(number)):
                break
            try:
                data = data[os.write(number, data[:PIECE_BYTES] if blocks else data):]
            except BlockingIOError:
                if not self._takes(number):
                    break
            except OSError:     # the reader has gone
                break
        return len(data)

    def _takes(self, number: int) -> bool:
        return takes_a_line(number, 0 if self._left_out else PATIENCE_MS)

    def _let_go(self) -> None:
        if self._own is not None:
            os.close(self._own[2])
            self._own = None

    def close(self) -> None:
        self._let_go()
        super().close()


def takes_a_line(number: int, timeout_ms: int = 0) -> bool:
    """Whether a short line can be written to a pipe, socket or terminal without waiting."""
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    wanted = select.POLLOUT | select.POLLNVAL   # macOS does not poll devices
    return any(events & wanted for _, events in poll.poll(timeout_ms))


class FileHandler(logging.FileHandler):
    """A file that is made anew when it was moved; where that cannot be, the old one goes on.

    make:  makes the file where it is missing; None: opening it does
    """

    def __init__(self, path: str, make: Callable[[str], None] | None = None) -> None:
        self._make = make
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> Any:
        if self._make is not None:
            self._make(self.baseFilename)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        renew(self)
        super().emit(record)


def renew(handler: logging.FileHandler) -> str:
    """Open the file of a handler anew if it was moved; why that cannot be, or nothing."""
    with handler.lock or contextlib.nullcontext():
        before = handler.stream
        if before is None or _is_at(before.fileno(), handler.baseFilename):
            return ""
        try:
            handler.stream = handler._open()
        except OSError as error:
            return f"{handler.baseFilename}: {error.strerror}"
        with contextlib.suppress(OSError):      # what it could not write is lost
            before.close()
    return ""


def configure(
    level: str,
    log_format: str = "text",
    log_file: str | None = None,
    make: Callable[[str], None] | None = None,
) -> None:
    """Send the "fastserve" loggers to stderr, unless the application configured logging.

    log_format:  "text" or "json"
    log_file:    to this file instead, whatever the application configured; when it is moved, the
                 next line makes it anew
    make:        makes it where it is missing, for whom it is to be; None: it is this process's
    Raises ConfigError when that cannot be opened.
    """
    logger = logging.getLogger(ROOT)
    logger.setLevel(level.upper())
    for name, other in list(logging.root.manager.loggerDict.items()):
        if isinstance(other, logging.Logger) and (name + ".").startswith(ROOT + "."):
            other.disabled = False      # a dictConfig() that does not name it had it so
    before = [each for each in logger.handlers if each.get_name() == OURS]
    for handler in before:
        logger.removeHandler(handler)
        logger.propagate = True
    theirs = logger.handlers or logging.getLogger().handlers
    ours = None
    if log_file is not None:
        ours = _open(log_file, make)
    elif not theirs:
        ours = StderrHandler(next((one for one in before if isinstance(one, StderrHandler)), None))
    for handler in before:
        handler.close()
    if ours is None:
        return
    ours.set_name(OURS)
    ours.setFormatter(JsonFormatter() if log_format == "json" else PrintableFormatter(FORMAT))
    logger.addHandler(ours)
    logger.propagate = False


def _open(path: str, make: Callable[[str], None] | None) -> logging.StreamHandler[Any]:
    try:
        return FileHandler(path, make)
    except OSError as error:
        raise ConfigError(
            f"log_file={path!r}: {error.strerror}: give a file that this user may write, or leave "
            "it out for stderr") from None


def reopen() -> None:
    """Open the files of all handlers anew that were moved, as who rotates logs does."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for handler in {
        handler for logger in loggers if isinstance(logger, logging.Logger)
        for handler in logger.handlers
    }:
        if isinstance(handler, logging.FileHandler):
            problem = renew(handler)
            if problem:
                logging.getLogger(ROOT).error("cannot open a log file anew: %s; the one there was "
                                              "goes on", problem)


def _is_at(number: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False
