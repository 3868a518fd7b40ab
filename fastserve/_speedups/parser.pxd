# Requests as bytes: the one door of both backends.
#
# A parser never allocates, and keeps what it needs to resume in the structs it is handed, so
# one NativeParser serves every connection of a worker.

from fastserve._speedups.chunks cimport Chunks
from fastserve._speedups.head cimport FieldMemo, Head, Limits

cdef class Parser:
    # The interface of both backends.
    cdef Limits limits

    # The parser for a new connection: self where it holds no state.
    cdef Parser for_connection(self)

    # One whole head at the start of `data`, as read_head() in head.pxd; fills `head`.
    cdef Py_ssize_t parse_head(
        self, const char* data, Py_ssize_t size, Head* head, FieldMemo* memo) noexcept

    # As read_chunks() in chunks.pxd.
    cdef Py_ssize_t parse_chunks(
        self, const char* data, Py_ssize_t size, Chunks* chunks,
        const char** body, Py_ssize_t* body_size) noexcept

cdef class NativeParser(Parser):
    pass
