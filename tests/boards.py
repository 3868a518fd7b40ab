"""Boards for tests: rows and requests written as a worker writes them, without serving any."""

from __future__ import annotations

import mmap
import os
import struct
import time

from fastserve._speedups import scoreboard as layout
from fastserve.readings import LIMITS_S

RING_START = layout.HEADER_BYTES + layout.MAX_ROWS * layout.ROW_BYTES


def block_of(board, *, slot=0, pid=None):
    """A new block of a SharedBoard that a worker has begun to use: (block, its Scoreboard)."""
    block = board.take()
    writer = layout.Scoreboard(board.fd, block, slot=slot)
    put(board, block, layout.AT_PID, os.getpid() if pid is None else pid)
    return block, writer


def put(board, block, word, value):
    """Set one word of a block."""
    os.pwrite(board.fd, struct.pack("@Q", value), block * layout.BLOCK_BYTES + 8 * word)


def add_row(board, block, label, statuses, *, seconds=0.001, body_bytes=10):
    """A row behind those that are there: {status: count}, each of which took so long."""
    base = block * layout.BLOCK_BYTES
    (row,) = struct.unpack("@Q", os.pread(board.fd, 8, base + 8 * layout.AT_ROWS))
    set_row(board, block, row, label, statuses, seconds=seconds, body_bytes=body_bytes)
    put(board, block, layout.AT_ROWS, row + 1)
    return row


def set_row(board, block, row, label, statuses, *, seconds=0.001, body_bytes=10):
    """The whole of one row."""
    words = [0] * layout.ROW_LABEL
    count = sum(statuses.values())
    words[layout.ROW_SUM_NS] = int(count * seconds * 1e9)
    words[layout.ROW_BODY_BYTES] = count * body_bytes
    words[layout.ROW_HISTOGRAM + bucket_of(seconds)] = count
    for status, number in statuses.items():
        words[layout.ROW_STATUSES + layout.STATUS_NAMES.index(str(status))] = number
    data = struct.pack(f"@{layout.ROW_LABEL}Q", *words) + label.ljust(layout.LABEL_BYTES, b"\0")
    at = block * layout.BLOCK_BYTES + layout.HEADER_BYTES + row * layout.ROW_BYTES
    os.pwrite(board.fd, data, at)


def bucket_of(seconds):
    """The bucket of a duration."""
    return next(index for index, limit_s in enumerate(LIMITS_S) if seconds < limit_s)


def add_request(board, block, number, *, line=b"GET / HTTP", status=200, row=0, id=b"", client=b"",
                begun_ns=None, wait_s=0.0, handler_s=0.001, send_s=0.0005,
                body_bytes=7):
    """A record of the ring; status 0: it is under way."""
    begun_ns = time.monotonic_ns() if begun_ns is None else begun_ns
    ran_ns = begun_ns + int(wait_s * 1e9)
    answered_ns = ran_ns + int(handler_s * 1e9) if status else 0
    ended_ns = answered_ns + int(send_s * 1e9) if status else 0
    sizes = len(id) | len(client) << 8 | len(line) << 16
    data = struct.pack(
        f"@8Q{layout.ID_BYTES}s{layout.CLIENT_BYTES}s{layout.LINE_BYTES}sQ", number, begun_ns,
        answered_ns, ended_ns, body_bytes, status, row, sizes, id, client, line, ran_ns)
    place = number % layout.RING_RECORDS
    os.pwrite(board.fd, data, block * layout.BLOCK_BYTES + RING_START + place * layout.RECORD_BYTES)


def memory_of(board, block):
    """All bytes of a block, to change at will."""
    return mmap.mmap(board.fd, layout.BLOCK_BYTES, offset=block * layout.BLOCK_BYTES)
