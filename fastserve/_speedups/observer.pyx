# Who watches the requests of a worker: see observer.pxd for the contract.

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from fastserve._speedups.journal cimport Journal
from fastserve._speedups.observed cimport Observed
from fastserve._speedups.scan cimport find_field
from fastserve._speedups.scoreboard cimport ID_BYTES, SHORTEST_LAG_NS, Scoreboard, now_ns

cdef extern from *:
    """
    static const char fs_hex_digits[] = "0123456789abcdef";
    #define FS_HEX_SIZE(n) (16 - (__builtin_clzll((n) | 1) >> 2))
    """
    int FS_HEX_SIZE(uint64_t n) noexcept
    const char* fs_hex_digits


cdef class RequestIds:
    def __init__(self, str field="x-request-id"):
        self.field = field.lower().encode()
        self.prefix = os.urandom(6).hex().encode() + b"-"

    cdef int name(self, Observed* seen) except -1:
        cdef const char* value
        cdef Py_ssize_t size = 0
        if self.field and seen.head != NULL and not seen.nameless:
            value = find_field(
                seen.fields, seen.fields + seen.fields_size,
                PyBytes_AS_STRING(self.field), PyBytes_GET_SIZE(self.field), &size)
            if value != NULL and is_sane(value, size):
                memcpy(seen.id, value, size)
                seen.id_size = <uint8_t>size
                return 0
            seen.nameless = value == NULL
        size = PyBytes_GET_SIZE(self.prefix)
        memcpy(seen.id, PyBytes_AS_STRING(self.prefix), size)
        seen.id_size = <uint8_t>(size + put_hex(seen.id + size, seen.number))
        return 0


cdef class Observer:
    def __init__(self, RequestIds ids, Scoreboard board=None, Journal journal=None):
        self.ids = ids
        self.board = board
        self.journal = journal

    cdef int begin(self, Observed* seen) except -1:
        seen.ran_ns = self.now
        if self.journal is not None or self.board.recording:
            self.ids.name(seen)
        return 0 if self.board is None else self.board.begin(seen)

    cdef int end(self, Observed* seen, int status, int64_t body_bytes) except -1:
        self.now = seen.ended_ns = now_ns()
        if seen.answered_ns == 0:
            seen.answered_ns = seen.ended_ns
        seen.status = status
        seen.body_bytes = body_bytes
        if self.board is not None:
            self.board.end(seen)
        return 0 if self.journal is None else self.journal.add(seen)

    cdef int begin_turn(self) except -1:
        self.now = self.turn = now_ns()
        return 0

    cdef int end_turn(self) except -1:
        if self.board is None:
            return 0
        if self.now == self.turn:
            self.now = now_ns()     # no answer was given that would have told the time
        if self.now - self.turn < SHORTEST_LAG_NS:
            return 0
        return self.board.lagged(self.now - self.turn)


cdef bint is_sane(const char* value, Py_ssize_t size) noexcept:
    # A stranger's word: short enough to keep whole, and of letters, digits and "-_.:/+=@" alone.
    cdef Py_ssize_t at
    cdef char byte
    if not 0 < size <= ID_BYTES:
        return False
    for at in range(size):
        byte = value[at]
        if not (c'a' <= byte <= c'z' or c'A' <= byte <= c'Z' or c'0' <= byte <= c'9'
                or byte == c'-' or byte == c'_' or byte == c'.' or byte == c':'
                or byte == c'/' or byte == c'+' or byte == c'=' or byte == c'@'):
            return False
    return True


cdef Py_ssize_t put_hex(char* to, int64_t number) noexcept:
    # At least one digit, none in vain.
    cdef Py_ssize_t size = FS_HEX_SIZE(<uint64_t>number), at = size
    while at:
        at -= 1
        to[at] = fs_hex_digits[number & 15]
        number >>= 4
    return size
