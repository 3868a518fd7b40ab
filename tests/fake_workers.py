"""A supervisor with workers that are no processes: a test says what becomes of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

from fastserve.config import Config
from fastserve.deployment import Deployment
from fastserve.recycling import Term
from fastserve.slots import Child, Slot
from fastserve.supervisor import Supervisor

_pids = itertools.count(2**22)      # no process has such a number


class Told:
    """The talk with a worker that is none: the orders that it was sent."""

    def __init__(self) -> None:
        self.orders: list[str] = []

    def send(self, message: dict[str, Any], sockets: object = ()) -> None:
        self.orders.append(message["order"])

    def close(self) -> None:
        pass


def worker(
    supervisor: Supervisor, slot: Slot, reason: str = "", *, ready: bool = True
) -> Child:
    """A worker of a slot, which it is not put into."""
    talk: Any = Told()
    return Child(
        next(_pids), slot, talk, supervisor.beats.take(), supervisor.board.take(), Term(0, 0, 0),
        time.monotonic(), reason, ready=ready)


@contextlib.contextmanager
def make_supervisor(config: Config) -> Iterator[Supervisor]:
    """One whose workers all serve."""
    assert isinstance(config.workers, int)
    found = Supervisor(
        lambda *parts: 0, config, Deployment(config, {}), config.workers, reloads=True)
    for index in range(config.workers):
        slot = Slot(index)
        slot.child = worker(found, slot)
        found.slots.append(slot)
    try:
        yield found
    finally:
        found.board.close()
        os.close(found.wake)
        os.close(found._waker)
