# How long a client may take: to send its first byte, a head, a body; to read; to come back.
#
# A connection keeps when its present wait began, in ticks of the wheel; storing that is all a
# request costs. What is due is worked out when the wheel looks (RFC 9110 section 15.5.9).

from libc.stdint cimport int64_t

from fastserve._speedups.messages cimport Connection
from fastserve._speedups.wheel cimport Wheel

cdef enum Wait:
    WAIT_NOTHING = 0        # it is our turn
    WAIT_FIRST = 1          # for the first byte of a new connection
    WAIT_IDLE = 2           # for the next request
    WAIT_HEAD = 3           # for the rest of a head
    WAIT_BODY = 4           # for more of a body
    WAIT_LINGER = 5         # for the client to read its last answer
    WAIT_OUTPUT = 6         # for the client to read

cdef int64_t NEVER
cdef int64_t ticks(double seconds)

cdef class Deadlines:
    # Of one worker. In ticks; NEVER where a deadline is off.
    cdef Wheel wheel
    cdef readonly int64_t head, idle, between, grace, output, linger, handler
    cdef readonly double body_rate      # bytes a tick

cdef class TimedConnection(Connection):
    cdef Deadlines deadlines
    cdef int64_t since              # the present wait; 0: it is still to begin
    cdef int64_t head_since         # the first byte of an unfinished head; 0: there is none
    cdef int64_t body_since, body_seen, body_bytes
    cdef int64_t held_since         # reading stopped on our account; 0: it did not
    cdef int64_t stalled_since      # output waits for the client; 0: none does
    cdef int64_t flushed

    cdef int begin(self) except -1              # a new connection
    cdef int begin_head(self) except -1
    cdef int begin_body(self) except -1
    cdef int hold_body(self) except -1          # the client is not to blame from here
    cdef int release_body(self) except -1       # to here
    cdef int output_waits(self) except -1       # (the transport's call)
    cdef int64_t look(self, int64_t now) except -1
    cdef int64_t output_due(self, int64_t now) except -1
    cdef int64_t body_due(self)
    cdef int64_t wait_due(self, Wait wait)

    # For the connection to say and do.
    cdef Wait waits_for(self)
    cdef int64_t handlers_due(self, int64_t now) except -1  # ends those that are due; the next
    cdef int expired(self, Wait wait) except -1
