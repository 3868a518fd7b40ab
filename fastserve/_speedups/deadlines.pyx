# The deadlines of a connection: see deadlines.pxd for the contract.

from libc.math cimport ceil
from libc.stdint cimport int64_t

from fastserve._speedups.messages cimport Connection
from fastserve._speedups.wheel cimport TICKS_PER_S, Wheel

cdef int64_t NEVER = 1 << 60


cdef int64_t ticks(double seconds):
    # No deadline is early: a wait begins up to a tick later than it is written down.
    return <int64_t>ceil(seconds * TICKS_PER_S) + 1 if seconds > 0 else NEVER


cdef class Deadlines:
    """What a client is allowed, in seconds; 0 turns a deadline off.

    header_s:       from the first byte of a head (or the opening) to its end
    keep_alive_s:   between requests
    body_between_s: between two reads of a body
    body_grace_s:   before the rate counts
    body_rate_bytes_s: what a body must bring on average
    write_s:        without reading anything of what waits
    linger_s:       to read the last answer
    handler_s:      a handler, until its answer begins
    """

    def __init__(self, Wheel wheel, *, double header_s, double keep_alive_s, double body_between_s,
                 double body_grace_s, double body_rate_bytes_s, double write_s, double linger_s,
                 double handler_s):
        self.wheel = wheel
        self.head = ticks(header_s)
        self.idle = ticks(keep_alive_s)
        self.between = ticks(body_between_s)
        self.grace = ticks(body_grace_s) if body_rate_bytes_s > 0 else NEVER
        self.body_rate = body_rate_bytes_s / TICKS_PER_S
        self.output = ticks(write_s)
        self.linger = ticks(linger_s) if linger_s > 0 else 1
        self.handler = ticks(handler_s)


cdef class TimedConnection(Connection):
    cdef int begin(self) except -1:
        cdef Wheel wheel = self.deadlines.wheel
        self.since = wheel.now
        return wheel.add(self, wheel.now + min(self.deadlines.head, self.deadlines.idle))

    cdef int begin_head(self) except -1:
        cdef Wheel wheel = self.deadlines.wheel
        self.head_since = wheel.now
        return wheel.sooner(self, wheel.now + self.deadlines.head)

    cdef int begin_body(self) except -1:
        cdef Wheel wheel = self.deadlines.wheel
        self.body_since = self.body_seen = wheel.now
        self.body_bytes = 0
        self.held_since = 0
        return wheel.sooner(self, self.body_due())

    cdef int hold_body(self) except -1:
        if self.held_since == 0:
            self.held_since = self.deadlines.wheel.now
        return 0

    cdef int release_body(self) except -1:
        cdef int64_t now = self.deadlines.wheel.now
        if self.held_since:
            self.body_since += now - self.held_since
            self.body_seen = now
            self.held_since = 0
            self.deadlines.wheel.sooner(self, self.body_due())
        return 0

    cdef int output_waits(self) except -1:
        cdef Wheel wheel = self.deadlines.wheel
        if self.stalled_since == 0 and self.channel is not None:
            self.stalled_since = wheel.now
            self.flushed = self.channel.flushed()
            wheel.sooner(self, wheel.now + self.deadlines.output)
        return 0

    cdef int64_t look(self, int64_t now) except -1:
        cdef Wait wait
        cdef int64_t due = self.handlers_due(now)
        if self.stalled_since and self.channel is not None:
            due = min(due, self.output_due(now))
            if due <= now:
                self.expired(WAIT_OUTPUT)
                return now + 1
        wait = self.waits_for()
        if wait != WAIT_NOTHING:
            due = min(due, self.wait_due(wait))
            if due <= now:
                self.expired(wait)
                return now + 1      # a connection that is closed by then has left the wheel
        # Becoming idle tells nobody, so that a request costs nothing here: be back in time.
        return min(due, now + self.deadlines.idle)

    cdef int64_t output_due(self, int64_t now) except -1:
        cdef int64_t flushed = self.channel.flushed()
        if self.channel.unsent() == 0:
            self.stalled_since = 0
            return NEVER
        if flushed != self.flushed:
            self.flushed = flushed
            self.stalled_since = now
        return self.stalled_since + self.deadlines.output

    cdef int64_t body_due(self):
        # When the rate can be too low at the earliest, or the gap too long.
        cdef Deadlines allowed = self.deadlines
        cdef int64_t due = self.body_seen + allowed.between
        cdef int64_t by_rate
        if allowed.grace != NEVER:
            by_rate = <int64_t>(self.body_bytes / allowed.body_rate) + 1
            due = min(due, self.body_since + max(allowed.grace, by_rate))
        return due

    cdef int64_t wait_due(self, Wait wait):
        if wait == WAIT_BODY:
            return NEVER if self.held_since else self.body_due()
        if wait == WAIT_HEAD:
            return self.head_since + self.deadlines.head
        if wait == WAIT_IDLE:
            return self.since + self.deadlines.idle
        if wait == WAIT_LINGER:
            return self.since + self.deadlines.linger
        return self.since + self.deadlines.head

    cdef Wait waits_for(self):
        raise NotImplementedError

    cdef int64_t handlers_due(self, int64_t now) except -1:
        return NEVER

    cdef int expired(self, Wait wait) except -1:
        raise NotImplementedError
