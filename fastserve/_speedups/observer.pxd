# Who watches the requests of a worker: its scoreboard, its journal, each of them or both.
#
# A request is told twice, when its head was read and when its answer is over. Time is read once
# for each answer and once for each turn of the loop: a request begins when the turn did, or when
# the one before it ended.

from libc.stdint cimport int64_t

from fastserve._speedups.journal cimport Journal
from fastserve._speedups.observed cimport Observed
from fastserve._speedups.scoreboard cimport AT_CURRENT, Scoreboard

cdef enum:
    GONE = 499              # the client left before it was answered; nginx's number for it

cdef class RequestIds:
    # What a request is called in logs and traces, on whichever machine.
    cdef bytes field        # of a head that is believed, in lower case; empty: none is
    cdef bytes prefix       # of those that have none
    # Fill seen.id from its head, or make one of its number.
    cdef int name(self, Observed* seen) except -1

cdef class Observer:
    cdef readonly Scoreboard board      # or None
    cdef readonly Journal journal       # or None
    cdef RequestIds ids
    cdef int64_t now                    # as it was last read
    cdef int64_t turn                   # when the loop's present turn of ours began

    cdef int begin(self, Observed* seen) except -1
    cdef int end(self, Observed* seen, int status, int64_t body_bytes) except -1
    cdef int begin_turn(self) except -1
    cdef int end_turn(self) except -1

    # The request whose handler holds the loop from now on; 0: none does.
    cdef inline void hold(self, int64_t number) noexcept:
        if self.board is not None:
            self.board.words[<int>AT_CURRENT] = number
