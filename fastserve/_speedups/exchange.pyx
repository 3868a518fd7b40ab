# From a request to its answer on the wire: see exchange.pxd for the contract (RFC 9112).

import asyncio

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.deadlines cimport NEVER, ticks
from fastserve._speedups.messages cimport Request
from fastserve._speedups.responses cimport (
    ConditionalResponse, PartsResponse, Response, StreamingResponse, to_response)
from fastserve._speedups.outgoing cimport (
    FRAMED_BY_CHUNKS, FRAMED_BY_CLOSE, FRAMED_BY_LENGTH, Outgoing, send_parts, send_pieces)
from fastserve._speedups.engine cimport EXPIRED_HANDLERS
from fastserve._speedups.head cimport METHOD_GET, METHOD_HEAD
from fastserve._speedups.observer cimport GONE
from fastserve._speedups.plan cimport Plan
from fastserve._speedups.scoreboard cimport now_ns
from fastserve._speedups.serializer cimport (
    CHUNKED, PERSIST_NOT, PERSIST_SAID, PERSIST_SILENT, UNTIL_CLOSE, Persistence)
from fastserve._speedups.task cimport RAISED, RETURNED, SUSPENDED, Outcome
from fastserve._speedups.wheel cimport Wheel

from fastserve.errors import ClientDisconnect, HTTPError

cdef extern from *:
    """
    #define FS_AWAITABLE(o) \
        (Py_TYPE(o)->tp_as_async != NULL && Py_TYPE(o)->tp_as_async->am_await != NULL)
    """
    bint FS_AWAITABLE(object value)

cdef object CancelledError = asyncio.CancelledError


async def awaited(value):
    """The result of any awaitable, as a coroutine."""
    return await value


cdef inline bint is_final(object value):
    # The commonest values need no second look before they are rendered.
    return type(value) is str or type(value) is dict


cdef inline bint is_cancellable(Request request):
    # By the client's leaving: what only reads, unless its route says otherwise.
    if request.plan.cancel_on_disconnect >= 0:
        return request.plan.cancel_on_disconnect
    return request.method_id == METHOD_GET or request.method_id == METHOD_HEAD


cdef bytes client_name(object address):
    return b"-" if address is None or not address[0] else address[0].encode(errors="replace")


cdef class Exchange(Outgoing):
    cdef int task_done(self, object task) except -1:
        cdef AnsweringConnection connection = self.connection
        cdef Outcome outcome = RETURNED
        cdef object ended = connection.engine.runner.ended(task, &outcome)
        connection.engine.requests_in_flight -= 1
        self.task = None
        if self.timed_out and outcome == RAISED and isinstance(ended, CancelledError):
            ended = HTTPError(504, "the handler took too long")
        if self.response is not None:
            connection.body_ended(self, ended if outcome == RAISED else None)
        elif self.done or connection.stage == STAGE_LOST or (
                connection.ended and self.cancellable):
            self.abandon(ended if outcome == RAISED else None)
            if outcome == RETURNED and isinstance(ended, (StreamingResponse, PartsResponse)):
                self.response = ended
                self.let_go()
        elif outcome == RAISED:
            connection.fail(ended, self, self.request, &self.call)
        else:
            connection.answer(ended, self, self.request, &self.call)
        connection.proceed()
        connection.engine.stay_awake()
        return connection.engine.admit()

    cdef str purpose(self):
        cdef Request request = self.request
        cdef str age = ""
        if request is None:
            return ""
        if self.call.seen.begun_ns:
            age = f", for {(now_ns() - self.call.seen.begun_ns) / 1e9:.3f} s"
        return (f"{request.method} {request.path}, route {request.plan.template.decode()}, "
                f"id {request.id}{age}")

    cdef int task_holds(self, bint holds) except -1:
        if self.connection.engine.observer is not None:
            self.connection.engine.observer.hold(self.call.seen.number if holds else 0)
        return 0

    cdef int open(self, bytes media_type) except -1:
        return self.connection.open_body(self, media_type)

    cdef int abandon(self, object error) except -1:
        # Nobody is there to answer; a mistake of the handler's is still reported.
        cdef AnsweringConnection connection = self.connection
        connection.observe_end(self, self.request, &self.call, GONE, 0)
        if error is not None and not isinstance(error, (CancelledError, ClientDisconnect, HTTPError)):
            connection.engine.report(self.request, error)
        if not self.done and connection.stage != STAGE_LOST:
            self.done = True
            self.rendered = b""
            self.ends = True    # the next answer would be taken for it (RFC 9112 section 9.3.2)
            connection.closing = True
            connection.pop_answered()
        return 0

    cdef int leave(self) except -1:
        if not self.deserted:
            self.deserted = True
            self.task.cancel()
        return 0

    cdef int give_up(self) except -1:
        # Nobody will read the answer: what works on it learns so, what it holds is let go.
        self.done = True
        self.channel = None
        if self.task is not None:
            return self.leave()
        self.connection.observe_end(self, self.request, &self.call, GONE, 0)
        return self.let_go()

    cdef int let_go(self) except -1:
        # Of what a body held that was never begun, or has ended.
        cdef Response response = self.response
        self.response = None
        close = None
        if type(response) is PartsResponse or isinstance(response, PartsResponse):
            close = (<PartsResponse>response).on_close
        elif isinstance(response, StreamingResponse):
            close = getattr((<StreamingResponse>response).source, "close", None)
        if close is not None:
            try:
                close()
            except Exception as error:
                self.connection.engine.report(self.request, error)
        return 0


cdef class AnsweringConnection(ServedConnection):
    cdef Request make_request(self, Call* call, bytes content, bint arriving):
        raise NotImplementedError

    cdef bint leave_body(self) except -1:
        raise NotImplementedError

    cdef bint is_idle(self):
        raise NotImplementedError

    cdef int run(self, Plan plan, Call* call, bytes content, bint arriving) except -1:
        cdef Request request = None
        cdef object result
        if plan.wants_request:
            request = self.make_request(call, content, arriving)
        if not plan.is_async:
            self.engine.runner.leave_task()
        try:
            result = plan.call(request, call.params.values)
        except BaseException as error:
            self.engine.runner.after_sync()
            return self.fail(error, None, request, call)
        if plan.is_async:
            return self.run_coroutine(result, None, request, call)
        self.engine.runner.after_sync()
        if not is_final(result) and FS_AWAITABLE(result):
            return self.run_coroutine(awaited(result), None, request, call)
        return self.answer(result, None, request, call)

    cdef int run_coroutine(self, object coroutine, Exchange exchange, Request request,
                           Call* call) except -1:
        cdef Engine engine = self.engine
        cdef Outcome outcome = RETURNED
        cdef object result = engine.runner.begin(coroutine, &outcome)
        if outcome == RETURNED:
            return self.answer(result, exchange, request, call)
        if outcome == RAISED:
            return self.fail(result, exchange, request, call)
        if exchange is None:
            if request is None:
                request = self.make_request(call, None, False)
            exchange = self.begin_exchange(request, call)
            exchange.cancellable = is_cancellable(request)
        exchange.call.failing = call.failing
        exchange.task = result
        if exchange.due == 0:
            self.limit_handler(exchange)
        engine.requests_in_flight += 1
        engine.runner.adopt(result, exchange)
        if self.ended and exchange.cancellable:
            exchange.leave()
        return 0

    cdef int fail(self, object error, Exchange exchange, Request request, Call* call) except -1:
        # Answer an exception: the application's way once, then plainly.
        cdef Engine engine = self.engine
        cdef object value
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if request is None:
            request = self.make_request(call, None, False)
        if not call.failing and engine.on_error is not None:
            call.failing = True
            try:
                value = engine.ask(request, error)
            except BaseException as second:
                return self.fail(second, exchange, request, call)
            if FS_AWAITABLE(value):
                return self.run_coroutine(awaited(value), exchange, request, call)
            return self.answer(value, exchange, request, call)
        call.failing = True
        if isinstance(error, HTTPError):
            return self.answer_plain(error.status, error.detail.encode(errors="replace"), None,
                                     exchange, call)
        engine.log(request, error)
        return self.answer_plain(500, None, None, exchange, call)

    cdef Persistence persistence(self, Exchange exchange, Call* call):
        cdef Persistence stays = PERSIST_SILENT if call.minor_version else PERSIST_SAID
        if exchange is not None and exchange is not self.last:
            return stays    # another answer follows: it decides
        if self.stage == STAGE_LENGTH or self.stage == STAGE_CHUNKED:
            # The body is not read to its end, and now nobody will.
            if not self.leave_body():
                self.closing = self.unread = True
                return PERSIST_NOT
        if not call.keep_alive or self.unread or (self.engine.draining and not self.more):
            self.closing = True
            return PERSIST_NOT
        return stays

    cdef int answer(self, object value, Exchange exchange, Request request, Call* call) except -1:
        cdef Buffer out = self.engine.out
        cdef Py_ssize_t mark = out.size
        cdef Persistence persistence
        cdef bytes large
        if not is_final(value):
            try:
                value = to_response(value)
            except Exception as error:
                return self.fail(error, exchange, request, call)
            if isinstance(value, (StreamingResponse, PartsResponse)):
                return self.answer_later(value, exchange, request, call)
            if isinstance(value, ConditionalResponse):
                return self.prepare(value, exchange, request, call)
        persistence = self.persistence(exchange, call)
        try:
            large = self.engine.serializer.add_value(out, value, call.head_only, &persistence)
        except Exception as error:
            out.size = mark
            return self.fail(error, exchange, request, call)
        if call.seen.begun_ns:
            self.observe_end(exchange, request, call, self.engine.serializer.status,
                             0 if call.head_only else self.engine.serializer.body_size)
        return self.deliver(exchange, mark, large, persistence == PERSIST_NOT)

    cdef int prepare(self, ConditionalResponse response, Exchange exchange, Request request,
                     Call* call) except -1:
        cdef object value
        if request is None:
            request = self.make_request(call, None, False)
        try:
            value = response.prepare(request)
        except Exception as error:
            return self.fail(error, exchange, request, call)
        if FS_AWAITABLE(value):
            return self.run_coroutine(awaited(value), exchange, request, call)
        return self.answer(value, exchange, request, call)

    cdef int answer_plain(self, int status, bytes detail, str field, Exchange exchange,
                          Call* call) except -1:
        cdef Buffer out = self.engine.out
        cdef Py_ssize_t mark = out.size
        cdef Persistence persistence = self.persistence(exchange, call)
        self.engine.serializer.add_plain(out, status, detail, field, call.head_only, persistence)
        if call.seen.begun_ns:
            self.observe_end(exchange, None, call, status,
                             0 if call.head_only else self.engine.serializer.body_size)
        return self.deliver(exchange, mark, None, persistence == PERSIST_NOT)

    cdef int answer_later(self, Response response, Exchange exchange, Request request,
                          Call* call) except -1:
        # A body that is sent as it is made, when its turn has come.
        if exchange is None:
            if request is None:
                request = self.make_request(call, None, False)
            exchange = self.begin_exchange(request, call)
            # Who half-closes still downloads what is at hand; a stream may be quiet for ever.
            exchange.cancellable = (
                isinstance(response, StreamingResponse) and is_cancellable(request)
                and hasattr((<StreamingResponse>response).source, "__aiter__"))
        exchange.response = response
        if exchange is self.first:
            return self.start_body(exchange)
        return 0

    cdef int start_body(self, Exchange exchange) except -1:
        cdef Engine engine = self.engine
        cdef Outcome outcome = RETURNED
        cdef object result, coroutine
        exchange.channel = self.channel
        exchange.loop = self.loop
        exchange.paused = self.writing_paused
        if self.channel is not None:
            self.channel.limit_unsent(not isinstance(exchange.response, PartsResponse))
        if exchange.call.head_only:
            try:
                self.open_body(exchange, None)
            except Exception as error:
                exchange.let_go()
                return self.fail(error, exchange, exchange.request, &exchange.call)
            return self.body_ended(exchange, None)
        if isinstance(exchange.response, PartsResponse):
            coroutine = send_parts(exchange, <PartsResponse>exchange.response)
        else:
            coroutine = send_pieces(exchange, <StreamingResponse>exchange.response)
        result = engine.runner.begin(coroutine, &outcome)
        if outcome != SUSPENDED:
            return self.body_ended(exchange, result if outcome == RAISED else None)
        exchange.task = result
        if exchange.due == 0 and not exchange.opened:
            self.limit_handler(exchange)
        engine.requests_in_flight += 1
        engine.runner.adopt(result, exchange)
        if self.ended and exchange.cancellable:
            exchange.leave()
        return 0

    def start_next_body(self):
        """The turn of a body has come that waited behind another answer."""
        if self.first is not None and self.first.response is not None and (
                self.first.task is None and self.stage != STAGE_LOST):
            self.start_body(self.first)
            self.proceed()

    cdef int open_body(self, Exchange exchange, bytes media_type) except -1:
        # The head leaves; from here on there is no other answer to this request.
        cdef Response response = exchange.response
        cdef Call* call = &exchange.call
        cdef Persistence persistence = PERSIST_SILENT if call.minor_version else PERSIST_SAID
        cdef int64_t length = CHUNKED if call.minor_version else UNTIL_CLOSE
        if self.channel is None:
            exchange.opened = True
            return 0
        if isinstance(response, PartsResponse):
            length = (<PartsResponse>response).length
        elif (<StreamingResponse>response).length >= 0:
            length = (<StreamingResponse>response).length
        if not call.head_only and not isinstance(response, PartsResponse):
            self.want_body(exchange.request)    # it may be read for this one: now, or too late
        if exchange is self.last and (
                self.stage != STAGE_HEAD or not call.keep_alive or self.unread
                or (self.engine.draining and not self.more)) or length == UNTIL_CLOSE:
            # What is not read of the request by now may come too late to tell (RFC 9112 9.3).
            persistence = PERSIST_NOT
        self.engine.serializer.add_open_head(
            self.engine.out, response, length, media_type, call.head_only, &persistence)
        exchange.opened = True
        if call.seen.begun_ns:
            call.seen.status = self.engine.serializer.status
            call.seen.answered_ns = now_ns()
        exchange.ends = persistence == PERSIST_NOT
        if exchange.ends:
            self.closing = True
            self.unread = self.unread or self.stage != STAGE_HEAD
        exchange.framing = FRAMED_BY_LENGTH
        exchange.left = length
        if length == CHUNKED:
            exchange.framing = FRAMED_BY_CHUNKS
        elif length == UNTIL_CLOSE:
            exchange.framing = FRAMED_BY_CLOSE
        return self.flush()

    cdef int body_ended(self, Exchange exchange, object error) except -1:
        if error is not None and exchange.opened and not isinstance(
                error, (CancelledError, ClientDisconnect)):
            self.engine.report(exchange.request, error)
        if exchange.opened or exchange.done or self.stage == STAGE_LOST:
            self.observe_end(exchange, exchange.request, &exchange.call,
                             exchange.call.seen.status or GONE, exchange.sent)
        exchange.let_go()
        if self.stage == STAGE_LOST or exchange.done:
            return 0
        if error is None:
            self.unlink_first(exchange.ends)
            if self.engine.draining and not self.working and self.is_idle():
                self.closing = True     # its head was sent before anybody knew
            return self.pop_answered()
        if not exchange.opened:
            if exchange.deserted:
                return exchange.abandon(error)
            return self.fail(error, exchange, exchange.request, &exchange.call)
        # The head is gone and the body cannot follow: only the end of the connection tells.
        self.leave_all()
        self.closing = True
        if exchange.framing == FRAMED_BY_CLOSE:
            self.stage = STAGE_HEAD
            self.unread = False
            return self.channel.reset()
        return 0

    cdef int deliver(self, Exchange exchange, Py_ssize_t mark, bytes large, bint ends) except -1:
        # The answer is in engine.out from `mark` on, with `large` behind it: its turn, or not?
        cdef Buffer out = self.engine.out
        if ends:
            self.closing = True
        if exchange is self.first:
            # Both may be None: then nothing stands in its way, and nothing behind it.
            if large is not None:
                self.engine.bytes_out += out.size + PyBytes_GET_SIZE(large)
                self.channel.write_pair(out.data, out.size, large)
                out.size = 0
            if exchange is None:
                return 0
            self.unlink_first(ends)
            return self.pop_answered()
        if exchange is None:
            exchange = Exchange.__new__(Exchange)
            exchange.connection = self
            exchange.call.safe = True
            self.enqueue(exchange)
        exchange.ends = ends
        exchange.done = True
        exchange.rendered = PyBytes_FromStringAndSize(out.data + mark, out.size - mark)
        if large is not None:
            exchange.rendered += large
        out.size = mark
        return self.pop_answered()

    cdef Exchange begin_exchange(self, Request request, Call* call):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.connection = self
        exchange.request = request
        exchange.call = call[0]
        exchange.call.data = NULL       # of the read that is at hand, and gone soon
        exchange.call.params = NULL
        exchange.call.seen.head = PyBytes_AS_STRING(request.head)
        exchange.call.seen.fields = request.first_field()
        self.enqueue(exchange)
        return exchange

    cdef int enqueue(self, Exchange exchange) except -1:
        if self.first is None:
            self.first = exchange
        else:
            self.last.next = exchange
        self.last = exchange
        self.outstanding += 1
        return 0

    cdef int pop_answered(self) except -1:
        cdef Exchange exchange
        while self.first is not None and self.first.done:
            exchange = self.first
            self.engine.out.append(
                PyBytes_AS_STRING(exchange.rendered), PyBytes_GET_SIZE(exchange.rendered))
            exchange.rendered = None
            self.unlink_first(exchange.ends)
        if not self.working:
            self.flush()
        return 0

    cdef int unlink_first(self, bint ends) except -1:
        cdef Exchange exchange = self.first
        exchange.done = True
        exchange.request = None
        exchange.channel = None
        self.first = exchange.next
        exchange.next = None
        self.outstanding -= 1
        if self.first is not None and self.first.response is not None:
            self.loop.call_soon(self.start_next_body)
        if ends:
            # Nothing may follow an answer that says so (RFC 9112 section 9.6).
            self.leave_all()
        elif self.first is None:
            self.last = None
        return 0

    cdef int leave_all(self) except -1:
        # Cancel every handler of this connection; none will be answered.
        cdef Exchange exchange = self.first
        while exchange is not None:
            exchange.give_up()
            exchange = exchange.next
        self.first = self.last = None
        self.outstanding = 0
        return 0

    cdef int leave_bodies(self) except -1:
        # Nobody is there to send a body to, whatever the method was.
        cdef Exchange exchange = self.first
        while exchange is not None:
            if exchange.response is not None:
                exchange.give_up()
            exchange = exchange.next
        return 0

    cdef int leave_running(self) except -1:
        # The client is gone: nobody waits for what a safe handler works out. Others run to
        # their end, since a write cut in half is a loss.
        cdef Exchange exchange = self.first
        while exchange is not None:
            if exchange.task is not None and exchange.cancellable:
                exchange.leave()
            exchange = exchange.next
        return 0

    cdef int64_t handlers_due(self, int64_t now) except -1:
        cdef int64_t next = NEVER
        cdef Exchange exchange = self.first
        while exchange is not None:
            if exchange.due and exchange.task is not None and not exchange.opened:
                if exchange.due <= now:
                    exchange.due = 0
                    exchange.timed_out = True
                    self.engine.expired[<int>EXPIRED_HANDLERS] += 1
                    self.engine.complain(self, "its handler is ended: it took too long")
                    exchange.task.cancel()
                else:
                    next = min(next, exchange.due)
            exchange = exchange.next
        if self.stalled_since == 0 and self.channel is not None and self.channel.unsent():
            self.output_waits()     # what a transport of the loop keeps below its high mark
        return next

    cdef int limit_handler(self, Exchange exchange) except -1:
        cdef Wheel wheel = self.deadlines.wheel
        cdef int64_t allowed = self.deadlines.handler
        if exchange.request.plan.handler_timeout_s >= 0:
            allowed = ticks(exchange.request.plan.handler_timeout_s)
        if allowed != NEVER:
            exchange.due = wheel.now + allowed
            wheel.sooner(self, exchange.due)
        return 0

    cdef int observe_end(self, Exchange exchange, Request request, Call* call, int status,
                         int64_t body_bytes) except -1:
        cdef Observed* seen = &call.seen
        cdef bytes client
        if seen.begun_ns == 0:
            return 0
        if exchange is not None and request is None:
            request = exchange.request
        if self.forwarded is not None and self.engine.observer.journal is not None:
            if request is None and call.data != NULL:
                request = self.make_request(call, None, False)
            if request is not None:
                client = client_name(request.client)
                seen.client = <PyObject*>client
        self.engine.observer.end(seen, status, body_bytes)
        seen.begun_ns = 0
        return 0

    cdef int flush(self) except -1:
        cdef Buffer out = self.engine.out
        self.engine.bytes_out += out.size
        if out.size and self.channel is not None:
            self.channel.write(out.data, out.size)
        out.size = 0
        return 0
