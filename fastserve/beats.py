"""When each worker's loop last turned: one number for each, in memory that all of them see.

A worker writes the monotonic time into its own cell, and the supervisor reads it. No lock:
a cell is eight aligned bytes, written by one process.
"""

from __future__ import annotations

import mmap
import struct
import time

_CELL = struct.Struct("@q")


class Beats:
    """The cells of one supervisor's workers; made before they are forked."""

    def __init__(self, cells: int) -> None:
        self._memory = mmap.mmap(-1, cells * _CELL.size)
        self._free = list(range(cells))

    def take(self) -> int:
        """A cell for a new worker, who counts as alive from now on."""
        cell = self._free.pop(0)
        self.beat(cell)
        return cell

    def give_back(self, cell: int) -> None:
        """Its worker has ended."""
        self._free.append(cell)

    def beat(self, cell: int) -> None:
        """The loop of this cell's worker has turned."""
        _CELL.pack_into(self._memory, cell * _CELL.size, time.monotonic_ns())

    def age_s(self, cell: int) -> float:
        """How long ago that was."""
        (then,) = _CELL.unpack_from(self._memory, cell * _CELL.size)
        return (time.monotonic_ns() - int(then)) / 1e9
