r"""What `fastserve top` and `fastserve tail` share: a server to look at, and how things are shown.

They ask the control socket for the board and read that themselves, so that looking costs the
server nothing. Every few seconds they ask again: the server may have ended, or be another one.
What a stranger sent is shown with \xNN for all that does not print.
"""

from __future__ import annotations

import os
import re
import select
import time

from fastserve.control import ask_for_board
from fastserve.readings import Reading, RequestRecord
from fastserve.shm import live_blocks, read_board, read_requests

ASK_AGAIN_S = 2.0

_UNIT_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(us|µs|ms|s|m)", re.ASCII)


class Watched:
    """A server that is looked at.

    control:  the path of its control socket
    Raises ConfigError when nobody answers there; each look may, and BoardError.
    """

    def __init__(self, control: str) -> None:
        self._control = control
        self._fd = ask_for_board(control)
        self._asked_s = time.monotonic()

    def read(self) -> Reading:
        """What it has counted."""
        self._ask_again()
        return read_board(self._fd)

    def requests(self, block: int) -> list[RequestRecord]:
        """The last requests of one worker."""
        return read_requests(self._fd, block)

    def all_requests(self) -> list[list[RequestRecord]]:
        """Those of each worker that had any."""
        self._ask_again()
        found = (read_requests(self._fd, block) for block in live_blocks(self._fd))
        return [requests for requests in found if requests]

    def close(self) -> None:
        """Look no more."""
        os.close(self._fd)

    def _ask_again(self) -> None:
        if time.monotonic() > self._asked_s + ASK_AGAIN_S:
            fd = ask_for_board(self._control)
            os.close(self._fd)
            self._fd = fd
            self._asked_s = time.monotonic()


def reader_left() -> bool:
    """Whether nobody can read what we print any more: the other end of a pipe is closed."""
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))   # POLLERR and POLLHUP are always told


def forget_output() -> None:
    """Whoever read what we print is gone: what is left of it goes nowhere, and is no error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def duration_s(text: str) -> float:
    """The seconds that "100ms", "1.5s", "250us" or "2m" are; else ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write 100ms, or 1.5s")
    return float(match[1]) * _UNIT_S[match[2]]


def printable(text: str) -> str:
    """The text on one line, without anything that a terminal would obey."""
    return "".join([char if char.isprintable() else _escaped(char) for char in text])


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def shown_s(seconds: float | None) -> str:
    """A duration in few characters: 850us, 3.4ms, 12s; "-" where there is none."""
    if not seconds:
        return "-" if seconds is None else "0"
    for below_s, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < below_s:
            return _three_digits(seconds * factor) + unit
    return _three_digits(seconds) + "s"


def shown_bytes(count: float | None) -> str:
    """A size in few characters: 512B, 3.4K, 12M; "-" where there is none."""
    if count is None:
        return "-"
    for unit in "BKMG":
        if count < 1000 or unit == "G":
            return (f"{count:.0f}" if unit == "B" else _three_digits(count)) + unit
        count /= 1024
    raise AssertionError


def _three_digits(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"
