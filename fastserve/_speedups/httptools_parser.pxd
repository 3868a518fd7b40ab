# The second parser: llhttp, as httptools wraps it, under the same rules.
#
# llhttp cannot pause at the end of a message, so it is fed in pieces that end where ours
# says a line, a run of data or the message ends: it never sees a byte behind the message.
# It is lenient here and there, so its reading has to explain every byte of every line.

from fastserve._speedups.chunks cimport Chunks
from fastserve._speedups.head cimport Head
from fastserve._speedups.parser cimport Parser

cdef class Reading:
    # What llhttp said of the current message.
    cdef bytes url
    cdef list fields            # (name, value)
    cdef list body              # since the last look
    cdef bint headers_complete
    cdef bint message_complete

cdef class HttptoolsParser(Parser):
    cdef object machine         # httptools.HttpRequestParser of the current message, or None
    cdef Reading reading
    cdef list fields            # our split of the lines fed so far: llhttp must say the same

    cdef void begin(self) except *
    cdef bint feed(self, bytes data) except *
    cdef Py_ssize_t next_lines(self, const char* data, Py_ssize_t size, Head* head) except? -1
    cdef int next_request_line(
        self, const char* data, const char* line, const char* lf, Head* head) except? -1
    cdef int next_field_line(self, bytes line, Head* head) except? -1
    cdef int last_line(self, const char* data, Head* head) except? -1
    cdef Py_ssize_t next_chunks(
        self, const char* data, Py_ssize_t size, Chunks* chunks,
        const char** body, Py_ssize_t* body_size) except? -1
