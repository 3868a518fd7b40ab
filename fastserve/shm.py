"""The memory that all workers count into, and how it is read.

A file without a name, of blocks (see _speedups/scoreboard.pxd): number 0 is the directory and
the past, each other one belongs to a worker, or to nobody. The supervisor hands blocks out and
takes them back; when a worker has ended, what it counted is added to the past, by label, so that
nothing that was ever counted is forgotten, and no sum goes down.

Whoever has the descriptor reads, without any lock: a sequence number is odd while the supervisor
moves a worker's counts to the past, and who saw it odd, or changed, reads again. Nothing that a
block says is believed: a worker may have died over any of its bytes.

This runs in the supervisor too: no event loop, no thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastserve._speedups.scoreboard import (
    AFTER_COUNTERS,
    AT_ACCEPT_QUEUE,
    AT_BORN_NS,
    AT_BYTES_IN,
    AT_BYTES_OUT,
    AT_CONNECTIONS,
    AT_CONNECTIONS_TOTAL,
    AT_CURRENT,
    AT_DRAINING,
    AT_EXPIRED,
    AT_HANDLERS_EXPIRED,
    AT_IN_FLIGHT,
    AT_LAG_HISTOGRAM,
    AT_LAG_NS,
    AT_LAG_SUM_NS,
    AT_LAYOUT,
    AT_LINES_DROPPED,
    AT_LONGEST_LAG_NS,
    AT_PID,
    AT_REJECTED,
    AT_REQUESTS,
    AT_ROWS,
    AT_SHED,
    AT_SLOT,
    AT_TICKED_NS,
    AT_WAITING,
    AT_WALL_OFFSET_NS,
    BLOCK_BYTES,
    BUCKETS,
    CLIENT_BYTES,
    FIRST_COUNTER,
    HEADER_BYTES,
    ID_BYTES,
    LABEL_BYTES,
    LAYOUT,
    LINE_BYTES,
    MAX_ROWS,
    RECORD_BYTES,
    RECORD_ID,
    RING_RECORDS,
    ROW_BODY_BYTES,
    ROW_BYTES,
    ROW_HISTOGRAM,
    ROW_LABEL,
    ROW_STATUSES,
    ROW_SUM_NS,
    STATUS_NAMES,
)
from fastserve.errors import FastserveError
from fastserve.readings import (
    DEADLINES,
    NO_ROUTE,
    OTHER_ROUTES,
    REASONS,
    Counters,
    Past,
    Reading,
    RequestRecord,
    Series,
    WorkerReading,
)

# Of block 0, behind what every block has.
AT_SEQUENCE = 120       # odd: blocks and past do not agree at the moment
AT_STARTED_NS = 121     # of the wall clock
AT_LIVE = 128           # a bit for each block that belongs to a worker
LIVE_WORDS = 32
AT_RESTARTS = 160       # by REASONS
# Of every other block, behind what its worker writes.
AT_OWNER = AFTER_COUNTERS   # the supervisor who handed it out
MOST_BLOCKS = 64 * LIVE_WORDS - 1

RING_START = HEADER_BYTES + MAX_ROWS * ROW_BYTES
TICK_NS = 250_000_000   # between two ticks of a worker
TRIES = 400
RETRY_S = 0.001
COUNTED_WORDS = 192     # of a header: all that anybody reads

_WORD = struct.Struct("@Q")
_HEADER = struct.Struct(f"@{COUNTED_WORDS}Q")
_ROW = struct.Struct(f"@{ROW_LABEL}Q{LABEL_BYTES}s")
_RECORD = struct.Struct(f"@{RECORD_ID}Q{ID_BYTES}s{CLIENT_BYTES}s{LINE_BYTES}sQ")
_WRAP = 2**64 - 1

Row = tuple[tuple[int, ...], bytes]     # counts, label


class BoardError(FastserveError):
    """The shared memory cannot be read: by another version's layout, or its owner died over it."""


class SharedBoard:
    """The memory of one server, as the process has it that hands blocks out.

    blocks:     how many workers there may be at once, from 1 to 2047
    inherited:  a descriptor of the memory of the supervisor before this one, who goes on using it
                for a while; where its layout is another, this one begins anew
    `reading_fd` is for those who only read: nothing can be written by it, where the system can
    do that. Raises OSError when there is no such memory to have.
    """

    def __init__(self, blocks: int, inherited: int | None = None) -> None:
        if not 1 <= blocks <= MOST_BLOCKS:
            raise ValueError(f"{blocks} blocks cannot be: from 1 to {MOST_BLOCKS}")
        self._blocks = range(1, blocks + 1)
        if inherited is not None and _header(inherited, 0)[AT_LAYOUT] == LAYOUT:
            self.fd = inherited
        else:
            self.fd = _nameless_file()
            self._begin()
        self.reading_fd = _read_only(self.fd)

    def _begin(self) -> None:
        os.ftruncate(self.fd, BLOCK_BYTES)
        self._put(0, AT_LAYOUT, LAYOUT)
        self._put(0, AT_STARTED_NS, time.time_ns())
        self._put(0, AT_PID, os.getpid())
        _write_rows(self.fd, 0, [_empty(b""), _empty(b" ".join(map(str.encode, OTHER_ROUTES)))])

    def take(self) -> int:
        """A block for a new worker, which has counted nothing. Raises IndexError: none is left."""
        with self._locked():
            self._bury()
            live = set(live_blocks(self.fd))
            (block, *_) = [each for each in self._blocks if each not in live] or [0]
            if not block:
                raise IndexError("every block belongs to a worker")
            size = (block + 1) * BLOCK_BYTES
            if os.fstat(self.fd).st_size < size:
                os.ftruncate(self.fd, size)
            self._put(0, AT_PID, os.getpid())
            self._put(block, AT_OWNER, os.getpid())
            self._set_live(block, True)
        return block

    def retire(self, block: int) -> None:
        """Its worker has ended: the past has its counts, and the block is free."""
        with self._locked():
            self._retire(block)

    def _retire(self, block: int) -> None:
        past = _header(self.fd, 0)
        gone = _header(self.fd, block)
        counts = [(one + other) & _WRAP for one, other in zip(
            past[FIRST_COUNTER:AFTER_COUNTERS], gone[FIRST_COUNTER:AFTER_COUNTERS], strict=True)]
        rows = _added(_rows(self.fd, 0, past), _rows(self.fd, block, gone))
        with self._changing():
            os.pwrite(self.fd, struct.pack(f"@{len(counts)}Q", *counts), 8 * FIRST_COUNTER)
            _write_rows(self.fd, 0, rows)
            self._set_live(block, False)
        self._clear(block)

    def _bury(self) -> None:
        """Retire whose worker has ended and whose supervisor too, so that nobody else will."""
        for block in live_blocks(self.fd):
            owner, pid = self.number(block, AT_OWNER), self.number(block, AT_PID)
            if owner != os.getpid() and pid and not _runs(owner) and not _runs(pid):
                self._retire(block)

    def count_restart(self, reason: str) -> None:
        """A worker is being replaced; the reason is one of REASONS."""
        word = AT_RESTARTS + REASONS.index(reason)
        with self._locked():
            self._put(0, word, self.number(0, word) + 1)

    def read(self) -> Reading:
        """What all have counted. Raises BoardError."""
        return read_board(self.fd)

    def worker(self, block: int) -> WorkerReading:
        """What the worker of one block has counted so far; it may have ended, unless retired."""
        head = _header(self.fd, block)
        return _worker(block, head, _rows(self.fd, block, head))

    def requests(self, block: int) -> list[RequestRecord]:
        """The last requests of a worker, the oldest first; it may have ended, unless retired."""
        return read_requests(self.fd, block)

    def close(self) -> None:
        """Let go of it; who has mapped it keeps what they have."""
        os.close(self.fd)
        os.close(self.reading_fd)

    def number(self, block: int, word: int) -> int:
        """One word of a worker's header, by its AT_...: cheap enough for every turn."""
        return int(_WORD.unpack(_read(self.fd, block * BLOCK_BYTES + 8 * word, _WORD.size))[0])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other supervisor changes the directory meanwhile; it takes milliseconds."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Whoever reads meanwhile reads again."""
        odd = self.number(0, AT_SEQUENCE) | 1   # it is odd already where a supervisor died over it
        self._put(0, AT_SEQUENCE, odd)
        try:
            yield
        finally:
            self._put(0, AT_SEQUENCE, odd + 1)

    def _set_live(self, block: int, live: bool) -> None:
        word, bit = AT_LIVE + block // 64, 1 << block % 64
        before = _header(self.fd, 0)[word]
        self._put(0, word, before | bit if live else before & ~bit)

    def _clear(self, block: int) -> None:
        """All zeros again, and a hole in the file where the system can make one."""
        with mmap.mmap(self.fd, BLOCK_BYTES, offset=block * BLOCK_BYTES) as memory:
            try:
                memory.madvise(mmap.MADV_REMOVE)
            except (AttributeError, OSError):
                memory[:] = bytes(BLOCK_BYTES)

    def _put(self, block: int, word: int, value: int) -> None:
        os.pwrite(self.fd, _WORD.pack(value), block * BLOCK_BYTES + 8 * word)


def read_board(fd: int) -> Reading:
    """What all have counted, of a board that belongs to anybody.

    Raises BoardError when it is none, or of another version, or its owner died over it.
    """
    for _ in range(TRIES):
        directory = _header(fd, 0)
        if directory[AT_LAYOUT] != LAYOUT:
            raise BoardError(
                f"the server counts by layout {directory[AT_LAYOUT]}, and this is for {LAYOUT}: "
                "use the same version of fastserve as the server")
        if directory[AT_SEQUENCE] % 2 == 0:
            reading = _read_all(fd, directory)
            if _header(fd, 0)[AT_SEQUENCE] == directory[AT_SEQUENCE]:
                return reading
        time.sleep(RETRY_S)
    raise BoardError("the supervisor did not finish its counting: is it alive?")


def live_blocks(fd: int) -> list[int]:
    """The blocks that belong to workers."""
    return _live(_header(fd, 0))


def read_requests(fd: int, block: int) -> list[RequestRecord]:
    """The last requests of the worker that a block belongs to, the oldest first.

    What is written at this very moment is left out.
    """
    head = _header(fd, block)
    start = block * BLOCK_BYTES + RING_START
    # A record whose number is still there behind the reading was whole when it was read.
    found = list(_RECORD.iter_unpack(_read(fd, start, RING_RECORDS * RECORD_BYTES)))
    again = _RECORD.iter_unpack(_read(fd, start, RING_RECORDS * RECORD_BYTES))
    whole = [
        record for record, later in zip(found, again, strict=True)
        if record[0] and record[0] == later[0]]
    whole.sort(key=lambda record: record[0])
    labels = {row: _label_of_row(fd, block, row) for row in {record[6] for record in whole}}
    return [_request(block, head, record, labels[record[6]]) for record in whole]


def _request(
    block: int, head: Sequence[int], record: tuple[Any, ...], label: tuple[str, str]
) -> RequestRecord:
    number, begun_ns, answered_ns, ended_ns, body_bytes, status, _, sizes = record[:8]
    name, client, line, ran_ns = record[8:]
    ended = bool(ended_ns and status)
    answered = bool(answered_ns and status)
    return RequestRecord(
        number=number,
        block=block,
        pid=head[AT_PID],
        slot=head[AT_SLOT],
        begun_at_s=(begun_ns + head[AT_WALL_OFFSET_NS] & _WRAP) / 1e9,
        age_s=max(time.monotonic_ns() - begun_ns, 0) / 1e9,
        wait_s=max(ran_ns - begun_ns, 0) / 1e9,
        handler_s=max(answered_ns - ran_ns, 0) / 1e9 if answered else None,
        send_s=max(ended_ns - answered_ns, 0) / 1e9 if ended else None,
        status=status,
        body_bytes=body_bytes,
        method=label[0],
        route=label[1],
        id=_text(name[:sizes & 0xFF]),
        client=_text(client[:sizes >> 8 & 0xFF]),
        line=_text(line[:sizes >> 16 & 0xFFFF]),
        holds_loop=number == head[AT_CURRENT],
    )


def _read_all(fd: int, directory: Sequence[int]) -> Reading:
    past_rows = _rows(fd, 0, directory)
    return Reading(
        pid=directory[AT_PID],
        started_s=directory[AT_STARTED_NS] / 1e9,
        workers=tuple(_workers(fd, directory)),
        past=Past(
            counters=_counters(directory),
            series=tuple(_series(past_rows)),
            restarts={
                reason: directory[AT_RESTARTS + index] for index, reason in enumerate(REASONS)},
            full=len(past_rows) >= MAX_ROWS,
        ),
    )


def _workers(fd: int, directory: Sequence[int]) -> Iterator[WorkerReading]:
    for block in _live(directory):
        head = _header(fd, block)
        if head[AT_LAYOUT] == LAYOUT:   # else it has not begun to count
            yield _worker(block, head, _rows(fd, block, head))


def _worker(block: int, head: Sequence[int], rows: list[Row]) -> WorkerReading:
    # A loop that hangs does not say so itself: its next tick is late by now.
    ticked_ns = head[AT_TICKED_NS]
    late_ns = time.monotonic_ns() - ticked_ns - TICK_NS if ticked_ns else 0
    return WorkerReading(
        block=block,
        pid=head[AT_PID],
        slot=head[AT_SLOT],
        age_s=max(time.monotonic_ns() - head[AT_BORN_NS], 0) / 1e9,
        connections=head[AT_CONNECTIONS],
        in_flight=head[AT_IN_FLIGHT],
        waiting=head[AT_WAITING],
        accept_queue=head[AT_ACCEPT_QUEUE],
        draining=bool(head[AT_DRAINING]),
        lag_s=max(head[AT_LAG_NS], late_ns) / 1e9,
        longest_lag_s=max(head[AT_LONGEST_LAG_NS], late_ns) / 1e9,
        current=head[AT_CURRENT],
        counters=_counters(head),
        series=tuple(_series(rows)),
    )


def _counters(head: Sequence[int]) -> Counters:
    waits = len(DEADLINES) - 1
    return Counters(
        connections=head[AT_CONNECTIONS_TOTAL],
        requests=head[AT_REQUESTS],
        bytes_in=head[AT_BYTES_IN],
        bytes_out=head[AT_BYTES_OUT],
        shed=head[AT_SHED],
        rejected=head[AT_REJECTED],
        lines_dropped=head[AT_LINES_DROPPED],
        expired=(*head[AT_EXPIRED + 1:AT_EXPIRED + 1 + waits], head[AT_HANDLERS_EXPIRED]),
        lag_sum_ns=head[AT_LAG_SUM_NS],
        lag_buckets=tuple(head[AT_LAG_HISTOGRAM:AT_LAG_HISTOGRAM + BUCKETS]),
    )


def _series(rows: list[Row]) -> Iterator[Series]:
    for index, (counts, label) in enumerate(rows):
        buckets = counts[ROW_HISTOGRAM:ROW_HISTOGRAM + BUCKETS]
        count = sum(buckets)
        if not count:
            continue
        statuses = counts[ROW_STATUSES:]
        method, route = _names(index, label)
        yield Series(
            method, route, count, counts[ROW_SUM_NS], counts[ROW_BODY_BYTES], buckets,
            {name: statuses[at] for at, name in enumerate(STATUS_NAMES) if statuses[at]})


def _names(row: int, label: bytes) -> tuple[str, str]:
    if row == 0:
        return NO_ROUTE
    method, space, route = _text(label).partition(" ")
    return (method, route) if space else OTHER_ROUTES


def _label_of_row(fd: int, block: int, row: int) -> tuple[str, str]:
    if row >= MAX_ROWS:
        return OTHER_ROUTES
    start = block * BLOCK_BYTES + HEADER_BYTES + row * ROW_BYTES + 8 * ROW_LABEL
    return _names(row, _read(fd, start, LABEL_BYTES).partition(b"\0")[0])


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


# Blocks as they lie in the file.


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fastserve", os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix="fastserve-")
    os.unlink(path)
    return fd


def _read_only(fd: int) -> int:
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


def _read(fd: int, start: int, size: int) -> bytes:
    """So many bytes; zeros where the file has none."""
    return os.pread(fd, size, start).ljust(size, b"\0")


def _header(fd: int, block: int) -> tuple[int, ...]:
    return _HEADER.unpack(_read(fd, block * BLOCK_BYTES, _HEADER.size))


def _live(directory: Sequence[int]) -> list[int]:
    words = directory[AT_LIVE:AT_LIVE + LIVE_WORDS]
    return [
        64 * index + bit for index, word in enumerate(words) if word
        for bit in range(64) if word >> bit & 1]


def _row_count(head: Sequence[int]) -> int:
    return min(head[AT_ROWS], MAX_ROWS)


def _rows(fd: int, block: int, head: Sequence[int]) -> list[Row]:
    size = _row_count(head) * ROW_BYTES
    data = _read(fd, block * BLOCK_BYTES + HEADER_BYTES, size)
    return [(row[:-1], row[-1].partition(b"\0")[0]) for row in _ROW.iter_unpack(data)]


def _write_rows(fd: int, block: int, rows: list[Row]) -> None:
    data = b"".join(_ROW.pack(*counts, label) for counts, label in rows)
    os.pwrite(fd, data, block * BLOCK_BYTES + HEADER_BYTES)
    os.pwrite(fd, _WORD.pack(len(rows)), block * BLOCK_BYTES + 8 * AT_ROWS)


def _empty(label: bytes) -> Row:
    return (0,) * ROW_LABEL, label


def _added(past: list[Row], gone: list[Row]) -> list[Row]:
    """The past with the rows of a worker, by label; the first two are the same ones everywhere."""
    rows = list(past)
    places = {label: index for index, (_, label) in enumerate(rows) if index > 1}
    for index, (counts, label) in enumerate(gone):
        if not any(counts):
            continue
        place = index if index < 2 else places.get(label)
        if place is None and label and len(rows) < MAX_ROWS:
            place = places[label] = len(rows)
            rows.append(_empty(label))
        place = 1 if place is None else place
        before, name = rows[place]
        rows[place] = tuple(
            [(one + other) & _WRAP for one, other in zip(before, counts, strict=True)]), name
    return rows
