# Bodies that are sent as they are made (RFC 9112 sections 6 and 7).
#
# An Outgoing is the answer to one request, in its turn: what is written to it leaves at once,
# framed. Whoever writes stops while `paused`, and awaits drained(): so a slow client costs the
# channel's backlog and one piece, whatever the size of the body.

from libc.stdint cimport int64_t

from fastserve._speedups.channel cimport Channel
from fastserve._speedups.responses cimport PartsResponse, StreamingResponse
from fastserve._speedups.task cimport TaskOwner

cdef enum Framing:
    FRAMED_BY_LENGTH = 0
    FRAMED_BY_CHUNKS = 1
    FRAMED_BY_CLOSE = 2         # HTTP/1.0 without a length: the end of the connection

cdef class Outgoing(TaskOwner):
    cdef Channel channel
    cdef object loop
    cdef object waiter              # of the writer, while it waits for room
    cdef int64_t sent               # of the body
    cdef int64_t left               # FRAMED_BY_LENGTH: bytes still to come
    cdef Py_ssize_t turn_left       # bytes until others get their turn
    cdef Framing framing
    cdef bint opened                # the head is sent
    cdef bint owes_crlf             # behind the last chunk
    cdef bint paused

    # The head leaves now. media_type: of the first piece, where the response names none
    cdef int open(self, bytes media_type) except -1
    cdef int write(self, bytes piece) except -1
    cdef int finish(self, object trailers) except -1
    cdef int resume(self) except -1
    cdef object drained(self)       # an awaitable; only while paused
    cdef int count(self, Py_ssize_t size) except -1

# The coroutines that write a whole body; they return when all of it is written.
cdef object send_pieces(Outgoing out, StreamingResponse response)
cdef object send_parts(Outgoing out, PartsResponse response)
