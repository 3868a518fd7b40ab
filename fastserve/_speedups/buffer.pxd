# Growable bytes, owned by one object, never shared.
#
# `data` may move on every reserve(): do not keep pointers into it across one.

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
