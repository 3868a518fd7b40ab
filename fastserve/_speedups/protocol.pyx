# One HTTP/1.1 connection: see protocol.pxd for the contract (RFC 9112).

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport Channel, LoopChannel, Protocol
from fastserve._speedups.deadlines cimport (
    WAIT_BODY, WAIT_FIRST, WAIT_HEAD, WAIT_IDLE, WAIT_LINGER, WAIT_NOTHING, WAIT_OUTPUT, Wait)
from fastserve._speedups.engine cimport OUT_HIGH, Engine
from fastserve._speedups.exchange cimport (
    STAGE_CHUNKED, STAGE_HEAD, STAGE_LENGTH, STAGE_LINGER, STAGE_LOST, AnsweringConnection, Call,
    client_name)
from fastserve._speedups.head cimport (
    MAX_MEMO_BYTES, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_TRACE, FieldMemo, Head)
from fastserve._speedups.messages cimport Body, Request
from fastserve._speedups.observed cimport Observed
from fastserve._speedups.observer cimport Observer
from fastserve._speedups.plan cimport Plan
from fastserve._speedups.router cimport (
    MATCH_FOUND, MATCH_MALFORMED, Params, PathEntry, release_params)

from fastserve.errors import ClientDisconnect, HTTPError

cdef enum:
    REQUESTS_PER_TURN = 64          # of one connection, before others get theirs
    INPUT_HIGH = 64 * 1024          # input kept while the connection cannot go on
    FIRST_WHEN_DRAINING = 4         # ticks for the first request of a new connection
    BODY_ROOM_LEFT = 64 * 1024      # of a body to come: it is read to where it stays
    BODY_PER_READ = 512 * 1024      # of one that is wanted whole: it is in memory for less long

cdef Plan UNROUTED = Plan(None, ())     # of a Request that no handler answers


cdef class HttpProtocol(AnsweringConnection):
    """One connection. The asyncio side is Protocol's; HttpEngine.protocol() makes them."""

    def __dealloc__(self):
        free(self.chunks)
        free(self.memo)

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
        self.client_left()
        if self.channel.encrypted():
            return False    # TLS has no half-closed connections, and asyncio warns of the wish
        return self.first is not None or self.scheduled or self.queued or self.writing_paused

    cpdef connection_lost(self, error):
        if self.stage == STAGE_LOST:
            return
        self.stage = STAGE_LOST
        self.deadlines.wheel.remove(self)
        if self.queued:
            self.engine.queue.pop(self, None)
        if self.engine.admission.waits:
            self.engine.admission.departed()
        self.client_left()
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
        self.engine.bytes_in += size
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

    cdef bint has_room(self):
        return self.stage == STAGE_LENGTH and self.receiver is not None \
            and self.body_left >= BODY_ROOM_LEFT

    cdef char* room(self, Py_ssize_t* size) except NULL:
        if self.receiver.arriving.collecting:
            size[0] = BODY_PER_READ
        if size[0] > self.body_left:
            size[0] = <Py_ssize_t>self.body_left    # the room goes where the body goes
        return self.receiver.arriving.room(size[0])

    cdef int work(self, const char* data, Py_ssize_t size) except -1:
        # Go on with `data`, or with the kept input when it is NULL.
        cdef bint kept = data == NULL
        cdef Py_ssize_t consumed
        if kept:
            data = self.input.data
            size = self.input.size
        cdef bint alone = not self.engine.runner.entered
        if alone:
            self.engine.begin_turn()
        self.working = True
        try:
            consumed = self.advance(data, size)
        except BaseException:
            self.engine.out.size = 0
            raise
        finally:
            self.working = False
            if alone:
                self.engine.end_turn()
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
                    if self.whole_head and self.whole_head <= MAX_MEMO_BYTES and (
                            self.memo == NULL or self.memo.capacity < self.whole_head):
                        self.make_room_for_memo()
                    count = self.parser.parse_head(data + at, size - at, &self.head, self.memo)
                    if count == 0:
                        break
                    if count < 0:
                        self.refuse(<int>-count)
                        break
                    self.head_size = count
                    if not self.head.recalled:
                        self.fields = None
                        self.nameless = False
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
        if self.continue_pending:
            self.continue_pending = False
            self.release_body()     # it comes unasked: its client is to blame again
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

    cdef int refuse_body(self, object error) except -1:
        # A body ends in the middle: its handler learns of it, and the answer that the handler
        # gives is the last of this connection.
        self.stage = STAGE_HEAD
        self.unread = True
        if self.receiver is not None:
            self.receiver.arriving.fail(error)
            self.receiver = None
        self.closing = True
        return 0

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
        call.seen.number = engine.requests_total
        call.seen.begun_ns = 0
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
                if engine.observer is not None:
                    self.waits_since_ns = engine.observer.now
                self.head_size = self.whole_head
                self.closing = False
                return 0
            self.shed = False
            engine.shed_total += 1
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

        self.more = engine.draining and consumed < size and not engine.ending
        call.data = data
        call.params = &params
        call.plan = <PyObject*>(plan if plan is not None else UNROUTED)
        if engine.observer is not None:
            self.observe(&call, data, plan)
        if plan is None:
            self.answer_plain(status, None, field, None, &call)
        else:
            if engine.observer is not None:
                engine.observer.hold(call.seen.number)
            try:
                self.run(plan, &call, content, arriving)
            finally:
                release_params(&params)
                if engine.observer is not None:
                    engine.observer.hold(0)
        memset(head, 0, sizeof(Head))
        return consumed

    cdef int observe(self, Call* call, const char* data, Plan plan) except -1:
        cdef Observer observer = self.engine.observer
        cdef Observed* seen = &call.seen
        cdef Head* head = &self.head
        seen.answered_ns = 0
        seen.status = 0
        seen.body_bytes = 0
        seen.refused = False
        seen.method = head.method
        seen.minor_version = head.minor_version
        seen.head = data
        seen.method_start = head.method_start
        seen.method_size = head.method_size
        seen.target_start = head.target_start
        seen.target_size = head.target_size
        seen.fields = data + head.fields_start
        seen.fields_size = <uint32_t>self.whole_head - head.fields_start
        seen.plan = <PyObject*>plan if plan is not None else NULL
        if self.client is None:
            self.name_client()
        seen.client = <PyObject*>self.client
        seen.begun_ns = self.waits_since_ns or observer.now
        self.waits_since_ns = 0
        seen.nameless = self.nameless
        observer.begin(seen)
        self.nameless = seen.nameless
        return 0

    cdef int make_room_for_memo(self) except -1:
        # A second request comes: the first one's fields would fit, and so may these.
        cdef Py_ssize_t capacity = (self.whole_head + 63) & ~63
        free(self.memo)
        self.memo = <FieldMemo*>malloc(sizeof(FieldMemo) + <size_t>capacity)
        if self.memo == NULL:
            raise MemoryError
        self.memo.capacity = <uint32_t>capacity
        self.memo.size = 0
        return 0

    cdef int begin_chunks(self) except -1:
        self.stage = STAGE_CHUNKED
        if self.chunks == NULL:
            self.chunks = <Chunks*>calloc(1, sizeof(Chunks))
            if self.chunks == NULL:
                raise MemoryError
        else:
            memset(self.chunks, 0, sizeof(Chunks))
        return 0

    cdef Request make_request(self, Call* call, bytes content, bint arriving):
        cdef Head* head = &self.head
        cdef Params* params = call.params
        cdef Plan plan = <Plan>call.plan
        cdef Request request = Request.__new__(Request)
        cdef Body body
        cdef int i
        request.connection = self
        request.plan = plan
        request.method_start = head.method_start
        request.method_size = head.method_size
        request.target_start = head.target_start
        request.target_size = head.target_size
        request.path_start = head.path_start
        request.path_size = head.path_size
        request.query_start = head.query_start
        request.query_size = head.query_size
        if head.recalled:
            # What all requests of a client have in common is there once.
            if self.fields is None:
                self.fields = PyBytes_FromStringAndSize(
                    call.data + head.fields_start, self.whole_head - head.fields_start)
            request.head = PyBytes_FromStringAndSize(call.data, head.fields_start)
            request.fields = self.fields
        else:
            request.head = request.fields = PyBytes_FromStringAndSize(call.data, self.whole_head)
            request.fields_start = head.fields_start
        request.method_id = head.method
        request.minor_version = head.minor_version
        request.number = call.seen.number
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
            body.promised = head.content_length
            request.arriving = body
            self.receiver = request
        else:
            request.content = b"" if content is None else content
        return request

    cdef bint leave_body(self) except -1:
        # One that was never invited may not come at all (RFC 9110 section 10.1.1).
        self.receiver = None
        return not (self.continue_pending or (
            self.stage == STAGE_LENGTH and self.body_left > self.discard_left))

    cdef int client_left(self) except -1:
        if self.receiver is not None:
            self.receiver.arriving.fail(ClientDisconnect("the client left inside a request body"))
        return self.leave_running()

    cdef int refuse(self, int status) except -1:
        # What comes next is no request: answer once, in its turn, and read no further.
        cdef Call call
        memset(&call, 0, sizeof(Call))
        call.minor_version = 1
        if self.engine.observer is not None:
            call.seen.begun_ns = self.engine.observer.now
            call.seen.refused = True
            if self.client is None:
                self.name_client()
            call.seen.client = <PyObject*>self.client
        self.unread = True
        self.closing = True
        return self.answer_plain(status, None, None, None, &call)

    cdef int settle(self) except -1:
        # After every change: is it over, and shall reading go on?
        if self.stage == STAGE_LOST:
            return 0
        self.since = self.deadlines.wheel.now
        if self.ended:
            if self.receiver is not None:
                self.client_left()      # its request had waited, and here its input ends
            if self.first is None and not (self.scheduled or self.queued or self.writing_paused):
                self.closing = True     # what is still buffered is less than a request
        if self.engine.ending and self.whole_head and self.is_idle():
            self.closing = True     # its last answer was made before anybody knew
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
        self.since = 0 if self.channel.unsent() else self.deadlines.wheel.now
        self.deadlines.wheel.sooner(self, self.deadlines.wheel.now + self.deadlines.linger)
        if self.reading_paused:
            self.reading_paused = False
            self.channel.resume_reading()
        return self.channel.shutdown_output()

    cdef bint is_idle(self):
        return self.first is None and self.stage == STAGE_HEAD and (
            self.input is None or self.input.size == 0)

    cdef int drain(self) except -1:
        if self.is_idle():
            self.channel.read_arrived()     # a request that is closed on unread is reset
        if self.stage != STAGE_LOST and self.is_idle():
            if self.whole_head == 0 and self.wait_due(WAIT_FIRST) > self.deadlines.wheel.now:
                return self.deadlines.wheel.sooner(self, self.wait_due(WAIT_FIRST))
            self.closing = True
            self.settle()
        return 0

    # what the deadlines ask and say

    cdef int64_t wait_due(self, Wait wait):
        if wait == WAIT_FIRST and self.engine.draining:
            return self.since + FIRST_WHEN_DRAINING     # it was accepted, so something will come
        if wait == WAIT_LINGER and self.since == 0:
            # Its time begins when all is sent: until then WAIT_OUTPUT is the client's deadline.
            if self.channel.unsent() == 0:
                self.since = self.deadlines.wheel.now
            return self.deadlines.wheel.now + self.deadlines.linger
        return AnsweringConnection.wait_due(self, wait)

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

    cdef int expired(self, Wait wait) except -1:
        cdef int64_t since = self.since
        if wait == WAIT_IDLE or wait == WAIT_FIRST:
            # A request may have come that we had no time to look at: closing would reset it.
            self.channel.read_arrived()
            if self.since != since or self.waits_for() != wait:
                return 0
        self.engine.expired[<int>wait] += 1
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
                if self.first is None or not self.first.opened:
                    # Behind the answer's head it would be part of that one's body.
                    self.write_interim(b"HTTP/1.1 100 Continue\r\n\r\n", 25)
            if not self.working:
                self.update_reading()
        return 0

    cdef int body_taken(self, Request request) except -1:
        if self.receiver is request and not self.working:
            self.update_reading()
        return 0

    cdef int name_client(self) except -1:
        # Whoever connected; a trusted proxy says more with each request. Only once: requests that
        # are under way borrow it.
        peer = self.told_peer
        if peer is None and self.channel is not None:
            peer = self.channel.peer()
        self.client = client_name(peer if isinstance(peer, tuple) else None)
        return 0

    cdef str name_of(self, Request request):
        cdef Observed seen
        seen.number = request.number
        seen.head = PyBytes_AS_STRING(request.head)
        seen.fields = request.first_field()
        seen.fields_size = request.fields_size()
        seen.nameless = False
        self.engine.ids.name(&seen)
        return seen.id[:seen.id_size].decode("ascii")

    cdef int send_interim(self, Request request, bytes message) except -1:
        # Only in the turn of its request; what is being sent already has had its interim ones.
        if self.channel is None or self.first is not None and (
                self.first.request is not request or self.first.opened):
            return 0
        return self.write_interim(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))

    cdef int write_interim(self, const char* data, Py_ssize_t size) except -1:
        # Another connection may be at work, whose handler has a request of this one: what is
        # in engine.out is its client's then.
        if self.working:
            return self.engine.out.append(data, size)
        if self.first is None:
            return 0        # its request is answered
        self.engine.bytes_out += size
        return self.channel.write(data, size)


# Why a connection ends that waits for its client, by Wait; "" is no client's fault.
cdef tuple REASONS = (
    "", "closed: it sent nothing", "", "408: its request head did not come in time",
    "408: its request body did not come in time", "", "closed: it does not read its answer")


cdef inline bint is_safe(Head* head) noexcept:
    # Safe methods (RFC 9110 section 9.2.1), and no body to wait for.
    return not head.chunked and head.content_length <= 0 and (
        head.method == METHOD_GET or head.method == METHOD_HEAD
        or head.method == METHOD_OPTIONS or head.method == METHOD_TRACE)


cdef class HttpEngine(Engine):
    """An Engine whose connections speak HTTP/1.1."""

    cdef Protocol make(self):
        cdef HttpProtocol protocol = HttpProtocol.__new__(HttpProtocol)
        protocol.engine = self
        self.connections_total += 1
        protocol.deadlines = self.deadlines
        protocol.app = self.app
        protocol.loop = self.loop
        protocol.forwarded = self.forwarded
        protocol.parser = self.parser.for_connection()
        return protocol
