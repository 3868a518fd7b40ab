# What the connections of one worker share: routes, limits, buffers, the clock, and the queue
# of requests that wait for others to end.
#
# An engine makes connections, and asks of one only what ServedConnection promises: how it
# reads and answers is its own. Nothing in here blocks, and the queue has a bound.

from libc.stdint cimport int64_t

from fastserve._speedups.acceptor cimport Admission
from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport LogRation, ProtocolFactory
from fastserve._speedups.deadlines cimport Deadlines, TimedConnection
from fastserve._speedups.messages cimport Request
from fastserve._speedups.observer cimport Observer, RequestIds
from fastserve._speedups.parser cimport Parser
from fastserve._speedups.router cimport Router
from fastserve._speedups.runner cimport Runner
from fastserve._speedups.serializer cimport Serializer
from fastserve._speedups.transport cimport Poller

cdef enum:
    OUT_HIGH = 64 * 1024            # answers gathered before they are sent
    EXPIRED_HANDLERS = 7            # in `expired`, behind the Waits
    EXPIRIES = 8

cdef class ServedConnection(TimedConnection):
    cdef Engine engine
    cdef bint scheduled             # in engine.later
    cdef bint queued                # in engine.queue: its head waits for a request to end
    cdef bint shed                  # it waited too long
    cdef int64_t waits_since_ns     # as its observer tells time; 0: it does not
    cdef bytes client               # as its observer calls it; None until that asks

    cdef int proceed(self) except -1        # what held it back is gone
    cdef int drain(self) except -1          # close if idle
    cdef int leave_all(self) except -1      # cancel its handlers; none will be answered

cdef class Engine(ProtocolFactory):
    cdef readonly object loop
    cdef readonly object app
    cdef Router router
    cdef Runner runner
    cdef Serializer serializer
    cdef Parser parser
    cdef Poller poller
    cdef Buffer out                 # the answers of the connection at work
    cdef object on_error, on_report
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
    cdef bint ending                # drain() was called: the next answer is the last
    cdef readonly Py_ssize_t requests_in_flight
    cdef readonly Py_ssize_t requests_total
    cdef readonly int64_t connections_total, bytes_in, bytes_out, shed_total
    cdef int64_t[EXPIRIES] expired  # deadlines, by Wait; the last: of handlers
    cdef RequestIds ids
    cdef Observer observer          # None: nobody does
    cdef Py_ssize_t max_body_bytes
    cdef int max_pipelined
    cdef Py_ssize_t lingering_close_bytes
    cdef Py_ssize_t max_in_flight, max_queued
    cdef double queue_timeout_s
    cdef str retry_after
    cdef double busy_poll_s         # how long the loop turns without sleeping after work; 0: never
    cdef double awake_until_s       # on `clock`
    cdef bint awake                 # keep_awake is scheduled

    # For the connections to say. A client's doing, for the log, ten lines a second at most:
    cdef int complain(self, ServedConnection connection, str reason) except -1
    cdef int continue_later(self, ServedConnection connection) except -1
    # Its request waits for another one's end; False: there is no room.
    cdef bint enqueue(self, ServedConnection connection) except -1
    cdef int admit(self) except -1
    # What the application answers to an exception; what it sets in the context is gone.
    cdef object ask(self, Request request, object error)
    # An exception that nobody can be answered for; and the traceback of any, for the log.
    cdef int report(self, Request request, object error) except -1
    cdef int log(self, Request request, object error) except -1
    # There was work, and where it is wanted the loop waits for more of it without sleeping.
    cdef int stay_awake(self) except -1
