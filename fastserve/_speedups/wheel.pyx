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
        self.slots = [set() for _ in range(<int>SLOTS)]
        self.late = []

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

    cpdef bint advance(self, int64_t clock) except -1:
        """Go on to `clock`, in ticks of a monotonic clock."""
        cdef int64_t until = self.now + min(clock - self.clock, MOST_AT_ONCE)
        cdef set items
        self.clock = clock
        while self.now < until:
            self.now += 1
            items = self.slots[self.now % SLOTS]
            if items:
                self.slots[self.now % SLOTS] = set()
                self.late.extend(items)
        return self.look_on()

    cpdef bint look_on(self) except -1:
        cdef int left = LOOKS_AT_ONCE
        while self.late and left > 0:
            left -= 1
            self.look_at_one(self.late.pop())
        return bool(self.late)

    cdef int look_at_one(self, Timed item) except -1:
        cdef int64_t next
        if not item.on_wheel:
            return 0        # it has ended since
        item.look_at = 0
        try:
            next = item.look(self.now)
        except Exception:
            logger.exception("unexpected error in a deadline, which is put off")
            next = self.now + SLOTS
        if not item.on_wheel:
            return 0
        if next == 0:
            item.on_wheel = False
            self.size -= 1
            return 0
        return self.place(item, next)

    cdef list items(self):
        cdef list found = [item for item in self.late if (<Timed>item).on_wheel]
        for slot in self.slots:
            found.extend(slot)
        return found
