# Growable bytes: see buffer.pxd for the contract.

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

cdef extern from "Python.h":
    # To fill before anybody else sees it, and to resize while there is one reference.
    PyObject* bytes_of_size "PyBytes_FromStringAndSize"(char* data, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** content, Py_ssize_t size) except -1

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


cdef class Block:
    def __dealloc__(self):
        Py_XDECREF(self.content)

    cdef int grow(self, Py_ssize_t capacity) except -1:
        if capacity <= self.capacity:
            return 0
        if self.content == NULL:
            self.content = bytes_of_size(NULL, capacity)
        else:
            self.resize(capacity)
        self.capacity = capacity
        return 0

    cdef int resize(self, Py_ssize_t size) except -1:
        try:
            _PyBytes_Resize(&self.content, size)
        except MemoryError:
            self.size = self.capacity = 0   # and what was in it is gone
            raise
        return 0

    cdef bytes take(self):
        cdef bytes taken = b""
        if self.size:
            if self.size < self.capacity:
                self.resize(self.size)
            taken = <bytes>self.content
        Py_XDECREF(self.content)
        self.content = NULL
        self.size = self.capacity = 0
        return taken
