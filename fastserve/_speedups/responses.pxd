# What a handler returns.

from libc.stdint cimport int64_t

from fastserve._speedups.messages cimport Request
from fastserve._speedups.multidict cimport MutableHeaders

cdef class Response:
    cdef public int status
    cdef public bytes body
    cdef MutableHeaders own_headers     # None while there are none
    cdef bytes media_type               # encoded and checked; None: no Content-Type
    cdef Response copied(self)          # another one like it, whose headers are its own

cdef class StreamingResponse(Response):
    # A body that is sent as it is made.
    cdef public object source       # an iterable or async iterable of bytes or str
    cdef readonly int64_t length    # of the body in bytes; -1: not known
    cdef readonly object trailers   # None, or what makes the trailer fields when the body ended
    cdef readonly bint waits_for_first  # the first piece tells the media type; until then no head

cdef class ConditionalResponse(Response):
    # Decided by the request that it answers: preconditions, ranges, codings.
    # Returns the Response to send, or an awaitable of it; may raise HTTPError.
    cpdef object prepare(self, Request request)

cdef class FileSpan:
    # A part of an open file.
    cdef readonly int fd            # its owner's, open until PartsResponse.on_close is called
    cdef readonly int64_t offset
    cdef readonly int64_t size

cdef class PartsResponse(Response):
    # A body of known length in parts, some of them in files; `body` is not looked at.
    cdef readonly list parts        # of bytes and FileSpan, in order
    cdef readonly int64_t length
    cdef public object on_close     # None, or called once: when all is sent, or given up

# What a handler returned, as a Response. Raises TypeError or ValueError for what is none.
cdef Response to_response(object value)
cdef bytes dump_json(object value)
cpdef int load_encoder() except -1
