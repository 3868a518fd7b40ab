# Growable bytes: see buffer.pxd for the contract.

from libc.stdlib cimport free, realloc
from libc.string cimport memmove

cdef Py_ssize_t SMALLEST = 512


cdef class Buffer:
    def __dealloc__(self):
        free(self.data)

    cdef int grow(self, Py_ssize_t extra) except -1:
        cdef Py_ssize_t wanted = self.size + extra
        cdef Py_ssize_t capacity = self.capacity * 2
        cdef char* data
        if extra < 0 or wanted < 0:
            raise OverflowError("buffer size")
        if capacity < SMALLEST:
            capacity = SMALLEST
        if capacity < wanted:
            capacity = wanted
        data = <char*>realloc(self.data, capacity)
        if data == NULL:
            raise MemoryError
        self.data = data
        self.capacity = capacity
        return 0

    cdef void consume(self, Py_ssize_t count) noexcept:
        self.size -= count
        if self.size:
            memmove(self.data, self.data + count, self.size)

    cdef void release(self) noexcept:
        free(self.data)
        self.data = NULL
        self.size = self.capacity = 0
