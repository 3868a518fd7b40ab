"""Logging for a process that has none: one handler on stderr, control characters escaped.

Nothing is configured on import. `configure()` is called by the doors and steps back when
the application has set up logging itself. The names: "fastserve" for what the server does,
"fastserve.error" for what went wrong in a handler.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys

LEVELS = ("critical", "error", "warning", "info", "debug")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

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


def configure(level: str) -> None:
    """Send the "fastserve" loggers to stderr, unless the application configured logging."""
    logger = logging.getLogger("fastserve")
    logger.setLevel(level.upper())
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(FORMAT))
    logger.addHandler(handler)
    logger.propagate = False


def reopen() -> None:
    """Open the files of all handlers anew that were moved, as who rotates logs does."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for handler in {
        handler for logger in loggers if isinstance(logger, logging.Logger)
        for handler in logger.handlers
    }:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            with handler.lock or contextlib.nullcontext():
                if not _is_at(handler.stream.fileno(), handler.baseFilename):
                    handler.stream.close()
                    handler.stream = handler._open()


def _is_at(number: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False
