# Who is watched for which events: one epoll set, or where there is none the event loop's own
# readers and writers. Knows nothing of what is done when something is ready.

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastserve._speedups.channel cimport Watcher

# What the kernel gives back with an event: it tells a late one for a reused descriptor from a
# current one.
cdef inline uint64_t event_key(Watcher watcher) noexcept:
    return (<uint64_t>watcher.generation << 32) | <uint32_t>watcher.fd

cdef class Watchers:
    cdef readonly object loop
    cdef int epoll_fd               # -1: every descriptor goes to loop.add_reader
    cdef PyObject** watchers        # by fd: owned references, or NULL
    cdef Py_ssize_t capacity        # of `watchers`
    cdef uint32_t generation
    cdef int watch(self, Watcher watcher, uint32_t mask) except -1
    # The same in two steps: the kernel hears of it with the second, and not at all of one that
    # was forgotten before.
    cdef int enter(self, Watcher watcher, uint32_t mask) except -1
    cdef int register(self, Watcher watcher) except -1
    cdef int change(self, Watcher watcher, uint32_t mask) except -1
    cdef int rearm(self, Watcher watcher) except -1     # tell again what is ready
    cdef int forget(self, Watcher watcher) except -1
    cdef int grow(self, Py_ssize_t fd) except -1

    # The watcher an event is for, borrowed; NULL where something earlier in the turn closed
    # it, even if its number is in use again.
    cdef inline PyObject* find(self, uint64_t key) noexcept:
        cdef Py_ssize_t fd = <Py_ssize_t><uint32_t>key
        cdef PyObject* found
        if fd < self.capacity:
            found = self.watchers[fd]
            if found != NULL and (<Watcher>found).generation == <uint32_t>(key >> 32):
                return found
        return NULL
