"""What a supervisor hands to each worker besides its listeners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a worker is.

    slot:   its number
    fd:     of the memory that all workers count into (shm.py)
    block:  of that memory, the worker's
    beat:   to be called whenever its loop turns
    parent: pid of the supervisor
    """

    slot: int
    fd: int
    block: int
    beat: Callable[[], None]
    parent: int
