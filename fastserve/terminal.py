"""The terminal of this process, if it has one."""

from __future__ import annotations

import os


def has_terminal() -> bool:
    """Whether there is one, and it is still open."""
    return _group_in_front() is not None


def is_in_front() -> bool:
    """Whether it is ours: what is typed there, and that its window changes its size, reaches us."""
    return _group_in_front() == os.getpgrp()


def _group_in_front() -> int | None:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return 0
    finally:
        os.close(terminal)
