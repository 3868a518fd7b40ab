# Where the wire floor meets: one HTTP/1.1 connection, read.
#
# receive() is the whole story of a request whose handler does not suspend: parse, route,
# call, render, and one send for everything that the read held. Bytes become heads, routes,
# bodies; what a request is answered, and when, is exchange's. Nothing in here waits, and what
# a client makes us keep has a bound.

from libc.stdint cimport int64_t

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.chunks cimport Chunks
from fastserve._speedups.engine cimport Engine
from fastserve._speedups.exchange cimport AnsweringConnection, Call
from fastserve._speedups.head cimport FieldMemo, Head
from fastserve._speedups.messages cimport Request
from fastserve._speedups.parser cimport Parser
from fastserve._speedups.plan cimport Plan

cdef class HttpProtocol(AnsweringConnection):
    cdef Parser parser
    cdef Head head
    cdef FieldMemo* memo            # owned; NULL until a second request comes
    cdef bytes fields               # its fields; None until a Request has the same
    cdef bint nameless              # they hold no id of a request
    cdef Py_ssize_t head_size       # > 0: `head` is complete, and waits for its turn
    cdef Py_ssize_t whole_head      # size of the head that is being answered
    cdef Chunks* chunks             # owned; NULL until a chunked body comes
    cdef Buffer input               # what came and is not consumed; None while nothing ever was
    cdef int64_t body_left
    cdef int64_t discard_left       # how much of an unwanted body, or behind the end, is read
    cdef Request receiver           # whose body is arriving; None: nobody wants it
    cdef bint continue_pending      # the client waits for "100 Continue"
    cdef bint reading_paused

    cdef int work(self, const char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t advance(self, const char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t take_body(self, const char* data, Py_ssize_t size) except -1
    cdef bint may_overlap(self)
    cdef Py_ssize_t dispatch(self, const char* data, Py_ssize_t size) except -1
    cdef int name_client(self) except -1
    cdef int observe(self, Call* call, const char* data, Plan plan) except -1
    cdef int make_room_for_memo(self) except -1
    cdef int begin_chunks(self) except -1
    cdef int refuse(self, int status) except -1
    cdef int refuse_body(self, object error) except -1
    cdef int client_left(self) except -1
    cdef int settle(self) except -1
    cdef int update_reading(self) except -1
    cdef int linger(self) except -1
    cdef int write_interim(self, const char* data, Py_ssize_t size) except -1

cdef class HttpEngine(Engine):
    pass
