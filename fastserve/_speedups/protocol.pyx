# HTTP/1.1 connections: see protocol.pxd for the contract (RFC 9112).
#
# receive() is the whole story of a request whose handler does not suspend: parse, route,
# call, render, and one send for everything that the read held. Nothing in here waits.

import asyncio
import logging
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastserve._speedups.acceptor cimport Admission
from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport Channel, LoopChannel, LogRation, Protocol
from fastserve._speedups.deadlines cimport (
    NEVER, WAIT_BODY, WAIT_FIRST, WAIT_HEAD, WAIT_IDLE, WAIT_LINGER, WAIT_NOTHING, WAIT_OUTPUT,
    Deadlines, TimedConnection, Wait, ticks)
from fastserve._speedups.messages cimport (
    Body, ConditionalResponse, PartsResponse, Request, Response, StreamingResponse,
    load_orjson, to_response)
from fastserve._speedups.outgoing cimport (
    FRAMED_BY_CHUNKS, FRAMED_BY_CLOSE, FRAMED_BY_LENGTH, Outgoing, send_parts, send_pieces)
from fastserve._speedups.parser cimport (
    METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_TRACE, NativeParser)
from fastserve._speedups.router cimport MATCH_FOUND, MATCH_MALFORMED, release_params
from fastserve._speedups.runner cimport RAISED, RETURNED, SUSPENDED, Outcome
from fastserve._speedups.serializer cimport (
    CHUNKED, PERSIST_NOT, PERSIST_SAID, PERSIST_SILENT, UNTIL_CLOSE)
from fastserve._speedups.transport cimport open_transport
from fastserve._speedups.wheel cimport TICKS_PER_S, Wheel

from fastserve.errors import ClientDisconnect, HTTPError

cdef extern from *:
    """
    #define FS_AWAITABLE(o) \
        (Py_TYPE(o)->tp_as_async != NULL && Py_TYPE(o)->tp_as_async->am_await != NULL)
    """
    bint FS_AWAITABLE(object value)

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    bint PyGen_CheckExact(object value)
    bint PyAsyncGen_CheckExact(object value)

cdef enum:
    REQUESTS_PER_TURN = 64          # of one connection, before others get theirs
    OUT_HIGH = 64 * 1024            # answers gathered before they are sent
    INPUT_HIGH = 64 * 1024          # input kept while the connection cannot go on

# To a connection more than max_connections; a 503 need not carry a Date (RFC 9110 6.6.1).
cdef bytes OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\n\r\nService Unavailable")

logger = logging.getLogger("fastserve.error")
complaint_log = logging.getLogger("fastserve")

cdef object CancelledError = asyncio.CancelledError


def where_from(peer):
    """A client's address for the log."""
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and peer else "a client"


async def awaited(value):
    """The result of any awaitable, as a coroutine."""
    return await value


cdef inline bint is_final(object value):
    # The commonest values need no second look before they are rendered.
    return type(value) is str or type(value) is dict


cdef inline bint needs_request(object value):
    # Its request may decide it, or be named in the log when its body fails.
    return isinstance(value, Response) or PyGen_CheckExact(value) or PyAsyncGen_CheckExact(value)


cdef class Exchange(Outgoing):
    cdef int task_done(self, object task) except -1:
        cdef HttpProtocol connection = self.connection
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
        elif outcome == RAISED:
            connection.fail(ended, self, self.request, &self.call)
        else:
            connection.answer(ended, self, self.request, &self.call)
        connection.proceed()
        return connection.engine.admit()

    cdef int open(self, bytes media_type) except -1:
        return self.connection.open_body(self, media_type)

    def abandon(self, error):
        # Nobody is there to answer; a mistake of the handler's is still reported.
        cdef HttpProtocol connection = self.connection
        if error is not None and not isinstance(error, (CancelledError, ClientDisconnect, HTTPError)):
            connection.engine.report(self.request, error)
        if not self.done and connection.stage != STAGE_LOST:
            self.done = True
            self.rendered = b""
            connection.closing = True
            connection.pop_answered()

    cdef object give_up(self):
        # Nobody will read the answer: what works on it learns so, what it holds is let go.
        self.done = True
        self.channel = None
        if self.task is not None:
            self.task.cancel()
        else:
            self.let_go()

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


cdef class HttpProtocol(TimedConnection):
    """One connection. The asyncio side is Protocol's; Engine.protocol() makes them."""

    def __dealloc__(self):
        free(self.chunks)

    # asyncio's side, for transports of the loop

    def connection_made(self, transport):
        self.connected(LoopChannel(transport))

    def data_received(self, data):
        cdef bytes held = bytes(data)
        self.receive(PyBytes_AS_STRING(held), PyBytes_GET_SIZE(held))

    cpdef eof_received(self):
        self.ended = True
        if self.stage >= STAGE_LINGER:
            return False
        self.leave_running()
        if self.channel.encrypted():
            return False    # TLS has no half-closed connections, and asyncio warns of the wish
        return self.first is not None or self.scheduled or self.writing_paused

    cpdef connection_lost(self, error):
        if self.stage == STAGE_LOST:
            return
        self.stage = STAGE_LOST
        self.deadlines.wheel.remove(self)
        if self.queued:
            self.engine.queue.pop(self, None)
        if self.engine.admission.waits:
            self.engine.admission.departed()
        self.leave_running()
        self.leave_bodies()
        self.receiver = None
        self.first = self.last = None
        self.outstanding = 0
        if self.channel is not None and self.channel.encrypted():
            self.channel.close()    # CPython 3.10's TLS transports want it, or warn
        self.channel = None
        self.input = None
        self.head_size = 0

    cpdef pause_writing(self):
        self.writing_paused = True
        if self.first is not None:
            self.first.paused = True
        self.output_waits()
        self.update_reading()

    cpdef resume_writing(self):
        self.writing_paused = False
        if self.first is not None:
            self.first.resume()
        self.proceed()

    # the transport's side

    cdef int connected(self, Channel channel) except -1:
        self.channel = channel
        return self.begin()

    cdef int receive(self, const char* data, Py_ssize_t size) except -1:
        if self.stage == STAGE_LINGER:
            self.discard_left -= size
            if self.discard_left < 0:
                self.channel.close()
            return 0
        if self.stage == STAGE_LOST:
            return 0
        if self.input is not None and self.input.size:
            self.input.append(data, size)
            return self.work(NULL, 0)
        return self.work(data, size)

    cdef int work(self, const char* data, Py_ssize_t size) except -1:
        # Go on with `data`, or with the kept input when it is NULL.
        cdef bint kept = data == NULL
        cdef Py_ssize_t consumed
        if kept:
            data = self.input.data
            size = self.input.size
        cdef bint alone = not self.engine.runner.entered
        if alone:
            self.engine.runner.enter()
        self.working = True
        try:
            consumed = self.advance(data, size)
        except BaseException:
            self.engine.out.size = 0
            raise
        finally:
            self.working = False
            if alone:
                self.engine.runner.leave()
        if self.stage == STAGE_LOST:
            self.engine.out.size = 0
            return 0
        if kept:
            self.input.consume(consumed)
            if self.input.size == 0:
                self.input.release()
        elif consumed < size:
            if self.input is None:
                self.input = Buffer.__new__(Buffer)
            self.input.append(data + consumed, size - consumed)
        if self.input is None or self.input.size == 0:
            self.head_since = 0
        elif consumed or self.head_since == 0:
            self.begin_head()       # more of the same head changes nothing
        self.flush()
        return self.settle()

    cdef Py_ssize_t advance(self, const char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t at = 0, count
        cdef int turns = REQUESTS_PER_TURN
        while at < size:
            if self.stage == STAGE_HEAD:
                if self.closing or self.writing_paused or self.queued:
                    break
                if turns == 0:
                    self.engine.continue_later(self)
                    break
                if self.head_size == 0:
                    count = self.parser.parse_head(data + at, size - at, &self.head)
                    if count == 0:
                        break
                    if count < 0:
                        self.refuse(<int>-count)
                        break
                    self.head_size = count
                if self.first is not None and not self.may_overlap():
                    break
                turns -= 1
                at += self.dispatch(data + at, size - at)
                if self.engine.out.size >= OUT_HIGH:
                    self.flush()
            elif self.stage == STAGE_LENGTH or self.stage == STAGE_CHUNKED:
                count = self.take_body(data + at, size - at)
                if count <= 0:
                    break
                at += count
            else:
                return size
        if self.closing and self.stage == STAGE_HEAD and at < size:
            self.unread = True
            return size
        return at

    cdef bint may_overlap(self):
        # RFC 9112 section 9.3.2: only safe requests may be worked on side by side.
        return (self.last.call.safe and is_safe(&self.head)
                and self.outstanding < self.engine.max_pipelined)

    cdef Py_ssize_t take_body(self, const char* data, Py_ssize_t size) except -1:
        cdef const char* body = data
        cdef Py_ssize_t body_size = size, count
        if self.stage == STAGE_LENGTH:
            if body_size > self.body_left:
                body_size = <Py_ssize_t>self.body_left
            self.body_left -= body_size
            count = body_size
        else:
            count = self.parser.parse_chunks(data, size, self.chunks, &body, &body_size)
            if count == 0:
                return 0
            if count < 0:
                self.refuse_body(HTTPError(<int>-count, "the chunked body is malformed"))
                return 0
        self.continue_pending = False
        self.body_bytes += count
        self.body_seen = self.deadlines.wheel.now
        if self.receiver is None:
            self.discard_left -= count
            if self.discard_left < 0:
                self.closing = self.unread = True
                self.stage = STAGE_HEAD
                return size
        elif body_size:
            self.receiver.arriving.feed(body, body_size)
        if self.body_left == 0 if self.stage == STAGE_LENGTH else self.chunks.done:
            self.stage = STAGE_HEAD
            if self.receiver is not None:
                self.receiver.arriving.finish()
                self.receiver = None
        return count

    def refuse_body(self, error):
        # A body ends in the middle: its handler learns of it, and the answer that the handler
        # gives is the last of this connection.
        self.stage = STAGE_HEAD
        self.unread = True
        if self.receiver is not None:
            self.receiver.arriving.fail(error)
            self.receiver = None
        self.closing = True

    cdef Py_ssize_t dispatch(self, const char* data, Py_ssize_t size) except -1:
        # A whole head is at the start of `data`. Returns the bytes consumed.
        cdef Engine engine = self.engine
        cdef Head* head = &self.head
        cdef Params params
        cdef PyObject* found = NULL
        cdef PathEntry entry
        cdef Plan plan = None
        cdef Call call
        cdef Py_ssize_t consumed = self.head_size
        cdef bytes content = None
        cdef bint arriving = False
        cdef int outcome, status = 404
        cdef str field = None       # of an answer of our own
        cdef str allow

        call.head_only = head.method == METHOD_HEAD
        call.keep_alive = head.keep_alive
        call.safe = is_safe(head)
        call.failing = False
        call.minor_version = head.minor_version
        self.whole_head = self.head_size
        self.head_size = 0
        if not call.keep_alive:
            self.closing = True
        engine.requests_total += 1
        params.count = 0

        if data[head.target_start] == c'*':
            status, field = 204, "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"
        else:
            if head.path_size:
                outcome = engine.router.match(data + head.path_start, head.path_size,
                                              head.path_escaped, &found, &params)
            else:
                outcome = engine.router.match(b"/", 1, False, &found, &params)
            if outcome == MATCH_FOUND:
                entry = <PathEntry>found
                plan = entry.plan_for(head.method, data + head.method_start, head.method_size)
                if plan is None:
                    release_params(&params)
                    allow = entry.allow
                    field = "Allow: " + allow
                    status = 204 if head.method == METHOD_OPTIONS else 405
                    plan = engine.router.options if status == 204 else engine.router.method_not_allowed
                    if plan is not None:
                        Py_INCREF(allow)
                        params.values[0] = <PyObject*>allow
                        params.count = 1
            elif outcome == MATCH_MALFORMED:
                status = 400
            else:
                plan = engine.router.not_found

        if engine.requests_in_flight >= engine.max_in_flight and (plan is None or not plan.exempt):
            release_params(&params)
            if not self.shed and engine.enqueue(self):
                engine.requests_total -= 1
                self.head_size = self.whole_head
                if call.keep_alive:
                    self.closing = False
                return 0
            self.shed = False
            plan, status, field = None, 503, engine.retry_after

        # The body: whole and at hand, or still to come.
        if head.chunked:
            arriving = True
        elif head.content_length > 0:
            if size - consumed >= head.content_length:
                if plan is not None and plan.wants_request:
                    content = PyBytes_FromStringAndSize(
                        data + consumed, <Py_ssize_t>head.content_length)
                consumed += <Py_ssize_t>head.content_length
            else:
                arriving = True
        if arriving:
            self.continue_pending = head.expect_continue and size == consumed
            self.discard_left = engine.lingering_close_bytes
            self.begin_body()
            if self.continue_pending:
                self.hold_body()        # it waits to be asked
            if head.chunked:
                self.begin_chunks()
            else:
                self.stage = STAGE_LENGTH
                self.body_left = head.content_length

        if plan is None:
            self.answer_plain(status, None, field, None, &call)
        else:
            try:
                self.run(plan, &params, data, &call, content, arriving)
            finally:
                release_params(&params)
        memset(head, 0, sizeof(Head))
        return consumed

    def begin_chunks(self):
        self.stage = STAGE_CHUNKED
        if self.chunks == NULL:
            self.chunks = <Chunks*>calloc(1, sizeof(Chunks))
            if self.chunks == NULL:
                raise MemoryError
        else:
            memset(self.chunks, 0, sizeof(Chunks))

    cdef int run(self, Plan plan, Params* params, const char* data, Call* call,
                 bytes content, bint arriving) except -1:
        cdef Request request = None
        cdef object result
        if plan.wants_request:
            request = self.make_request(plan, params, data, content, arriving)
        if not plan.is_async:
            self.engine.runner.leave_task()
        try:
            result = plan.call(request, params.values)
        except BaseException as error:
            self.engine.runner.after_sync()
            if request is None:
                request = self.make_request(plan, params, data, content, False)
            return self.fail(error, None, request, call)
        if plan.is_async:
            return self.run_coroutine(result, None, request, plan, params, data, call)
        self.engine.runner.after_sync()
        if is_final(result):
            return self.answer(result, None, request, call)
        if FS_AWAITABLE(result):
            return self.run_coroutine(awaited(result), None, request, plan, params, data, call)
        if request is None and needs_request(result):
            request = self.make_request(plan, params, data, None, False)
        return self.answer(result, None, request, call)

    cdef Request make_request(self, Plan plan, Params* params, const char* data, bytes content,
                              bint arriving):
        cdef Head* head = &self.head
        cdef Request request = Request.__new__(Request)
        cdef Body body
        cdef int i
        request.connection = self
        request.plan = plan
        request.head = PyBytes_FromStringAndSize(data, self.whole_head)
        request.method_start = head.method_start
        request.method_size = head.method_size
        request.target_start = head.target_start
        request.target_size = head.target_size
        request.path_start = head.path_start
        request.path_size = head.path_size
        request.query_start = head.query_start
        request.query_size = head.query_size
        request.fields_start = head.fields_start
        request.method_id = head.method
        request.minor_version = head.minor_version
        request.content_length = head.content_length
        request.max_body_bytes = (
            self.engine.max_body_bytes if plan.max_body_bytes < 0 else plan.max_body_bytes)
        request.max_stream_bytes = plan.max_body_bytes
        if params.count:
            request.values = PyTuple_New(params.count)
            for i in range(params.count):
                Py_INCREF(<object>params.values[i])
                PyTuple_SET_ITEM(request.values, i, <object>params.values[i])
        if arriving:
            body = Body.__new__(Body)
            body.connection = self
            body.pieces = []
            request.arriving = body
            self.receiver = request
        else:
            request.content = b"" if content is None else content
        return request

    cdef int run_coroutine(self, object coroutine, Exchange exchange, Request request, Plan plan,
                           Params* params, const char* data, Call* call) except -1:
        # `data` is NULL outside of receive(): then `request` exists.
        cdef Engine engine = self.engine
        cdef Outcome outcome = RETURNED
        cdef object result = engine.runner.begin(coroutine, &outcome)
        if outcome == RETURNED:
            if request is None and data != NULL and not is_final(result) and needs_request(result):
                request = self.make_request(plan, params, data, None, False)
            return self.answer(result, exchange, request, call)
        if outcome == RAISED:
            if request is None and data != NULL:
                request = self.make_request(plan, params, data, None, False)
            return self.fail(result, exchange, request, call)
        if exchange is None:
            exchange = Exchange.__new__(Exchange)
            exchange.connection = self
            exchange.call = call[0]
            exchange.cancellable = self.head.method == METHOD_GET or self.head.method == METHOD_HEAD
            if plan is not None and plan.cancel_on_disconnect >= 0:
                exchange.cancellable = plan.cancel_on_disconnect
            if request is None:
                request = self.make_request(plan, params, data, None, False)
            exchange.request = request
            self.enqueue(exchange)
        exchange.call.failing = call.failing
        exchange.task = result
        if plan is not None and exchange.due == 0:
            self.limit_handler(plan, exchange)
        engine.requests_in_flight += 1
        engine.runner.adopt(result, exchange)
        if self.ended and exchange.cancellable:
            result.cancel()
        return 0

    cdef int fail(self, object error, Exchange exchange, Request request, Call* call) except -1:
        # Answer an exception: the application's way once, then plainly.
        cdef Engine engine = self.engine
        cdef object value
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if not call.failing and engine.on_error is not None:
            call.failing = True
            engine.runner.leave_task()
            try:
                value = engine.on_error(request, error)
            except BaseException as second:
                return self.fail(second, exchange, request, call)
            if FS_AWAITABLE(value):
                return self.run_coroutine(
                    awaited(value), exchange, request, None if request is None else request.plan,
                    NULL, NULL, call)
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
            # The body is not read to its end, and now nobody will: it is thrown away, if it is
            # short enough; one that was never invited may not come at all (RFC 9110 10.1.1).
            self.receiver = None
            if self.continue_pending or (
                    self.stage == STAGE_LENGTH and self.body_left > self.discard_left):
                self.closing = self.unread = True
                return PERSIST_NOT
        if not call.keep_alive or self.unread or self.engine.draining:
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
        return self.deliver(exchange, mark, large, persistence == PERSIST_NOT)

    cdef int prepare(self, ConditionalResponse response, Exchange exchange, Request request,
                     Call* call) except -1:
        cdef object value
        if request is None:
            return self.answer_plain(500, None, None, exchange, call)
        try:
            value = response.prepare(request)
        except Exception as error:
            return self.fail(error, exchange, request, call)
        if FS_AWAITABLE(value):
            return self.run_coroutine(
                awaited(value), exchange, request, request.plan, NULL, NULL, call)
        return self.answer(value, exchange, request, call)

    cdef int answer_later(self, Response response, Exchange exchange, Request request,
                          Call* call) except -1:
        # A body that is sent as it is made, when its turn has come.
        if exchange is None:
            exchange = Exchange.__new__(Exchange)
            exchange.connection = self
            exchange.call = call[0]
            exchange.request = request
            self.enqueue(exchange)
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
        engine.requests_in_flight += 1
        return engine.runner.adopt(result, exchange)

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
        if exchange is self.last and (
                self.stage != STAGE_HEAD or not call.keep_alive or self.unread
                or self.engine.draining) or length == UNTIL_CLOSE:
            # What is not read of the request by now may come too late to tell (RFC 9112 9.3).
            persistence = PERSIST_NOT
        self.engine.serializer.add_open_head(
            self.engine.out, response, length, media_type, call.head_only, &persistence)
        exchange.opened = True
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
        exchange.let_go()
        if self.stage == STAGE_LOST or exchange.done:
            return 0
        if error is None:
            self.unlink_first(exchange.ends)
            if self.engine.draining and not self.working and self.is_idle():
                self.closing = True     # its head was sent before anybody knew
            return self.pop_answered()
        if not exchange.opened:
            return self.fail(error, exchange, exchange.request, &exchange.call)
        # The head is gone and the body cannot follow: only the end of the connection tells.
        self.leave_all()
        self.closing = True
        if exchange.framing == FRAMED_BY_CLOSE:
            self.stage = STAGE_HEAD
            self.unread = False
            return self.channel.reset()
        return 0

    cdef int limit_handler(self, Plan plan, Exchange exchange) except -1:
        cdef Wheel wheel = self.deadlines.wheel
        cdef int64_t allowed = self.deadlines.handler
        if plan.handler_timeout_s >= 0:
            allowed = ticks(plan.handler_timeout_s)
        if allowed != NEVER:
            exchange.due = wheel.now + allowed
            wheel.sooner(self, exchange.due)
        return 0

    cdef int answer_plain(self, int status, bytes detail, str field, Exchange exchange,
                          Call* call) except -1:
        cdef Buffer out = self.engine.out
        cdef Py_ssize_t mark = out.size
        cdef Persistence persistence = self.persistence(exchange, call)
        self.engine.serializer.add_plain(out, status, detail, field, call.head_only, persistence)
        return self.deliver(exchange, mark, None, persistence == PERSIST_NOT)

    cdef int deliver(self, Exchange exchange, Py_ssize_t mark, bytes large, bint ends) except -1:
        # The answer is in engine.out from `mark` on, with `large` behind it: its turn, or not?
        cdef Buffer out = self.engine.out
        if ends:
            self.closing = True
        if exchange is self.first:
            # Both may be None: then nothing stands in its way, and nothing behind it.
            if large is not None:
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

    def leave_all(self):
        """Cancel every handler of this connection; none will be answered."""
        cdef Exchange exchange = self.first
        while exchange is not None:
            exchange.give_up()
            exchange = exchange.next
        self.first = self.last = None
        self.outstanding = 0

    def leave_bodies(self):
        """Nobody is there to send a body to, whatever the method was."""
        cdef Exchange exchange = self.first
        while exchange is not None:
            if exchange.response is not None:
                exchange.give_up()
            exchange = exchange.next

    cdef int leave_running(self) except -1:
        # The client is gone: nobody waits for what a safe handler works out. Others run to
        # their end, since a write cut in half is a loss; a body that stays cut they are told of.
        cdef Exchange exchange = self.first
        if self.receiver is not None:
            self.receiver.arriving.fail(ClientDisconnect("the client left inside a request body"))
        while exchange is not None:
            if exchange.task is not None and exchange.cancellable:
                exchange.task.cancel()
            exchange = exchange.next
        return 0

    cdef int refuse(self, int status) except -1:
        # What comes next is no request: answer once, in its turn, and read no further.
        cdef Call call
        memset(&call, 0, sizeof(Call))
        call.minor_version = 1
        self.unread = True
        self.closing = True
        return self.answer_plain(status, None, None, None, &call)

    cdef int flush(self) except -1:
        cdef Buffer out = self.engine.out
        if out.size and self.channel is not None:
            self.channel.write(out.data, out.size)
        out.size = 0
        return 0

    cdef int settle(self) except -1:
        # After every change: is it over, and shall reading go on?
        if self.stage == STAGE_LOST:
            return 0
        self.since = self.deadlines.wheel.now
        if self.ended and self.first is None and not (self.scheduled or self.writing_paused):
            self.closing = True     # what is still buffered is less than a request
        if self.closing and self.first is None and self.stage != STAGE_LINGER:
            if self.ended or not (self.unread or self.stage != STAGE_HEAD):
                return self.channel.close()
            return self.linger()
        return self.update_reading()

    cdef int proceed(self) except -1:
        # Something that held the connection back is gone.
        if self.working or self.stage >= STAGE_LINGER:
            return 0
        if self.input is not None and self.input.size:
            return self.work(NULL, 0)
        return self.settle()

    cdef int update_reading(self) except -1:
        cdef bint pause = self.writing_paused
        if self.channel is None or self.ended:
            return 0
        if self.receiver is not None and self.receiver.arriving.full():
            pause = True
        if self.input is not None and self.input.size >= INPUT_HIGH and (
                self.head_size or self.first is not None or self.scheduled):
            pause = True    # whole requests wait; inside a head the parser has its own limit
        if pause != self.reading_paused:
            self.reading_paused = pause
            if pause:
                self.hold_body()
                self.channel.pause_reading()
            else:
                self.release_body()
                self.channel.resume_reading()
        return 0

    cdef int linger(self) except -1:
        # A client that is still sending must be able to read the answer: closing with unread
        # input would reset the connection and take the answer with it (RFC 9112 section 9.6).
        self.stage = STAGE_LINGER
        self.receiver = None
        self.discard_left = self.engine.lingering_close_bytes
        self.input = None
        self.since = self.deadlines.wheel.now
        self.deadlines.wheel.sooner(self, self.since + self.deadlines.linger)
        if self.reading_paused:
            self.reading_paused = False
            self.channel.resume_reading()
        return self.channel.shutdown_output()

    cdef bint is_idle(self):
        return self.first is None and self.stage == STAGE_HEAD and (
            self.input is None or self.input.size == 0)

    cdef int drain(self) except -1:
        if self.is_idle():
            self.closing = True
            self.settle()
        return 0

    # what the deadlines ask and say

    cdef Wait waits_for(self):
        if self.stage == STAGE_LOST:
            return WAIT_NOTHING
        if self.stage == STAGE_LINGER:
            return WAIT_LINGER
        if self.stage != STAGE_HEAD:
            return WAIT_BODY
        if self.first is not None or self.head_size or self.scheduled or self.writing_paused or (
                self.closing):
            return WAIT_NOTHING
        if self.head_since:
            return WAIT_HEAD
        return WAIT_IDLE if self.whole_head else WAIT_FIRST

    cdef int64_t handlers_due(self, int64_t now) except -1:
        cdef int64_t next = NEVER
        cdef Exchange exchange = self.first
        while exchange is not None:
            if exchange.due and exchange.task is not None and not exchange.opened:
                if exchange.due <= now:
                    exchange.due = 0
                    exchange.timed_out = True
                    self.engine.complain(self, "its handler is ended: it took too long")
                    exchange.task.cancel()
                else:
                    next = min(next, exchange.due)
            exchange = exchange.next
        if self.stalled_since == 0 and self.channel is not None and self.channel.unsent():
            self.output_waits()     # what a transport of the loop keeps below its high mark
        return next

    cdef int expired(self, Wait wait) except -1:
        self.engine.complain(self, REASONS[<int>wait])
        if wait == WAIT_OUTPUT:
            return self.channel.reset()
        if wait == WAIT_LINGER:
            return self.channel.abort()
        if wait == WAIT_BODY:
            self.refuse_body(HTTPError(408, "the body did not come in time"))
        elif wait == WAIT_HEAD:
            self.refuse(408)
            self.unread = False     # nothing more is under way, or next to nothing
            self.input = None
            self.flush()
        else:
            self.closing = True
        return self.settle()

    # the request's side

    cdef int want_body(self, Request request) except -1:
        if self.receiver is request:
            if self.continue_pending:
                self.continue_pending = False
                self.release_body()
                self.engine.out.append(b"HTTP/1.1 100 Continue\r\n\r\n", 25)
                if not self.working:
                    self.flush()
            if not self.working:
                self.update_reading()
        return 0

    cdef int body_taken(self, Request request) except -1:
        if self.receiver is request and not self.working:
            self.update_reading()
        return 0

    cdef int send_interim(self, Request request, bytes message) except -1:
        # Only in the turn of its request; what is being sent already has had its interim ones.
        if self.channel is None or self.first is not None and (
                self.first.request is not request or self.first.opened):
            return 0
        self.engine.out.append(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))
        if not self.working:
            self.flush()
        return 0


# Why a connection ends that waits for its client, by Wait; "" is no client's fault.
cdef tuple REASONS = (
    "", "closed: it sent nothing", "", "408: its request head did not come in time",
    "408: its request body did not come in time", "", "closed: it does not read its answer")


cdef inline bint is_safe(Head* head) noexcept:
    # Safe methods (RFC 9110 section 9.2.1), and no body to wait for.
    return not head.chunked and head.content_length <= 0 and (
        head.method == METHOD_GET or head.method == METHOD_HEAD
        or head.method == METHOD_OPTIONS or head.method == METHOD_TRACE)


cdef class Engine(ProtocolFactory):
    """All that the connections of one worker share: routes, limits, buffers, the clock."""

    def __init__(self, loop, Router router, *, app=None, on_error=None, str http="native",
                 str tasks="direct", server_header="fastserve",
                 max_head_bytes=32 * 1024, max_field_bytes=8 * 1024, max_headers=100,
                 max_target_bytes=8 * 1024, max_body_bytes=1024 * 1024,
                 max_chunk_extension_bytes=4 * 1024, max_trailer_bytes=8 * 1024, max_trailers=32,
                 max_pipelined=16, max_connections=0, when_full="wait", lingering_close_s=2.0,
                 lingering_close_bytes=256 * 1024, header_timeout_s=10.0, keep_alive_timeout_s=75.0,
                 body_timeout_s=30.0, body_grace_s=10.0, body_min_rate_bytes_s=500.0,
                 write_timeout_s=30.0, handler_timeout_s=0.0, max_in_flight=0, max_queued=100,
                 queue_timeout_s=0.1, retry_after_s=1, bint use_epoll=True, clock=time.monotonic,
                 wall_clock=time.time, forwarded=None):
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
        load_orjson()
        self.loop = loop
        self.router = router
        self.app = app
        self.on_error = on_error
        self.runner = Runner(loop, tasks)
        self.serializer = Serializer(server_header)
        self.poller = Poller(loop, use_epoll=use_epoll)
        self.poller.factory = self
        self.out = Buffer()
        self.out.reserve(2 * OUT_HIGH)
        self.clock = clock
        self.wall_clock = wall_clock
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
        return self.runner.enter()

    cdef int end_turn(self) except -1:
        return self.runner.leave()

    cdef Protocol make(self):
        cdef HttpProtocol protocol = HttpProtocol.__new__(HttpProtocol)
        protocol.engine = self
        protocol.deadlines = self.deadlines
        protocol.app = self.app
        protocol.loop = self.loop
        protocol.forwarded = self.forwarded
        protocol.parser = self.parser.for_connection()
        return protocol

    def protocol(self, peer=None, *, bint encrypted=False):
        """A new connection, for a transport of the loop.

        peer:       who the client is, where a PROXY header told: an Address
        encrypted:  the client spoke TLS to whoever wrote that
        """
        cdef HttpProtocol made = self.make()
        made.told_peer = peer
        made.told_encrypted = encrypted
        return made

    def adopt(self, sock, peer=None, *, bint encrypted=False, bytes received=b""):
        """Serve a connected, non-blocking socket, which becomes the engine's.

        received:  what was read from it already; peer, encrypted: as for protocol()
        """
        cdef HttpProtocol made = self.protocol(peer, encrypted=encrypted)
        open_transport(self.poller, sock.detach(), made)
        if received:
            made.data_received(received)

    def listen_for(self, listener, accepted):
        """Give each connected socket of a listening one to `accepted`, not blocking."""
        def hand_over(sock):
            sock.setblocking(False)
            accepted(sock)

        self.admission.listen(listener, hand_over)

    def tick(self):
        """Four times a second: run the deadlines; and render the Date header anew."""
        self.serializer.set_time(self.wall_clock())
        self.runner.refresh()
        if self.deadlines.wheel.advance(<int64_t>(self.clock() * TICKS_PER_S)):
            self.loop.call_soon(self.look_on)

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

    def stop_listening(self):
        """Accept what is queued, then leave the listeners alone; they stay open."""
        self.admission.stop()

    def drain(self):
        """Close idle connections now, and every other one behind its last answer."""
        self.draining = True
        for connection in self.deadlines.wheel.items():
            (<HttpProtocol>connection).drain()

    def abort(self):
        """Cancel the handlers that still run and drop every connection."""
        for connection in self.deadlines.wheel.items():
            (<HttpProtocol>connection).leave_all()
            if (<HttpProtocol>connection).channel is not None:
                (<HttpProtocol>connection).channel.abort()

    def close(self):
        """Leave the loop; the engine cannot be used again."""
        self.admission.close()
        self.abort()
        self.poller.close()

    cdef bint enqueue(self, HttpProtocol connection) except -1:
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
        cdef HttpProtocol connection
        while self.queue and self.requests_in_flight < self.max_in_flight:
            connection = self.queue.popitem()[0]
            connection.queued = False
            connection.proceed()
        return 0

    def shed_late(self):
        """Answer 503 to the requests that have waited for too long."""
        cdef HttpProtocol connection
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

    def complain(self, HttpProtocol connection, str reason):
        """Log what a client did wrong, or had to suffer; ten lines a second at most."""
        if reason and connection.channel is not None and self.complaints.allows():
            complaint_log.info("%s: %s%s", where_from(connection.channel.peer()), reason,
                               self.complaints.remark())

    def continue_later(self, HttpProtocol connection):
        if not connection.scheduled:
            connection.scheduled = True
            if not self.later:
                self.loop.call_soon(self.continue_now)
            self.later.append(connection)

    def continue_now(self):
        """Give the connections whose turn was cut short another one."""
        cdef HttpProtocol connection
        cdef list later = self.later
        self.later = []
        for connection in later:
            connection.scheduled = False
            connection.proceed()

    def report(self, request, error):
        """Let the application see an exception that nobody can be answered for."""
        if self.on_error is None:
            self.log(request, error)
            return
        try:
            value = self.on_error(request, error)
            if hasattr(value, "close"):
                value.close()       # a coroutine that nobody will await
        except Exception as second:
            self.log(request, second)

    def log(self, request, error):
        """The traceback of a handler's mistake; nothing of it goes to the client."""
        what = "a request" if request is None else f"{request.method} {request.path!a}"
        logger.error("exception while answering %s", what, exc_info=error)
