# What a worker's connections share: see engine.pxd for the contract.

import logging
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from fastserve._speedups.acceptor cimport Admission
from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport LogRation
from fastserve._speedups.deadlines cimport Deadlines, TimedConnection
from fastserve._speedups.messages cimport Request, load_decoder
from fastserve._speedups.responses cimport load_encoder
from fastserve._speedups.observer cimport Observer, RequestIds
from fastserve._speedups.parser cimport NativeParser
from fastserve._speedups.router cimport Router
from fastserve._speedups.scoreboard cimport (
    AT_ACCEPT_QUEUE, AT_BYTES_IN, AT_BYTES_OUT, AT_CONNECTIONS, AT_CONNECTIONS_TOTAL, AT_DRAINING,
    AT_EXPIRED, AT_IN_FLIGHT, AT_REJECTED, AT_SHED, AT_WAITING)
from fastserve._speedups.runner cimport Runner
from fastserve._speedups.serializer cimport Serializer
from fastserve._speedups.transport cimport Poller, open_transport
from fastserve._speedups.wheel cimport TICKS_PER_S, Wheel

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

# To a connection more than max_connections; a 503 need not carry a Date (RFC 9110 6.6.1).
cdef bytes OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n\r\nService Unavailable")

logger = logging.getLogger("fastserve.error")
complaint_log = logging.getLogger("fastserve")


def where_from(peer):
    """A client's address for the log."""
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and peer else "a client"


cdef class ServedConnection(TimedConnection):
    cdef int proceed(self) except -1:
        raise NotImplementedError

    cdef int drain(self) except -1:
        raise NotImplementedError

    cdef int leave_all(self) except -1:
        raise NotImplementedError


cdef class Engine(ProtocolFactory):
    """All that the connections of one worker share: routes, limits, buffers, the clock."""

    def __init__(self, loop, Router router, *, app=None, on_error=None, on_report=None,
                 str http="native", str tasks="direct", server_header="fastserve",
                 max_head_bytes=32 * 1024, max_field_bytes=8 * 1024, max_headers=100,
                 max_target_bytes=8 * 1024, max_body_bytes=1024 * 1024,
                 max_chunk_extension_bytes=4 * 1024, max_trailer_bytes=8 * 1024, max_trailers=32,
                 max_pipelined=16, max_connections=0, when_full="wait", lingering_close_s=2.0,
                 lingering_close_bytes=256 * 1024, header_timeout_s=10.0, keep_alive_timeout_s=75.0,
                 body_timeout_s=30.0, body_grace_s=10.0, body_min_rate_bytes_s=500.0,
                 write_timeout_s=30.0, handler_timeout_s=0.0, max_in_flight=0, max_queued=100,
                 queue_timeout_s=0.1, retry_after_s=1, bint use_epoll=True, clock=time.monotonic,
                 wall_clock=time.time, forwarded=None, board=None, journal=None,
                 request_id_header="x-request-id", busy_poll_us=0):
        limits = {
            "max_head_bytes": max_head_bytes, "max_field_bytes": max_field_bytes,
            "max_headers": max_headers, "max_target_bytes": max_target_bytes,
            "max_chunk_extension_bytes": max_chunk_extension_bytes,
            "max_trailer_bytes": max_trailer_bytes, "max_trailers": max_trailers,
        }
        if http == "native":
            self.parser = NativeParser(**limits)
        elif http == "httptools":
            from fastserve._speedups.httptools_parser import HttptoolsParser
            self.parser = HttptoolsParser(**limits)
        else:
            raise ValueError(f"http is 'native' or 'httptools', not {http!r}")
        load_encoder()
        load_decoder()
        self.loop = loop
        self.router = router
        self.app = app
        self.on_error = on_error
        self.on_report = on_report
        self.runner = Runner(loop, tasks)
        self.serializer = Serializer(server_header)
        self.poller = Poller(loop, use_epoll=use_epoll)
        self.poller.factory = self
        self.out = Buffer()
        self.out.reserve(2 * OUT_HIGH)
        self.clock = clock
        self.wall_clock = wall_clock
        self.ids = RequestIds(request_id_header)
        if board is not None or journal is not None:
            self.observer = Observer(self.ids, board, journal)
        self.deadlines = Deadlines(
            Wheel(<int64_t>(clock() * TICKS_PER_S)), header_s=header_timeout_s,
            keep_alive_s=keep_alive_timeout_s, body_between_s=body_timeout_s,
            body_grace_s=body_grace_s, body_rate_bytes_s=body_min_rate_bytes_s,
            write_s=write_timeout_s, linger_s=lingering_close_s, handler_s=handler_timeout_s)
        self.complaints = LogRation(10, 1.0)
        self.queue = {}
        self.max_in_flight = max_in_flight or PY_SSIZE_T_MAX
        self.max_queued = max_queued
        self.queue_timeout_s = queue_timeout_s
        self.retry_after = f"Retry-After: {retry_after_s}"
        self.busy_poll_s = busy_poll_us / 1e6
        self.later = []
        self.opening = set()
        self.forwarded = forwarded
        self.admission = Admission(
            self.poller, max_connections,
            OVERLOADED % retry_after_s if when_full == "reject" else None)
        self.max_body_bytes = max_body_bytes
        self.max_pipelined = max_pipelined
        self.lingering_close_bytes = lingering_close_bytes
        self.tick()

    @property
    def connections(self):
        """How many connections are open."""
        return self.deadlines.wheel.size

    cdef Py_ssize_t connection_count(self) except -1:
        return self.deadlines.wheel.size + len(self.opening)

    cdef int begin_turn(self) except -1:
        if self.observer is not None:
            self.observer.begin_turn()
        return self.runner.enter()

    cdef int end_turn(self) except -1:
        if self.observer is not None:
            self.observer.end_turn()
        self.runner.leave()
        return self.stay_awake()

    cdef int stay_awake(self) except -1:
        if self.busy_poll_s == 0:
            return 0
        self.awake_until_s = self.clock() + self.busy_poll_s
        if not self.awake:
            self.awake = True
            self.loop.call_soon(self.keep_awake)
        return 0

    def keep_awake(self):
        """Have the loop turn once more, without sleeping, until busy_poll_us after the last work."""
        self.awake = self.clock() < self.awake_until_s
        if self.awake:
            self.loop.call_soon(self.keep_awake)

    def protocol(self, peer=None, *, bint encrypted=False):
        """A new connection, for a transport of the loop.

        peer:       who the client is, where a PROXY header told: an Address
        encrypted:  the client spoke TLS to whoever wrote that
        """
        cdef ServedConnection made = self.make()
        made.told_peer = peer
        made.told_encrypted = encrypted
        return made

    def adopt(self, sock, peer=None, *, bint encrypted=False, bytes received=b""):
        """Serve a connected, non-blocking socket, which becomes the engine's.

        received:  what was read from it already; peer, encrypted: as for protocol()
        """
        cdef ServedConnection made = self.protocol(peer, encrypted=encrypted)
        open_transport(self.poller, sock.detach(), made)
        if received:
            made.receive(PyBytes_AS_STRING(received), PyBytes_GET_SIZE(received))

    def listen_for(self, listener, accepted):
        """Give each connected socket of a listening one to `accepted`, not blocking."""
        def hand_over(sock):
            sock.setblocking(False)
            accepted(sock)

        self.admission.listen(listener, hand_over)

    def tick(self, lag_s=0.0, accept_queue=0):
        """Four times a second: run the deadlines, render the Date header anew, tell the board.

        lag_s:         how late it is
        accept_queue:  connections that the kernel holds for this worker
        """
        if self.observer is not None:
            self.tell(lag_s, accept_queue)
        self.serializer.set_time(self.wall_clock())
        self.runner.refresh()
        if self.deadlines.wheel.advance(<int64_t>(self.clock() * TICKS_PER_S)):
            self.loop.call_soon(self.look_on)

    def tell(self, lag_s=0.0, accept_queue=0):
        """Bring board and journal up to date; see tick()."""
        cdef int wait
        if self.observer.journal is not None:
            self.observer.journal.flush()
        if self.observer.board is None:
            return
        figures = {
            AT_CONNECTIONS: self.connections, AT_IN_FLIGHT: self.requests_in_flight,
            AT_WAITING: len(self.queue), AT_ACCEPT_QUEUE: accept_queue,
            AT_DRAINING: self.draining, AT_CONNECTIONS_TOTAL: self.connections_total,
            AT_BYTES_IN: self.bytes_in, AT_BYTES_OUT: self.bytes_out, AT_SHED: self.shed_total,
            AT_REJECTED: self.admission.refused}
        for wait in range(EXPIRIES):
            figures[AT_EXPIRED + wait] = self.expired[wait]
        self.observer.board.tick(lag_s, figures)

    def look_on(self):
        """Look at more of the deadlines, a few at a time."""
        if self.deadlines.wheel.look_on():
            self.loop.call_soon(self.look_on)

    def listen(self, listener):
        """Accept connections of a listening, non-blocking socket, on our own transport."""
        self.admission.listen(listener)

    def listen_on_loop(self, listener, **options):
        """Accept connections of a listening socket onto transports of the loop.

        options:  for loop.connect_accepted_socket, e.g. ssl=
        """
        def accepted(sock):
            task = self.loop.create_task(
                self.loop.connect_accepted_socket(self.protocol, sock, **options))
            self.opening.add(task)
            task.add_done_callback(opened)

        def opened(task):
            self.opening_ended(task)
            if not task.cancelled() and task.exception() is not None:
                logger.debug("a connection did not open: %r", task.exception())

        self.listen_for(listener, accepted)

    def opening_ended(self, opening):
        """Something of `opening` became a connection, or never will."""
        self.opening.discard(opening)
        if self.admission.waits:
            self.admission.departed()

    def leave(self, listener):
        """Accept what is queued at one of the listeners, then leave it alone."""
        self.admission.leave(listener)

    def stop_listening(self):
        """Accept what is queued, then leave the listeners alone; they stay open."""
        self.admission.stop()

    def drain(self):
        """Close idle connections now, and every other one behind its last answer."""
        self.draining = self.ending = True
        for connection in self.deadlines.wheel.items():
            (<ServedConnection>connection).drain()

    def abort(self):
        """Cancel the handlers that still run and drop every connection."""
        for connection in self.deadlines.wheel.items():
            (<ServedConnection>connection).leave_all()
            if (<ServedConnection>connection).channel is not None:
                (<ServedConnection>connection).channel.abort()

    def close(self):
        """Leave the loop; the engine cannot be used again."""
        self.busy_poll_s = self.awake_until_s = 0
        self.admission.close()
        self.abort()
        self.poller.close()
        if self.observer is not None:
            self.tell()

    cdef bint enqueue(self, ServedConnection connection) except -1:
        # Its request waits for another one's end, if there is room; newest first, since the
        # client of the oldest is the likeliest to have given up.
        if len(self.queue) >= self.max_queued:
            return False
        self.queue[connection] = self.clock() + self.queue_timeout_s
        connection.queued = True
        if self.queue_timer is None:
            self.queue_timer = self.loop.call_later(self.queue_timeout_s, self.shed_late)
        return True

    cdef int admit(self) except -1:
        cdef ServedConnection connection
        while self.queue and self.requests_in_flight < self.max_in_flight:
            connection = self.queue.popitem()[0]
            connection.queued = False
            connection.proceed()
        return 0

    def shed_late(self):
        """Answer 503 to the requests that have waited for too long."""
        cdef ServedConnection connection
        self.queue_timer = None
        now = self.clock()
        while self.queue:
            connection = next(iter(self.queue))
            if self.queue[connection] > now + 0.001:
                self.queue_timer = self.loop.call_later(
                    self.queue[connection] - now, self.shed_late)
                break
            del self.queue[connection]
            connection.queued = False
            connection.shed = True
            connection.proceed()

    cdef int complain(self, ServedConnection connection, str reason) except -1:
        if reason and connection.channel is not None and self.complaints.allows():
            complaint_log.info("%s: %s%s", where_from(connection.channel.peer()), reason,
                               self.complaints.remark())
        return 0

    cdef int continue_later(self, ServedConnection connection) except -1:
        if not connection.scheduled:
            connection.scheduled = True
            if not self.later:
                self.loop.call_soon(self.continue_now)
            self.later.append(connection)
        return 0

    def continue_now(self):
        """Give the connections whose turn was cut short another one."""
        cdef ServedConnection connection
        cdef list later = self.later
        self.later = []
        for connection in later:
            connection.scheduled = False
            connection.proceed()

    cdef object ask(self, Request request, object error):
        cdef bint alone = not self.runner.entered
        if alone:
            self.runner.enter()     # a task has ended: this is the context that all others copy
        try:
            self.runner.leave_task()
            return self.on_error(request, error)
        finally:
            self.runner.after_sync()
            if alone:
                self.runner.leave()

    cdef int report(self, Request request, object error) except -1:
        # Who would answer it is not asked: the answer could not be sent.
        self.log(request, error)
        if self.on_report is not None:
            self.on_report(request, error)
        return 0

    cdef int log(self, Request request, object error) except -1:
        what = "a request" if request is None else f"{request.method} {request.path!a}"
        logger.error("exception while answering %s", what, exc_info=error)
        return 0
