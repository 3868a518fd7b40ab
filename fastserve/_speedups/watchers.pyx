# Who is watched for which events: see watchers.pxd for the contract.
#
# The set is an epoll descriptor of its own, and the event loop is given that one descriptor.
# Where there is no epoll, each descriptor goes to loop.add_reader instead.
#
# Watchers ask for edge-triggered events if they can: level-triggered, epoll would ask TCP again
# about each of them after every turn, and because one set is inside another, twice. So whoever
# stops before the kernel says EAGAIN re-arms, or remembers to; and events that nobody wants
# for the moment stay asked for, since they cost nothing until they come.

import os

from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastserve._speedups.system cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, FS_HAVE_EPOLL,
    c_close, c_errno, epoll_create1, epoll_ctl, epoll_event)


cdef class Watchers:
    """The descriptors that one callback of a loop looks after; a subclass has it, as turn().

    loop:       the event loop; it must have add_reader
    use_epoll:  False to give each descriptor to the loop (the only way where there is no epoll)
    """

    def __cinit__(self):
        self.epoll_fd = -1

    def __init__(self, loop, bint use_epoll):
        self.loop = loop
        if FS_HAVE_EPOLL and use_epoll:
            self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
            if self.epoll_fd < 0:
                raise OSError(c_errno, os.strerror(c_errno))
            loop.add_reader(self.epoll_fd, self.turn)

    def __dealloc__(self):
        cdef Py_ssize_t fd
        if self.epoll_fd >= 0:
            c_close(self.epoll_fd)
        for fd in range(self.capacity):
            Py_XDECREF(self.watchers[fd])
        free(self.watchers)

    def close(self):
        """Leave the loop. Every transport must be closed before."""
        if self.epoll_fd >= 0:
            self.loop.remove_reader(self.epoll_fd)
            c_close(self.epoll_fd)
            self.epoll_fd = -1

    def turn(self):
        """Serve what is ready."""
        raise NotImplementedError

    cdef int watch(self, Watcher watcher, uint32_t mask) except -1:
        self.enter(watcher, mask)
        return self.register(watcher)

    cdef int enter(self, Watcher watcher, uint32_t mask) except -1:
        cdef Py_ssize_t fd = watcher.fd
        self.generation += 1
        watcher.generation = self.generation
        watcher.mask = mask
        if self.epoll_fd < 0:
            return 0        # the loop will hold it
        if fd >= self.capacity:
            self.grow(fd)
        watcher.fresh = True
        Py_INCREF(watcher)
        self.watchers[fd] = <PyObject*>watcher
        return 0

    cdef int register(self, Watcher watcher) except -1:
        cdef epoll_event event
        cdef int code
        if self.epoll_fd < 0:
            return self.change_on_loop(watcher, 0, watcher.mask)
        event.events = watcher.mask
        event.data.u64 = event_key(watcher)
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, watcher.fd, &event) < 0:
            code = c_errno
            self.forget(watcher)
            raise OSError(code, os.strerror(code))
        watcher.fresh = False
        return 0

    cdef int grow(self, Py_ssize_t fd) except -1:
        cdef Py_ssize_t capacity = max(64, 2 * self.capacity, fd + 1)
        cdef PyObject** watchers = <PyObject**>realloc(
            self.watchers, capacity * sizeof(PyObject*))
        if watchers == NULL:
            raise MemoryError
        memset(watchers + self.capacity, 0, (capacity - self.capacity) * sizeof(PyObject*))
        self.watchers = watchers
        self.capacity = capacity
        return 0

    cdef int change(self, Watcher watcher, uint32_t mask) except -1:
        if mask == watcher.mask or watcher.fd < 0:
            return 0
        if self.epoll_fd < 0:
            self.change_on_loop(watcher, watcher.mask, mask)
            watcher.mask = mask
            return 0
        watcher.mask = mask
        return self.rearm(watcher)

    cdef int rearm(self, Watcher watcher) except -1:
        cdef epoll_event event
        if self.epoll_fd < 0 or watcher.fresh:
            return 0        # level-triggered there; or told when it is registered
        event.events = watcher.mask
        event.data.u64 = event_key(watcher)
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, watcher.fd, &event) < 0:
            raise OSError(c_errno, os.strerror(c_errno))
        return 0

    cdef int forget(self, Watcher watcher) except -1:
        cdef epoll_event event
        cdef Py_ssize_t fd = watcher.fd
        if self.epoll_fd < 0:
            self.change_on_loop(watcher, watcher.mask, 0)
        elif 0 <= fd < self.capacity and self.watchers[fd] == <PyObject*>watcher:
            # A registration belongs to the open file, which a forked child may share:
            # remove it, do not rely on close().
            if not watcher.fresh:
                epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, watcher.fd, &event)
            watcher.fresh = False
            self.watchers[fd] = NULL
            Py_DECREF(watcher)
        watcher.mask = 0
        watcher.generation = 0
        return 0

    def change_on_loop(self, Watcher watcher, uint32_t before, uint32_t after):
        if (before ^ after) & EPOLLIN:
            if after & EPOLLIN:
                self.loop.add_reader(watcher.fd, watcher.on_readable)
            else:
                self.loop.remove_reader(watcher.fd)
        if (before ^ after) & EPOLLOUT:
            if after & EPOLLOUT:
                self.loop.add_writer(watcher.fd, watcher.on_writable)
            else:
                self.loop.remove_writer(watcher.fd)
        return 0
