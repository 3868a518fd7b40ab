"""How a worker begins: a forked process that lets go of all that is its parent's."""

from __future__ import annotations

import contextlib
import logging
import random
import signal
from typing import TYPE_CHECKING, NoReturn

from fastserve import cpus
from fastserve.errors import FastserveError
from fastserve.forking import HEARD, end, hear_again
from fastserve.orders import Orders
from fastserve.place import Place

if TYPE_CHECKING:
    from fastserve.listeners import Listener
    from fastserve.supervisor import Supervisor

# The terminal's are for the parent; USR1 and USR2 have a meaning once the worker says which.
NOT_FOR_WORKERS = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGWINCH, signal.SIGUSR1, signal.SIGUSR2)

logger = logging.getLogger("fastserve")


class CannotStart(FastserveError):
    """The system gives no process, no descriptor or no listener for a worker."""


def become_worker(
    supervisor: Supervisor, listeners: list[Listener], orders: Orders, place: Place
) -> NoReturn:
    """In the forked process: let go of all that is the parent's, work, end."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            signal.signal(number, signal.SIG_IGN if number in NOT_FOR_WORKERS else signal.SIG_DFL)
        hear_again()
        supervisor.close_in_child()
        for group in supervisor.groups:
            for listener in group.listeners:
                listener.path = None    # its file is the parent's to remove
                if listener not in listeners:
                    listener.socket.close()
        random.seed()
        if supervisor.config.pin_cpus:
            cpus.pin(place.slot)
        status = supervisor.work(listeners, orders, place)
    except BaseException:
        with contextlib.suppress(BaseException):
            logger.exception("a worker failed")
    finally:
        end(status)
