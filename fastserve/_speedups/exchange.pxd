# From a request to its answer on the wire, in the order of the requests.
#
# A connection is a row of exchanges, oldest first. Only one that suspended, or stands behind
# one that did, exists as an object; any other is answered inside run(). Answers leave in the
# order of their requests (RFC 9112 section 9.3.2), those of one read in one send. Whatever a
# handler does, its request gets one answer, or the connection ends.
#
# Requests come in by run(); how they were read is not known here.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t

from fastserve._speedups.engine cimport Engine, ServedConnection
from fastserve._speedups.messages cimport Request
from fastserve._speedups.responses cimport ConditionalResponse, Response
from fastserve._speedups.observed cimport Observed
from fastserve._speedups.outgoing cimport Outgoing
from fastserve._speedups.plan cimport Plan
from fastserve._speedups.router cimport Params
from fastserve._speedups.serializer cimport Persistence

cdef enum Stage:
    STAGE_HEAD = 0          # between requests, or inside a head
    STAGE_LENGTH = 1        # body_left bytes of body to come
    STAGE_CHUNKED = 2
    STAGE_LINGER = 3        # answered for the last time; what still comes is thrown away
    STAGE_LOST = 4

cdef struct Call:
    # What of a request its answer depends on.
    bint head_only          # HEAD: the body stays here
    bint keep_alive
    bint safe               # GET, HEAD, OPTIONS, TRACE without a body: may overlap others
    bint failing            # the answer in the making is that to an exception
    uint8_t minor_version
    # What its Request is made of if anybody wants one, while its read is at hand; in an
    # Exchange, which has a Request, NULL.
    const char* data
    Params* params
    PyObject* plan
    # Of which only the number is always filled in; begun_ns is 0 where nobody observes it, or
    # its end was told.
    Observed seen

cdef bytes client_name(object address)     # an address and a port, or None

cdef class Exchange(Outgoing):
    # A request that is not answered yet, or whose answer waits for its turn.
    cdef AnsweringConnection connection
    cdef Request request
    cdef object task
    cdef Call call
    cdef bytes rendered             # the answer, while it waits
    cdef Response response          # the answer whose body is sent as it is made
    cdef bint done
    cdef bint ends                  # the answer says "Connection: close"
    cdef bint cancellable           # by the client's leaving
    cdef bint deserted              # its task was cancelled since nobody waits for the answer
    cdef bint timed_out
    cdef int64_t due                # tick at which the handler is ended; 0: whenever it likes
    cdef Exchange next

    # Cancel its task, once: what that awaits in order to clean up is not interrupted.
    cdef int leave(self) except -1
    cdef int give_up(self) except -1
    cdef int let_go(self) except -1
    cdef int abandon(self, object error) except -1

cdef class AnsweringConnection(ServedConnection):
    cdef Exchange first, last
    cdef int outstanding
    cdef Stage stage
    cdef bint working               # inside a read: answers gather in engine.out
    cdef bint closing               # no further request is read; close behind the last answer
    cdef bint more                  # while draining: another request has come behind the last
    cdef bint unread                # something of the client's stays unread: linger
    cdef bint ended                 # the client sends no more
    cdef bint writing_paused

    # A handler's value or exception, in the end, is answer()ed or fail()ed. exchange: None
    # while the request has none; request: None while nobody wanted one.
    cdef int run(self, Plan plan, Call* call, bytes content, bint arriving) except -1
    cdef int run_coroutine(self, object coroutine, Exchange exchange, Request request,
                           Call* call) except -1
    cdef int fail(self, object error, Exchange exchange, Request request, Call* call) except -1
    cdef int answer(self, object value, Exchange exchange, Request request, Call* call) except -1
    cdef int answer_plain(self, int status, bytes detail, str field, Exchange exchange,
                          Call* call) except -1
    cdef int prepare(self, ConditionalResponse response, Exchange exchange, Request request,
                     Call* call) except -1
    cdef Persistence persistence(self, Exchange exchange, Call* call)

    # Bodies that are sent as they are made.
    cdef int answer_later(self, Response response, Exchange exchange, Request request,
                          Call* call) except -1
    cdef int start_body(self, Exchange exchange) except -1
    cdef int open_body(self, Exchange exchange, bytes media_type) except -1
    cdef int body_ended(self, Exchange exchange, object error) except -1

    # The row, and out.
    cdef int deliver(self, Exchange exchange, Py_ssize_t mark, bytes large, bint ends) except -1
    cdef Exchange begin_exchange(self, Request request, Call* call)
    cdef int enqueue(self, Exchange exchange) except -1
    cdef int pop_answered(self) except -1
    cdef int unlink_first(self, bint ends) except -1
    cdef int leave_bodies(self) except -1
    cdef int leave_running(self) except -1
    cdef int limit_handler(self, Exchange exchange) except -1
    cdef int flush(self) except -1

    # Tell the observer, once, what became of a request.
    cdef int observe_end(self, Exchange exchange, Request request, Call* call, int status,
                         int64_t body_bytes) except -1

    # For who reads to say and do.
    cdef Request make_request(self, Call* call, bytes content, bint arriving)
    # The body that is still arriving is wanted no more. False: it cannot be thrown away.
    cdef bint leave_body(self) except -1
    cdef bint is_idle(self)
