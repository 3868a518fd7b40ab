# The timer wheel: see wheel.pxd for the contract.

import logging

from libc.stdint cimport int64_t

logger = logging.getLogger("fastserve.error")


cdef class Timed:
    cdef int64_t look(self, int64_t now) except -1:
        raise NotImplementedError


cdef class Wheel:
    """Looks at each of its items when something of it may be due.

    clock:  of a monotonic clock, in ticks
    """

    def __init__(self, int64_t clock=0):
        self.now = self.clock = clock
        self.slots = [set() for _ in range(SLOTS)]

    cdef int place(self, Timed item, int64_t at) except -1:
        item.look_at = max(self.now + 1, min(at, self.now + SLOTS - 1))
        (<set>self.slots[item.look_at % SLOTS]).add(item)
        return 0

    cdef int add(self, Timed item, int64_t at) except -1:
        item.on_wheel = True
        self.size += 1
        return self.place(item, at)

    cdef int remove(self, Timed item) except -1:
        if item.on_wheel:
            item.on_wheel = False
            self.size -= 1
            (<set>self.slots[item.look_at % SLOTS]).discard(item)
        return 0

    cdef int move(self, Timed item, int64_t at) except -1:
        if item.on_wheel:
            (<set>self.slots[item.look_at % SLOTS]).discard(item)
            self.place(item, at)
        return 0

    cpdef int advance(self, int64_t clock) except -1:
        """Look at everything that is due; `clock` in ticks of a monotonic clock."""
        cdef int64_t until = self.now + min(clock - self.clock, MOST_AT_ONCE)
        cdef set items
        self.clock = clock
        while self.now < until:
            self.now += 1
            items = self.slots[self.now % SLOTS]
            if items:
                self.slots[self.now % SLOTS] = set()
                self.look_at_all(items)
        return 0

    cdef int look_at_all(self, set items) except -1:
        cdef Timed item
        cdef int64_t next
        for item in items:
            if not item.on_wheel:
                continue        # another one's end was its end
            item.look_at = 0
            try:
                next = item.look(self.now)
            except Exception:
                logger.exception("unexpected error in a deadline, which is put off")
                next = self.now + SLOTS
            if not item.on_wheel:
                continue
            if next == 0:
                item.on_wheel = False
                self.size -= 1
            else:
                self.place(item, next)
        return 0

    cdef list items(self):
        cdef list found = []
        for slot in self.slots:
            found.extend(slot)
        return found
