# What a handler receives.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastserve._speedups.buffer cimport Block, Buffer
from fastserve._speedups.channel cimport Channel, Protocol
from fastserve._speedups.plan cimport Plan

cdef class Connection(Protocol):
    # What a request needs of the connection it came from.
    cdef Channel channel
    cdef object app
    cdef object loop
    cdef object forwarded       # reads what trusted proxies say; None: nobody here is one
    cdef object told_peer       # the Address that a PROXY header told, or None
    cdef bint told_encrypted    # and whether it was TLS that the client spoke
    cdef int want_body(self, Request request) except -1     # 100-continue, and reading goes on
    cdef int body_taken(self, Request request) except -1    # there is room for more
    cdef int send_interim(self, Request request, bytes message) except -1   # a 1xx, in its turn
    cdef str name_of(self, Request request)     # see Request.id

cdef enum:
    BODY_HIGH = 160 * 1024      # of a body nobody takes: reading pauses from here on; more than one
                                # read, so that it does not pause for a handler that keeps up

cdef class Body:
    # A body that is still arriving: filled by the connection, emptied by the handler.
    cdef Connection connection
    cdef list pieces            # bytes, not taken yet
    cdef Buffer crumbs          # behind them: small pieces, which would cost an object each
    cdef Block block            # while collecting, all of them; else room for the next; or None
    cdef int64_t promised       # by Content-Length; -1: nothing
    cdef Py_ssize_t limit       # while collecting: woken above; -1: none
    cdef Py_ssize_t size        # of all that is not taken
    cdef Py_ssize_t received    # in all
    cdef object waiter          # future of the one coroutine that waits, or None
    cdef object error           # why there will be no more
    cdef bint complete
    cdef bint collecting        # body() wants all of it: no pause up to the limit

    cdef int feed(self, const char* data, Py_ssize_t size) except -1
    # Where the next `size` bytes of it may be put; feed() them from there, and they are not copied
    # again. What else lies there is gone then.
    cdef char* room(self, Py_ssize_t size) except NULL
    cdef int collect(self, Py_ssize_t limit) except -1  # all of it becomes one
    cdef int scatter(self) except -1                    # and pieces again
    cdef int make_room(self, Py_ssize_t size) except -1
    cdef bytes take(self)       # all that is there
    cdef bytes take_next(self)  # the same, but a large piece alone: joining would copy it
    cdef int gather(self) except -1
    cdef int finish(self) except -1
    cdef int fail(self, object error) except -1
    cdef int wake(self) except -1
    cdef object wait(self)      # a future for the next change

    cdef inline bint full(self):
        return self.size >= BODY_HIGH and not (
            self.collecting and (self.limit < 0 or self.received <= self.limit))

cdef class Origin:
    # What a trusted proxy said of a request; each None where it is silent.
    cdef object client          # an Address
    cdef object scheme          # "http" or "https"
    cdef object authority       # host or host:port
    cdef object port            # of the authority, where that names none

cdef class Request:
    cdef Connection connection
    cdef Plan plan
    cdef tuple values           # of the path parameters, in path order
    cdef bytes head             # the raw request line, or all of the head; offsets lead into it
    cdef uint32_t method_start, method_size
    cdef uint32_t target_start, target_size
    cdef uint32_t path_start, path_size
    cdef uint32_t query_start, query_size
    cdef bytes fields           # the raw fields, from `fields_start` to their blank line
    cdef uint32_t fields_start
    cdef uint8_t method_id
    cdef uint8_t minor_version
    cdef int64_t content_length # -1: not known
    cdef int64_t number         # of its worker's requests
    cdef str own_id             # None until asked for
    cdef readonly Py_ssize_t max_body_bytes     # of body(), json() and form()
    cdef Py_ssize_t max_stream_bytes            # of stream() and parts(); -1: none
    cdef Body arriving          # None: no body, or all of it is in `content`
    cdef bytes content          # the whole body; None until known
    cdef bint streamed          # somebody takes, or took, the pieces
    cdef bint decoded           # the Content-Encoding was seen to
    cdef object parsed_form
    cdef object decoded_path, decoded_query, parsed_headers, parsed_cookies, own_state, peer
    cdef Origin told            # by a trusted proxy; None until asked for

    cdef int check_length(self, Py_ssize_t limit, Py_ssize_t size) except -1    # 413
    cdef bint encoded(self)
    cdef object neighbour(self)     # the Address of whoever connected, or None once it is gone
    cdef Origin origin(self)

    cdef inline const char* first_field(self) noexcept:
        return PyBytes_AS_STRING(self.fields) + self.fields_start

    cdef inline uint32_t fields_size(self) noexcept:
        return <uint32_t>PyBytes_GET_SIZE(self.fields) - self.fields_start

cdef enum:
    DECODED_PER_TURN = 1024 * 1024      # of one body, before others get the loop

cdef class BodyStream:
    # What Request.stream() gives: the pieces as they come, decoded where the route wants it.
    cdef Request request
    cdef Py_ssize_t limit, given, held
    cdef object decoder         # of fastserve.decompress; None: as it was sent
    cdef bytes whole            # of a body that was there already; b"" when it was given
    cdef bint begun

    cdef int begin(self) except -1
    cdef bytes pull(self)

cdef BodyStream body_stream(Request request, Py_ssize_t limit)

cpdef int load_decoder() except -1
