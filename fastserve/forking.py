"""How a process of the supervisor's is forked, and how it ends.

Signals are held back around the fork. Whoever sends them to all processes of a group would
otherwise meet a child that still has the parent's handlers, and through them the parent itself.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
HEARD = (
    *STOPPING, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


def flush_streams() -> None:
    """Write what Python keeps of stdout and stderr, or a forked process would write it again."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):     # nobody takes it
            stream.flush()


def fork(become: Callable[[], NoReturn]) -> int:
    """Fork a process that does nothing but `become`; its id.

    The signals of HEARD are held back in it until let_go_of_signals(). Raises OSError.
    """
    flush_streams()
    gc.collect()
    gc.freeze()     # what is here stays shared
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        pid = os.fork()
        if pid == 0:
            become()
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        gc.unfreeze()


def hear_again() -> None:
    """In a forked process: what was held back comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def let_go_of_signals() -> None:
    """In a forked process: none of the parent's handlers is left.

    What is sent to a whole group, by a terminal or by who rotates logs, is for the parent.
    """
    signal.set_wakeup_fd(-1)
    for number in HEARD:
        ends = number in (signal.SIGTERM, signal.SIGCHLD)
        signal.signal(number, signal.SIG_DFL if ends else signal.SIG_IGN)
    hear_again()


def end(status: int) -> NoReturn:
    """End a forked process: whatever the application left behind, never as its parent."""
    try:
        logging.shutdown()
        flush_streams()
    finally:
        os._exit(status)
