# Requests: see messages.pxd for the contract.
#
# A request is one copy of its raw head and offsets into it, valid for ever; everything
# else is made when it is asked for.

import types
from io import BytesIO

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memcpy

from fastserve._speedups.buffer cimport Block, Buffer
from fastserve._speedups.multidict cimport (
    MutableHeaders, mutable_headers, name_host, query_params, request_headers, unquote)
from fastserve._speedups.head cimport METHOD_OTHER

from fastserve.errors import HTTPError

cdef enum:
    CRUMB_BYTES = 1024      # of a body: a smaller piece is copied together with its neighbours
    READ_PIECE = 4096       # where there was room for it: a smaller one does not keep that
    LARGE_PIECE = 32 * 1024 # is given to the handler alone, and not joined to others
    FIRST_ROOM = 16 * 1024 * 1024    # for what was promised: address space, until bytes come
    ROOM_FACTOR = 4             # and behind it for so many times what has come

cdef object loads = None      # orjson's, once something is served: its import is a quarter of ours

cdef tuple METHOD_NAMES = (
    None, "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")



cdef class Connection(Protocol):
    cdef int want_body(self, Request request) except -1:
        return 0

    cdef int body_taken(self, Request request) except -1:
        return 0

    cdef int send_interim(self, Request request, bytes message) except -1:
        return 0

    cdef str name_of(self, Request request):
        raise NotImplementedError


class Address(tuple):
    """Where a client is: (host, port); host is "" and port 0 for a unix socket."""

    __slots__ = ()

    def __new__(cls, host, port):
        return super().__new__(cls, (host, port))

    @property
    def host(self):
        """The IP address as text."""
        return self[0]

    @property
    def port(self):
        """The TCP port."""
        return self[1]

    def __repr__(self):
        return f"Address(host={self[0]!r}, port={self[1]!r})"


cdef class Origin:
    pass


cdef Origin SILENCE = Origin.__new__(Origin)
cdef dict DEFAULT_PORTS = {"http": 80, "https": 443}


cdef bint has_port(str authority):
    return authority.rpartition("]")[2].find(":") >= 0


class State(types.SimpleNamespace):
    """A bag of attributes of the user's own."""


cdef class Body:
    cdef int feed(self, const char* data, Py_ssize_t size) except -1:
        cdef bint in_place = self.block is not None and data == self.block.end()
        if self.error is not None:
            return 0
        self.size += size
        self.received += size
        if self.collecting:
            if not in_place:
                self.make_room(size)
                memcpy(self.block.end(), data, size)
            self.block.size += size
            return self.wake() if 0 <= self.limit < self.received else 0
        if size < CRUMB_BYTES:
            if self.crumbs is None:
                self.crumbs = Buffer.__new__(Buffer)
            self.crumbs.append(data, size)
        else:
            self.gather()
            if in_place and size >= READ_PIECE:
                self.block.size = size
                self.pieces.append(self.block.take())
            else:
                self.pieces.append(PyBytes_FromStringAndSize(data, size))
        self.block = None
        return self.wake()

    cdef char* room(self, Py_ssize_t size) except NULL:
        if self.block is None:
            self.block = Block.__new__(Block)
        if self.collecting:
            self.make_room(size)
        else:
            self.block.grow(size)
        return self.block.end()

    cdef int make_room(self, Py_ssize_t size) except -1:
        # A claim costs little: what has come decides how much there may be room for.
        cdef Py_ssize_t wanted = self.block.size + size
        cdef Py_ssize_t ahead = ROOM_FACTOR * wanted
        if wanted <= self.block.capacity:
            return 0
        if self.promised <= 0:
            ahead = 2 * self.block.capacity
        else:
            if ahead < FIRST_ROOM:
                ahead = FIRST_ROOM
            if ahead > self.promised:
                ahead = <Py_ssize_t>self.promised
        return self.block.grow(max(ahead, wanted))

    cdef int collect(self, Py_ssize_t limit) except -1:
        cdef bytes so_far
        self.limit = limit
        if self.collecting or self.complete:
            return 0
        so_far = self.take()
        self.block = Block.__new__(Block)
        self.collecting = True
        if so_far:
            self.size = PyBytes_GET_SIZE(so_far)
            self.make_room(self.size)
            memcpy(self.block.end(), PyBytes_AS_STRING(so_far), self.size)
            self.block.size = self.size
        return 0

    cdef int scatter(self) except -1:
        if self.collecting:
            self.collecting = False
            if self.size:
                self.pieces.append(self.block.take())
            self.block = None
        return 0

    cdef int gather(self) except -1:
        if self.crumbs is not None and self.crumbs.size:
            self.pieces.append(PyBytes_FromStringAndSize(self.crumbs.data, self.crumbs.size))
            self.crumbs.release()
        return 0

    cdef bytes take(self):
        cdef bytes taken
        if self.collecting:
            self.size = 0
            return self.block.take()
        self.gather()
        taken = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self.size = 0
        return taken

    cdef bytes take_next(self):
        cdef bytes piece
        if len(self.pieces) < 2 or PyBytes_GET_SIZE(self.pieces[0]) < LARGE_PIECE:
            return self.take()
        piece = self.pieces.pop(0)
        self.size -= PyBytes_GET_SIZE(piece)
        return piece

    cdef int finish(self) except -1:
        self.complete = True
        return self.wake()

    cdef int fail(self, object error) except -1:
        if not self.complete and self.error is None:
            self.error = error
            self.wake()
        return 0

    cdef int wake(self) except -1:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
        return 0

    cdef object wait(self):
        # A future for the next change.
        if self.waiter is not None and not self.waiter.done():
            raise RuntimeError("the body is being read by another task already")
        self.waiter = self.connection.loop.create_future()
        return self.waiter


@cython.freelist(64)
cdef class Request:
    """One request. Whatever a handler does not touch is never made."""

    def __init__(self):
        raise TypeError("requests are made by the server; in tests use fastserve.testing.TestClient")

    @property
    def method(self):
        """The method token, e.g. "GET"."""
        if self.method_id != METHOD_OTHER:
            return METHOD_NAMES[self.method_id]
        return PyUnicode_DecodeLatin1(
            PyBytes_AS_STRING(self.head) + self.method_start, self.method_size, NULL)

    @property
    def path(self):
        """The path, percent-decoded once; "/" at least."""
        if self.decoded_path is None:
            self.decoded_path = unquote(
                PyBytes_AS_STRING(self.head) + self.path_start, self.path_size, False) or "/"
        return self.decoded_path

    @property
    def raw_path(self):
        """The path as it was sent, as bytes, without the query."""
        return self.head[self.path_start:self.path_start + self.path_size] or b"/"

    @property
    def target(self):
        """The request target as it was sent, as bytes."""
        return self.head[self.target_start:self.target_start + self.target_size]

    @property
    def query_string(self):
        """The query as it was sent, as bytes, without the "?"."""
        return self.head[self.query_start:self.query_start + self.query_size]

    @property
    def query(self):
        """The decoded query: a multi-dict of str."""
        if self.decoded_query is None:
            self.decoded_query = query_params(self.head, self.query_start, self.query_size)
        return self.decoded_query

    @property
    def url(self):
        """The whole URL as text, from the scheme, Host and target."""
        cdef Origin told
        if self.target[:1] not in (b"/", b"*"):
            return self.target.decode("latin-1")
        told = self.origin()
        host = told.authority or self.headers.get("host") or "localhost"
        scheme = self.scheme
        if told.port is not None and told.port != DEFAULT_PORTS[scheme] and not has_port(host):
            host = f"{host}:{told.port}"
        return f"{scheme}://{host}{self.target.decode('latin-1')}"

    @property
    def headers(self):
        """The header fields: a multi-dict whose names have no case."""
        if self.parsed_headers is None:
            self.parsed_headers = request_headers(self.fields, self.fields_start)
            if self.head[self.target_start] not in b"/*":
                name_host(self.parsed_headers, self.target)
        return self.parsed_headers

    @property
    def cookies(self):
        """The cookies: a dict of str; of a repeated name the first counts (RFC 6265 section 5.4)."""
        if self.parsed_cookies is None:
            self.parsed_cookies = parse_cookies(self.headers.getlist("cookie"))
        return self.parsed_cookies

    @property
    def http_version(self):
        """"1.1" or "1.0"."""
        return "1.1" if self.minor_version else "1.0"

    @property
    def id(self):
        """What the request is called in logs and traces.

        The client's X-Request-ID (or what `request_id_header` names instead) where it is of at
        most 40 letters, digits and -_.:/+=@; else one that no other request has.
        """
        if self.own_id is None:
            self.own_id = self.connection.name_of(self)
        return self.own_id

    @property
    def client(self):
        """The client's address, with .host and .port; None once it is gone.

        Behind a trusted proxy, who the proxy says it is; the port is 0 where it does not say.
        """
        cdef Origin told = self.origin()
        return self.neighbour() if told.client is None else told.client

    @property
    def scheme(self):
        """"http" or "https"; behind a trusted proxy, what the client spoke to that."""
        cdef Origin told = self.origin()
        if told.scheme is not None:
            return told.scheme
        if self.connection.told_encrypted or (
                self.connection.channel is not None and self.connection.channel.encrypted()):
            return "https"
        return "http"

    @property
    def ssl_object(self):
        """The ssl.SSLObject of a TLS connection: cipher(), version(), getpeercert(True); or None."""
        if self.connection.channel is None:
            return None
        return self.connection.channel.tls()

    @property
    def client_cert(self):
        """The client's certificate as ssl.SSLSocket.getpeercert() gives it; None without one."""
        found = self.ssl_object
        return None if found is None else found.getpeercert() or None

    cdef object neighbour(self):
        if self.peer is None:
            self.peer = self.connection.told_peer
        if self.peer is None and self.connection.channel is not None:
            found = self.connection.channel.peer()
            if isinstance(found, tuple) and len(found) >= 2:
                self.peer = Address(found[0], found[1])
            elif found is not None:
                self.peer = Address("", 0)
        return self.peer

    cdef Origin origin(self):
        cdef Origin told
        cdef object reader = self.connection.forwarded
        if self.told is not None:
            return self.told
        if reader is None:
            return SILENCE
        peer = self.neighbour()
        if peer is None:
            return SILENCE      # gone, and nobody to trust any more
        if not reader.trusts(peer[0]):
            self.connection.forwarded = None    # nor is any other request of this connection
            return SILENCE
        told = Origin.__new__(Origin)
        client, told.scheme, told.authority, told.port = reader.read(self.headers)
        if client is not None:
            told.client = Address(client[0], client[1])
        self.told = told
        return told

    @property
    def path_params(self):
        """The converted path parameters by name."""
        if self.plan is None or self.values is None:
            return {}
        return dict(zip(self.plan.param_names, self.values))

    @property
    def path_values(self):
        """The converted path parameters, in path order."""
        return self.values or ()

    @property
    def route(self):
        """The route that matched, or None."""
        return None if self.plan is None else self.plan.route

    @property
    def app(self):
        """The application that answers."""
        return self.connection.app

    @property
    def state(self):
        """Attributes of the user's own, for this request."""
        if self.own_state is None:
            self.own_state = State()
        return self.own_state

    cdef int check_length(self, Py_ssize_t limit, Py_ssize_t size) except -1:
        if 0 <= limit < size:
            raise HTTPError(413, f"the body is larger than {limit} bytes")
        return 0

    async def body(self, *, max_bytes=None):
        """The whole body as bytes.

        max_bytes:  the limit of this call, instead of the route's max_body_bytes
        Raises HTTPError(413) above the limit, ClientDisconnect when the client left before
        the end.
        """
        cdef Body arriving = self.arriving
        cdef Py_ssize_t limit = self.max_body_bytes if max_bytes is None else max_bytes
        if self.encoded():
            await self.decode(limit)
        if self.content is not None:
            self.check_length(limit, PyBytes_GET_SIZE(self.content))
            return self.content
        if self.streamed:
            raise RuntimeError("the body was taken by stream()")
        self.check_length(limit, self.content_length)
        arriving.collect(limit)
        self.connection.want_body(self)
        while True:
            self.check_length(limit, arriving.received)
            if arriving.complete:
                break
            if arriving.error is not None:
                raise arriving.error
            news = arriving.wait()
            try:
                await news
            except BaseException:
                arriving.scatter()      # cancelled: nobody wants all of it any more
                raise
        if self.content is None:
            self.content = arriving.take()
        return self.content

    async def json(self):
        """The body as JSON. Raises HTTPError(400) when it is none."""
        cdef bytes content = self.content
        if content is None or self.encoded():
            content = await self.body()
        else:
            self.check_length(self.max_body_bytes, PyBytes_GET_SIZE(content))
        try:
            return loads(content)
        except ValueError as error:
            raise HTTPError(400, f"the body is not JSON: {error}") from None

    def stream(self, *, max_bytes=None):
        """The body in pieces, as they arrive: `async for piece in request.stream()`.

        max_bytes:  the limit of this call, instead of the route's max_body_bytes, when it
                    has one
        The client is read from no faster than the pieces are taken. Raises HTTPError(413)
        above the limit, ClientDisconnect when the client left before the end.
        """
        return body_stream(self, self.max_stream_bytes if max_bytes is None else max_bytes)

    async def form(self):
        """The form in the body: names with values, each a str or an UploadFile.

        The same form again when asked again. Raises HTTPError: 415 for what is no form, 413
        above the limits, 400 for what is malformed.
        """
        if self.parsed_form is None:
            self.parsed_form = await self.connection.app.forms.read(self)
        return self.parsed_form

    def parts(self):
        """The parts of a multipart form as they arrive: `async for part in request.parts()`.

        Nothing is kept: read a part before asking for the next one. Raises as form() does,
        within the limit of stream().
        """
        return self.connection.app.forms.parts(self)

    cdef bint encoded(self):
        # Whether there may be a Content-Encoding that is ours to undo.
        return self.plan is not None and self.plan.decompress_requests and not self.decoded

    async def decode(self, Py_ssize_t limit):
        cdef BodyStream stream = body_stream(self, limit)
        stream.begin()
        if stream.decoder is None:
            self.streamed = False
            return
        gathered = BytesIO()
        async for piece in stream:
            gathered.write(piece)
        self.content = gathered.getvalue()

    def send_early_hints(self, links):
        """Tell the client what to fetch while the answer is in the making: a 103 (RFC 8297).

        links:  the values of Link fields, e.g. ["</app.css>; rel=preload; as=style"], or one str
        Nothing is sent to HTTP/1.0, or while an earlier request is still being answered. Some
        clients take a 103 for the answer itself (Python's http.client, nginx up to 1.28 as a
        proxy; RFC 8297 section 3): send it to browsers that reach you directly.
        Raises ValueError for what cannot be in a header.
        """
        cdef MutableHeaders fields = mutable_headers(
            [("link", link) for link in ((links,) if isinstance(links, str) else links)])
        cdef bytes message = b"HTTP/1.1 103 Early Hints\r\n"
        if self.minor_version and fields.pairs:
            for name, value in fields.pairs:
                message += b"Link: " + value + b"\r\n"
            self.connection.send_interim(self, message + b"\r\n")

    def __repr__(self):
        return f"<Request {self.method} {self.target.decode('latin-1')!r}>"


cdef class BodyStream:
    """The pieces of a body in order; each is given once."""

    cdef int begin(self) except -1:
        cdef Request request = self.request
        self.begun = True
        if request.encoded():
            self.decoder = request.connection.app.decoder(request)
            request.decoded = True
        self.whole = request.content
        if self.whole is None or self.decoder is not None:
            if request.streamed:
                raise RuntimeError("the body was taken by stream() already")
            request.streamed = True
            request.content = None      # what is still encoded is nobody else's
        if self.whole is None:
            request.check_length(self.limit, request.content_length)
            request.arriving.scatter()
            request.connection.want_body(request)
        return 0

    cdef bytes pull(self):
        # The next piece as it was sent; b"" is the end, None: wait for it.
        cdef Body arriving = self.request.arriving
        cdef bytes piece = self.whole
        if piece is not None:
            self.request.check_length(self.limit, PyBytes_GET_SIZE(piece))
            self.whole = b""
            return piece
        self.request.check_length(self.limit, arriving.received)
        if arriving.size:
            piece = arriving.take_next()
            self.request.connection.body_taken(self.request)
            return piece
        if arriving.complete:
            return b""
        if arriving.error is not None:
            raise arriving.error
        return None

    def __aiter__(self):
        return self

    def __anext__(self):
        if not self.begun:
            self.begin()
        return self.take() if self.decoder is None else self.take_decoded()

    async def take(self):
        cdef bytes piece = self.pull()
        while piece is None:
            await self.request.arriving.wait()
            piece = self.pull()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def take_decoded(self):
        cdef bytes piece, raw
        while True:
            piece = self.decoder.read()
            if piece:
                break
            raw = self.pull()
            while raw is None:
                await self.request.arriving.wait()
                raw = self.pull()
            if not raw:
                self.decoder.finish()
                raise StopAsyncIteration
            self.decoder.feed(raw)
        self.given += PyBytes_GET_SIZE(piece)
        self.request.check_length(self.limit, self.given)
        self.held += PyBytes_GET_SIZE(piece)
        if self.held >= DECODED_PER_TURN:
            self.held = 0
            await next_turn(self.request.connection.loop)
        return piece

    async def aclose(self):
        """Nothing to do: for contextlib.aclosing()."""


cdef BodyStream body_stream(Request request, Py_ssize_t limit):
    cdef BodyStream stream = BodyStream.__new__(BodyStream)
    stream.request = request
    stream.limit = limit
    return stream


cdef object next_turn(object loop):
    # Decoding needs no waiting: let the others have the loop.
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    return future


cdef dict parse_cookies(list values):
    cdef dict cookies = {}
    for line in values:
        for pair in line.split(";"):
            name, equals, value = pair.partition("=")
            name = name.strip(" \t")
            value = value.strip(" \t")
            if equals and name and name not in cookies:
                if len(value) >= 2 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                cookies[name] = value
    return cookies


cpdef int load_decoder() except -1:
    """Import orjson now; an engine does it before the first request."""
    global loads
    from orjson import loads as orjson_loads
    loads = orjson_loads
    return 0
