# Deadlines: one wheel per worker, no timer per connection or request.
#
# Time goes in ticks. An item stands in the slot of the tick at which it is looked at next;
# what it waits for may move later without a word, since look() will say so. Only an earlier
# moment has to be told, by sooner(). So a connection whose requests come and go in time costs
# a store each, and is looked at once in a keep-alive time.
#
# Time in which nobody advanced the wheel, since the loop was blocked or the machine asleep,
# counts for nothing: a client must not be late because we were.

from libc.stdint cimport int64_t

cdef enum:
    TICKS_PER_S = 4
    MOST_AT_ONCE = 4        # ticks of one advance()
    LOOKS_AT_ONCE = 32      # then others get their turn: ten thousand may be due together
    SLOTS = 512             # the furthest look is this many ticks ahead; then another lap

cdef class Timed:
    cdef int64_t look_at    # 0 while it is being looked at
    cdef bint on_wheel

    # Something may be due. Returns the tick of the next look: later than `now`, any distance.
    # 0: take me off the wheel.
    cdef int64_t look(self, int64_t now) except -1

cdef class Wheel:
    cdef list slots         # of sets
    cdef list late          # due, and not looked at yet
    cdef readonly int64_t now           # moves in advance() only
    cdef int64_t clock                  # what advance() was told last
    cdef readonly Py_ssize_t size

    cdef int add(self, Timed item, int64_t at) except -1
    cdef int remove(self, Timed item) except -1
    cdef int place(self, Timed item, int64_t at) except -1
    cdef int move(self, Timed item, int64_t at) except -1
    cdef int look_at_one(self, Timed item) except -1
    # Both look at some of what is due; true when there is more: call look_on() soon.
    cpdef bint advance(self, int64_t clock) except -1
    cpdef bint look_on(self) except -1
    cdef list items(self)               # all of them, in no order

    cdef inline int sooner(self, Timed item, int64_t at) except -1:
        if at < item.look_at:
            return self.move(item, at)
        return 0
