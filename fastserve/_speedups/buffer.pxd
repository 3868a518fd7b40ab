# Growable bytes, owned by one object, never shared.
#
# `data` may move on every reserve(): do not keep pointers into it across one.

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from libc.string cimport memcpy

cdef class Buffer:
    cdef char* data             # owned; NULL until the first reserve()
    cdef Py_ssize_t size        # bytes in use
    cdef Py_ssize_t capacity

    # Make room for `extra` more bytes behind `size`.
    cdef int grow(self, Py_ssize_t extra) except -1

    # Forget the first `count` bytes (count <= size).
    cdef void consume(self, Py_ssize_t count) noexcept

    # Give the memory back; the buffer is empty and usable again.
    cdef void release(self) noexcept

    cdef inline int reserve(self, Py_ssize_t extra) except -1:
        if self.capacity - self.size < extra:
            self.grow(extra)
        return 0

    cdef inline int append(self, const char* data, Py_ssize_t size) except -1:
        if self.capacity - self.size < size:
            self.grow(size)
        memcpy(self.data + self.size, data, size)
        self.size += size
        return 0

    # For callers that have just reserved.
    cdef inline void put(self, const char* data, Py_ssize_t size) noexcept:
        memcpy(self.data + self.size, data, size)
        self.size += size


cdef class Block:
    # A bytes object while it is filled: whoever takes it has what came, without a copy.
    cdef PyObject* content      # owned, and nobody else's; NULL where there is no room
    cdef Py_ssize_t size        # bytes in use
    cdef Py_ssize_t capacity

    # Have room for `capacity` bytes in all. Memory nobody wrote to is address space only.
    cdef int grow(self, Py_ssize_t capacity) except -1

    cdef int resize(self, Py_ssize_t size) except -1

    # The bytes in use; empty again behind it.
    cdef bytes take(self)

    # Where the next byte goes; NULL where there is no room.
    cdef inline char* end(self) noexcept:
        if self.content == NULL:
            return NULL
        return PyBytes_AS_STRING(<object>self.content) + self.size
