# Where the wire floor meets: one HTTP/1.1 connection, and what a worker's connections share.
#
# A connection is a row of exchanges, oldest first. Only one that suspended, or stands behind
# one that did, exists as an object; any other is answered inside receive(). Answers leave in
# the order of their requests, those of one read in one send.

from libc.stdint cimport int64_t, uint8_t

from fastserve._speedups.acceptor cimport Admission
from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport Channel, LogRation, ProtocolFactory
from fastserve._speedups.chunks cimport Chunks
from fastserve._speedups.deadlines cimport Deadlines, TimedConnection, Wait
from fastserve._speedups.messages cimport ConditionalResponse, Request, Response
from fastserve._speedups.outgoing cimport Outgoing
from fastserve._speedups.parser cimport Head, Parser
from fastserve._speedups.plan cimport Plan
from fastserve._speedups.router cimport Params, PathEntry, Router
from fastserve._speedups.runner cimport Runner
from fastserve._speedups.serializer cimport Persistence, Serializer
from fastserve._speedups.transport cimport Poller

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

cdef class Exchange(Outgoing):
    # A request that is not answered yet, or whose answer waits for its turn.
    cdef HttpProtocol connection
    cdef Request request
    cdef object task
    cdef Call call
    cdef bytes rendered             # the answer, while it waits
    cdef Response response          # the answer whose body is sent as it is made
    cdef bint done
    cdef bint ends                  # the answer says "Connection: close"
    cdef bint cancellable           # by the client's leaving
    cdef bint timed_out
    cdef int64_t due                # tick at which the handler is ended; 0: whenever it likes
    cdef Exchange next

    cdef object give_up(self)
    cdef int let_go(self) except -1

cdef class HttpProtocol(TimedConnection):
    cdef Engine engine
    cdef Parser parser
    cdef Head head
    cdef Py_ssize_t head_size       # > 0: `head` is complete, and waits for its turn
    cdef Py_ssize_t whole_head      # size of the head that is being answered
    cdef Chunks* chunks             # owned; NULL until a chunked body comes
    cdef Buffer input               # what came and is not consumed; None while nothing ever was
    cdef Stage stage
    cdef int64_t body_left
    cdef int64_t discard_left       # how much of an unwanted body, or behind the end, is read
    cdef Request receiver           # whose body is arriving; None: nobody wants it
    cdef Exchange first, last
    cdef int outstanding
    cdef bint working               # inside work(): answers gather in engine.out
    cdef bint closing               # no further request is read; close behind the last answer
    cdef bint unread                # something of the client's stays unread: linger
    cdef bint ended                 # the client sends no more
    cdef bint continue_pending      # the client waits for "100 Continue"
    cdef bint reading_paused
    cdef bint writing_paused
    cdef bint scheduled             # in engine.later
    cdef bint queued                # in engine.queue: its head waits for a request to end
    cdef bint shed                  # it waited too long

    cdef int work(self, const char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t advance(self, const char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t take_body(self, const char* data, Py_ssize_t size) except -1
    cdef bint may_overlap(self)
    cdef Py_ssize_t dispatch(self, const char* data, Py_ssize_t size) except -1
    cdef int run(self, Plan plan, Params* params, const char* data, Call* call,
                 bytes content, bint arriving) except -1
    cdef Request make_request(self, Plan plan, Params* params, const char* data, bytes content,
                              bint arriving)
    cdef int run_coroutine(self, object coroutine, Exchange exchange, Request request, Plan plan,
                           Params* params, const char* data, Call* call) except -1
    cdef int fail(self, object error, Exchange exchange, Request request, Call* call) except -1
    cdef int answer(self, object value, Exchange exchange, Request request, Call* call) except -1
    cdef int prepare(self, ConditionalResponse response, Exchange exchange, Request request,
                     Call* call) except -1
    cdef int answer_later(self, Response response, Exchange exchange, Request request,
                          Call* call) except -1
    cdef int start_body(self, Exchange exchange) except -1
    cdef int open_body(self, Exchange exchange, bytes media_type) except -1
    cdef int body_ended(self, Exchange exchange, object error) except -1
    cdef int limit_handler(self, Plan plan, Exchange exchange) except -1
    cdef int answer_plain(self, int status, bytes detail, str field, Exchange exchange,
                          Call* call) except -1
    cdef Persistence persistence(self, Exchange exchange, Call* call)
    cdef int deliver(self, Exchange exchange, Py_ssize_t mark, bytes large, bint ends) except -1
    cdef int enqueue(self, Exchange exchange) except -1
    cdef int pop_answered(self) except -1
    cdef int unlink_first(self, bint ends) except -1
    cdef int refuse(self, int status) except -1
    cdef int flush(self) except -1
    cdef int settle(self) except -1
    cdef int proceed(self) except -1
    cdef int update_reading(self) except -1
    cdef int linger(self) except -1
    cdef int leave_running(self) except -1
    cdef bint is_idle(self)
    cdef int drain(self) except -1

cdef class Engine(ProtocolFactory):
    cdef readonly object loop
    cdef readonly object app
    cdef Router router
    cdef Runner runner
    cdef Serializer serializer
    cdef Parser parser
    cdef Poller poller
    cdef Buffer out                 # the answers of the connection at work
    cdef object on_error
    cdef object clock, wall_clock
    cdef Deadlines deadlines        # on their wheel: every open connection
    cdef dict queue                 # connections whose request waits -> until when, oldest first
    cdef object queue_timer
    cdef LogRation complaints
    cdef list later                 # connections whose turn was cut short
    cdef object forwarded           # what the connections begin with
    cdef readonly set opening       # whatever is accepted, and no connection yet
    cdef Admission admission
    cdef public bint draining
    cdef readonly Py_ssize_t requests_in_flight
    cdef readonly Py_ssize_t requests_total
    cdef Py_ssize_t max_body_bytes
    cdef int max_pipelined
    cdef Py_ssize_t lingering_close_bytes
    cdef Py_ssize_t max_in_flight, max_queued
    cdef double queue_timeout_s
    cdef str retry_after

    cdef bint enqueue(self, HttpProtocol connection) except -1
    cdef int admit(self) except -1
