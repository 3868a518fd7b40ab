"""What the supervisor reads of its workers: the shared board, a block for each of them.

The supervisor makes the board before it forks, gives each worker a block, and takes it back when
the worker has ended. It reads with pread(), so that no page of the board becomes its own, and a
block that nobody has used costs nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from fastserve._speedups import scoreboard as layout

_WORD_BYTES = 8
_RING_AT = layout.HEADER_BYTES + layout.MAX_ROWS * layout.ROW_BYTES
_SERVER_ERRORS = tuple(
    index for index, name in enumerate(layout.STATUS_NAMES) if name.startswith("5"))


@dataclass(frozen=True)
class Place:
    """Where a worker is.

    slot:       its number
    fd, block:  its block of the board, and the file of that
    beat:       to be called whenever its loop turns
    """

    slot: int
    fd: int
    block: int
    beat: Callable[[], None]


@dataclass(frozen=True)
class Counts:
    """What a worker has answered, by all of its routes.

    answers:   how many
    errors:    those of them with a status from 500 to 599
    durations: how many took how long, by the buckets of the board
    """

    answers: int
    errors: int
    durations: tuple[int, ...]

    def since(self, before: Counts) -> Counts:
        """What came after an earlier moment."""
        return self._combine(before, -1)

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return self._combine(other, 1)

    def _combine(self, other: Counts, sign: int) -> Counts:
        return Counts(
            self.answers + sign * other.answers, self.errors + sign * other.errors,
            tuple(a + sign * b for a, b in zip(self.durations, other.durations, strict=True)))


NOTHING = Counts(0, 0, (0,) * layout.BUCKETS)


@dataclass(frozen=True)
class Record:
    """A request of the ring; times are CLOCK_MONOTONIC, 0 is not yet.

    line, id, client, route:  what a stranger may have sent, as it came
    """

    number: int
    begun_ns: int
    answered_ns: int
    ended_ns: int
    body_bytes: int
    status: int
    line: bytes
    id: bytes
    client: bytes
    route: bytes


class Board:
    """The blocks of one supervisor's workers.

    blocks:  how many there may be at once
    """

    def __init__(self, blocks: int) -> None:
        self.fd = _file(blocks * layout.BLOCK_BYTES)
        self._free = list(range(blocks - 1, -1, -1))

    def take(self) -> int:
        """A block for a new worker."""
        return self._free.pop()

    def retire(self, block: int) -> None:
        """Its worker has ended: forget what it wrote, and give its memory back."""
        with mmap.mmap(self.fd, layout.BLOCK_BYTES, offset=block * layout.BLOCK_BYTES) as memory:
            if hasattr(mmap, "MADV_REMOVE"):
                memory.madvise(mmap.MADV_REMOVE)
            else:
                memory[:] = bytes(layout.BLOCK_BYTES)
        self._free.append(block)

    def close(self) -> None:
        """Give the file back; the workers keep what they have mapped."""
        os.close(self.fd)

    def word(self, block: int, at: int) -> int:
        """One number of a block's header, by its AT_..."""
        (number,) = self._words(block, at * _WORD_BYTES, 1)
        return number

    def counts(self, block: int) -> Counts:
        """What its worker has answered so far."""
        total = NOTHING
        for row in range(min(self.word(block, layout.AT_ROWS), layout.MAX_ROWS)):
            words = self._words(
                block, layout.HEADER_BYTES + row * layout.ROW_BYTES, layout.ROW_LABEL)
            durations = words[layout.ROW_HISTOGRAM:layout.ROW_HISTOGRAM + layout.BUCKETS]
            errors = sum(words[layout.ROW_STATUSES + index] for index in _SERVER_ERRORS)
            total = total.plus(Counts(sum(durations), errors, durations))
        return total

    def records(self, block: int) -> list[Record]:
        """The last requests of its worker, in the order of their beginning."""
        ring = os.pread(self.fd, layout.RING_RECORDS * layout.RECORD_BYTES,
                        block * layout.BLOCK_BYTES + _RING_AT)
        found = []
        for at in range(0, len(ring), layout.RECORD_BYTES):
            record = self._record(block, ring[at:at + layout.RECORD_BYTES])
            if record is not None:
                found.append(record)
        return sorted(found, key=lambda record: record.number)

    def _record(self, block: int, data: bytes) -> Record | None:
        words = struct.unpack_from(f"@{layout.RECORD_ID}Q", data)
        number = words[layout.RECORD_NUMBER]
        if not number:
            return None
        sizes = words[layout.RECORD_SIZES]
        return Record(
            number,
            words[layout.RECORD_BEGUN_NS],
            words[layout.RECORD_ANSWERED_NS],
            words[layout.RECORD_ENDED_NS],
            words[layout.RECORD_BODY_BYTES],
            words[layout.RECORD_STATUS],
            line=_text(data, layout.RECORD_LINE, sizes >> 16 & 0xffff, layout.LINE_BYTES),
            id=_text(data, layout.RECORD_ID, sizes & 0xff, layout.ID_BYTES),
            client=_text(data, layout.RECORD_CLIENT, sizes >> 8 & 0xff, layout.CLIENT_BYTES),
            route=self._label(block, words[layout.RECORD_ROW]),
        )

    def _label(self, block: int, row: int) -> bytes:
        if not 0 < row < layout.MAX_ROWS:
            return b""
        at = layout.HEADER_BYTES + row * layout.ROW_BYTES + layout.ROW_LABEL * _WORD_BYTES
        label = os.pread(self.fd, layout.LABEL_BYTES, block * layout.BLOCK_BYTES + at)
        return label.partition(b"\0")[0]

    def _words(self, block: int, at: int, count: int) -> tuple[int, ...]:
        data = os.pread(self.fd, count * _WORD_BYTES, block * layout.BLOCK_BYTES + at)
        return struct.unpack(f"@{count}Q", data)


def _text(data: bytes, word: int, size: int, most: int) -> bytes:
    at = word * _WORD_BYTES
    return data[at:at + min(size, most)]


def _file(size: int) -> int:
    """A file without a name, of nothing but holes; not inherited over exec."""
    if sys.platform == "linux":
        fd = os.memfd_create("fastserve", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
