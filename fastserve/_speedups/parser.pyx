# The one door of both backends: see parser.pxd for the contract.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastserve._speedups.chunks cimport Chunks, read_chunks
from fastserve._speedups.head cimport (
    MAX_MEMO_BYTES, Field, FieldMemo, Head, next_field, read_head)

cdef class Place:
    # A copy of some bytes with nothing behind it, so that a read too far is an error where
    # anything watches: malloc's block, or what `place` says (tests put it before a guard page).
    cdef char* block
    cdef const char* start
    cdef Py_ssize_t size

    def __cinit__(self, bytes data, place):
        self.size = PyBytes_GET_SIZE(data)
        if place is not None:
            self.start = <const char*><uintptr_t>place(data)
            return
        self.block = <char*>malloc(<size_t>self.size if self.size else 1)
        if self.block == NULL:
            raise MemoryError
        memcpy(self.block, PyBytes_AS_STRING(data), <size_t>self.size)
        self.start = self.block

    def __dealloc__(self):
        free(self.block)


cdef class Memo:
    # The fields that a connection sent last.
    cdef FieldMemo* kept

    def __cinit__(self):
        self.kept = <FieldMemo*>calloc(1, sizeof(FieldMemo) + MAX_MEMO_BYTES)
        if self.kept == NULL:
            raise MemoryError
        self.kept.capacity = MAX_MEMO_BYTES

    def __dealloc__(self):
        free(self.kept)


cdef uint32_t limit(str name, value, uint32_t least, uint32_t most) except? 0:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; it must be from {least} to {most}")
    return value


cdef class Parser:
    """What both parsers have in common; make a NativeParser or an HttptoolsParser.

    The limits are in bytes or in fields; see `Limits` in head.pxd for what each bounds.
    """

    def __init__(self, *, max_head_bytes=32768, max_field_bytes=8192, max_headers=100,
                 max_target_bytes=8192, max_chunk_extension_bytes=4096,
                 max_trailer_bytes=8192, max_trailers=32):
        # Offsets are 32 bits and counts 16; an empty line must always fit.
        cdef uint32_t most = 1 << 30
        self.limits.max_head_bytes = limit("max_head_bytes", max_head_bytes, 2, most)
        self.limits.max_field_bytes = limit("max_field_bytes", max_field_bytes, 2, most)
        self.limits.max_headers = limit("max_headers", max_headers, 0, 65535)
        self.limits.max_target_bytes = limit("max_target_bytes", max_target_bytes, 1, most)
        self.limits.body.max_extension_bytes = limit(
            "max_chunk_extension_bytes", max_chunk_extension_bytes, 0, most)
        self.limits.body.max_trailer_bytes = limit("max_trailer_bytes", max_trailer_bytes, 2, most)
        self.limits.body.max_trailers = limit("max_trailers", max_trailers, 0, 65535)

    cdef Parser for_connection(self):
        return self

    cdef Py_ssize_t parse_head(
            self, const char* data, Py_ssize_t size, Head* head, FieldMemo* memo) noexcept:
        return -500

    cdef Py_ssize_t parse_chunks(
            self, const char* data, Py_ssize_t size, Chunks* chunks,
            const char** body, Py_ssize_t* body_size) noexcept:
        return -500

    def head(self, bytes data, place=None):
        """Parse one head: what it means as a dict, the status to answer, or None for "more"."""
        return self.split_head((data,), place)

    def split_head(self, pieces, place=None, before=None):
        """Parse a head that arrives in pieces; the first verdict counts.

        place:   bytes -> the address of a copy of them, valid until the next call
        before:  the head that came before on the same connection, if one did
        """
        cdef Parser parser = self.for_connection()
        cdef Memo memo = Memo()
        cdef Head head
        cdef Place copy
        cdef bytes data = b""
        cdef Py_ssize_t consumed
        if before is not None:
            memset(&head, 0, sizeof(Head))
            copy = Place(before, place)
            parser.parse_head(copy.start, copy.size, &head, memo.kept)
        memset(&head, 0, sizeof(Head))
        for piece in pieces:
            data += piece
            copy = Place(data, place)
            consumed = parser.parse_head(copy.start, copy.size, &head, memo.kept)
            if consumed < 0:
                return -consumed
            if consumed > 0:
                return meaning(copy.start, consumed, &head)
        return None

    def chunked(self, pieces, place=None):
        """Decode a chunked body that arrives in pieces.

        Returns (body, bytes consumed), the status to answer, or None for "more".
        """
        cdef Parser parser = self.for_connection()
        cdef Chunks chunks
        cdef Place copy
        cdef bytes data = b""
        cdef list body = []
        cdef Py_ssize_t consumed, total = 0
        cdef const char* run
        cdef Py_ssize_t run_size
        memset(&chunks, 0, sizeof(Chunks))
        for piece in pieces:
            data += piece
            while True:
                copy = Place(data, place)
                consumed = parser.parse_chunks(copy.start, copy.size, &chunks, &run, &run_size)
                if consumed < 0:
                    return -consumed
                if not copy.start <= run <= run + run_size <= copy.start + consumed:
                    raise AssertionError("a run of data outside of what was consumed")
                if run_size:
                    body.append(PyBytes_FromStringAndSize(run, run_size))
                total += consumed
                data = data[consumed:]
                if chunks.done:
                    return b"".join(body), total
                if consumed == 0:
                    break
        return None

    def repeat_head(self, bytes data, Py_ssize_t times):
        """Parse the same head many times as if it were new, for measuring; the last verdict."""
        cdef Head head
        cdef Py_ssize_t verdict = 0, index
        for index in range(times):
            memset(&head, 0, sizeof(Head))
            verdict = self.parse_head(
                PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head, NULL)
        return verdict


cdef bytes cut(const char* data, uint32_t start, uint32_t size):
    return PyBytes_FromStringAndSize(data + start, size)


cdef dict meaning(const char* data, Py_ssize_t size, Head* head):
    # A head as Python values.
    cdef Field field
    cdef const char* cursor = data + head.fields_start
    headers = []
    while next_field(&cursor, data + size, &field):
        headers.append((field.name[:field.name_size], field.value[:field.value_size]))
    return {
        "method": cut(data, head.method_start, head.method_size),
        "method_id": head.method,
        "target": cut(data, head.target_start, head.target_size),
        "path": cut(data, head.path_start, head.path_size) or b"/",
        "path_escaped": bool(head.path_escaped),
        "query": cut(data, head.query_start, head.query_size) if head.has_query else None,
        "version": f"1.{head.minor_version}",
        "headers": headers,
        "content_length": None if head.content_length < 0 else head.content_length,
        "chunked": bool(head.chunked),
        "keep_alive": bool(head.keep_alive),
        "expect_continue": bool(head.expect_continue),
        "upgrade": bool(head.upgrade),
        "consumed": size,
    }


cdef class NativeParser(Parser):
    """Our own parser. It holds no state, so one serves all connections of a worker."""

    cdef Py_ssize_t parse_head(
            self, const char* data, Py_ssize_t size, Head* head, FieldMemo* memo) noexcept:
        return read_head(&self.limits, data, size, head, memo)

    cdef Py_ssize_t parse_chunks(
            self, const char* data, Py_ssize_t size, Chunks* chunks,
            const char** body, Py_ssize_t* body_size) noexcept:
        return read_chunks(&self.limits.body, data, size, chunks, body, body_size)
