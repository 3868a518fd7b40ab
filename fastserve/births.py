"""How a worker begins: a forked process that lets go of all that is its parent's."""

from __future__ import annotations

import contextlib
import logging
import random
from typing import TYPE_CHECKING, NoReturn

from fastserve import cpus
from fastserve.errors import FastserveError
from fastserve.forking import end, let_go_of_signals
from fastserve.orders import Orders
from fastserve.place import Place

if TYPE_CHECKING:
    from fastserve.listeners import Listener
    from fastserve.supervisor import Supervisor

logger = logging.getLogger("fastserve")


class CannotStart(FastserveError):
    """The system gives no process, no descriptor or no listener for a worker."""


def become_worker(
    supervisor: Supervisor, listeners: list[Listener], parents: Orders, orders: Orders, place: Place
) -> NoReturn:
    """In the forked process: let go of all that is the parent's, work, end.

    parents:  the other end of the talk by `orders`
    """
    status = 1
    try:
        let_go_of_signals()
        parents.close()
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
