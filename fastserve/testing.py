"""TestClient: requests into the real protocol, responses out of it, without a socket.

    with TestClient(app) as client:
        assert client.get("/users/7").json() == {"id": 7}

Everything but the socket is what production runs: parser, router, handler, serializer, on
an event loop of the client's own. Entering runs the lifespan and leaving ends it, in one
task, so that task groups may live in it. It is for synchronous tests: inside a running
loop use a real server. Redirects are not followed and cookies are not kept.

An exception that nobody handles is raised in the test, as Starlette's client does, and so is
one in the middle of a body, which nobody can: the traceback is what a failing test is for.
With raise_server_exceptions=False the test sees the 500 that the world would see, and a body
that breaks off is a ConnectionError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httptools
import orjson

from fastserve._speedups.multidict import Headers
from fastserve.app import App
from fastserve.errors import HTTPError

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]
Content = str | bytes | Iterable[bytes]

PEER = ("127.0.0.1", 50000)
SERVER = ("127.0.0.1", 80)
READ_BYTES = 65536
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE = _PATH_SAFE + "?"


class TestResponse:
    """A response as it came over the wire, its chunked framing removed.

    status:   the status code
    reason:   the reason phrase
    headers:  a multi-dict without case; getlist() gives every value
    body:     the content; also as `content`, `text` and `json()`
    """

    __test__ = False    # for pytest: not a test

    def __init__(
        self, status: int, reason: str, headers: Headers, body: bytes, closed: bool
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body
        self.closed = closed

    @property
    def status_code(self) -> int:
        """The status, by the name httpx uses."""
        return self.status

    @property
    def content(self) -> bytes:
        """The body, by the name httpx uses."""
        return self.body

    @property
    def text(self) -> str:
        """The body as text, in the charset of its Content-Type or UTF-8."""
        _, _, charset = self.headers.get("content-type", "").partition("charset=")
        return self.body.decode(charset.strip("\"' ") or "utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    def __repr__(self) -> str:
        return f"<TestResponse {self.status}, {len(self.body)} bytes>"


class TestClient:
    """Sends requests to an application in memory.

    raise_server_exceptions:  raise in the test what no handler of the application answers
    headers:                  sent with every request
    timeout_s:                how long one request, the start-up or the shutdown may take
    settings:                 keywords of the Engine: http="httptools", tasks="asyncio", limits
    """

    __test__ = False

    def __init__(
        self,
        app: App,
        *,
        raise_server_exceptions: bool = True,
        headers: Pairs = (),
        timeout_s: float = 30.0,
        **settings: Any,
    ) -> None:
        self.app = app
        self.headers = list(_pairs(headers))
        self._raise = raise_server_exceptions
        self._timeout_s = timeout_s
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unexpected: list[BaseException] = []

    # --- the lifespan --------------------------------------------------------------------

    def __enter__(self) -> TestClient:
        if self._loop is not None:
            raise RuntimeError("this TestClient is entered already")
        _refuse_inside_a_loop()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        ready = self._loop.create_future()
        self._lifespan = self._loop.create_task(self._live(ready))
        self.app.on_handler_failed = self._unexpected.append
        try:
            self._engine = self.app.build_engine(
                self._loop, on_error=self._on_error, on_report=self._on_report, **self._settings)
            self._engine.tick()
            self._wait(asyncio.wait(
                (self._lifespan, ready), return_when=asyncio.FIRST_COMPLETED))
            if self._lifespan.done():
                self._lifespan.result()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stop.set()
            self._wait(self._lifespan)
        finally:
            self._close()

    async def _live(self, ready: asyncio.Future[None]) -> None:
        async with self.app.lifespan_context():
            ready.set_result(None)
            await self._stop.wait()

    def _close(self) -> None:
        loop, self._loop = self._entered(), None
        self.app.on_handler_failed = None
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=self._timeout_s))
        loop.run_until_complete(loop.shutdown_asyncgens())
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()
        self.app.blocking_pool.close()
        loop.close()

    def _wait(self, awaitable: Any) -> Any:
        return self._entered().run_until_complete(asyncio.wait_for(awaitable, self._timeout_s))

    def _entered(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("use the client inside `with TestClient(app) as client:`")
        return self._loop

    # --- requests ------------------------------------------------------------------------

    def get(self, url: str, **kwargs: Any) -> TestResponse:
        """GET a path; keywords as of request()."""
        return self.request("GET", url, **kwargs)

    def head(self, url: str, **kwargs: Any) -> TestResponse:
        """HEAD a path."""
        return self.request("HEAD", url, **kwargs)

    def options(self, url: str, **kwargs: Any) -> TestResponse:
        """OPTIONS of a path."""
        return self.request("OPTIONS", url, **kwargs)

    def delete(self, url: str, **kwargs: Any) -> TestResponse:
        """DELETE a path."""
        return self.request("DELETE", url, **kwargs)

    def post(self, url: str, **kwargs: Any) -> TestResponse:
        """POST to a path."""
        return self.request("POST", url, **kwargs)

    def put(self, url: str, **kwargs: Any) -> TestResponse:
        """PUT to a path."""
        return self.request("PUT", url, **kwargs)

    def patch(self, url: str, **kwargs: Any) -> TestResponse:
        """PATCH a path."""
        return self.request("PATCH", url, **kwargs)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Pairs = (),
        params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        content: Content | None = None,
        json: Any = None,
        data: Mapping[str, Any] | None = None,
    ) -> TestResponse:
        """Send one request on a connection of its own and wait for its response.

        url:      a path, or a whole URL, whose host becomes the Host header
        params:   added to the query
        content:  the body; an iterable of bytes is sent chunked
        json:     a value, sent as JSON
        data:     fields, sent as application/x-www-form-urlencoded
        """
        self._entered()
        _refuse_inside_a_loop()
        own = [*self.headers, *_pairs(headers)]
        body, kind = _body(content, json, data)
        if kind is not None and not _has(own, "content-type"):
            own.append(("content-type", kind))
        return self._exchange(method, _render(method, url, params, own, body))

    def _exchange(self, method: str, raw: bytes) -> TestResponse:
        transport = FakeTransport(self._entered(), self._engine.protocol(), method)
        self._unexpected.clear()
        transport.send(raw)
        try:
            self._wait(transport.finished)
        finally:
            transport.close()
            self._wait(asyncio.sleep(0))    # connection_lost
        if self._raise and self._unexpected:
            raise self._unexpected[0]
        return transport.response()

    def _on_error(self, request: Any, error: BaseException) -> Any:
        if isinstance(error, Exception) and not isinstance(error, HTTPError) and (
            self.app.handler_for(error) is None
        ):
            self._unexpected.append(error)
        return self.app.handle_error(request, error)

    def _on_report(self, request: Any, error: BaseException) -> None:
        self._unexpected.append(error)


class FakeTransport(asyncio.Transport):
    """A transport whose other end is a parser of responses.

    Everything reaches the protocol from callbacks of the loop, never inside a task, as with
    any transport.

    finished:  a future, done when the response is complete or the connection is closed
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any, method: str) -> None:
        super().__init__({"peername": PEER, "sockname": SERVER})
        self.finished: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._protocol = protocol
        self._reader = _ResponseReader(method == "HEAD")
        self._unsent = b""
        self._reading = True
        self._closing = False
        loop.call_soon(protocol.connection_made, self)

    def send(self, data: bytes) -> None:
        """Let bytes arrive at the protocol, a read's worth at a time, while it reads."""
        self._unsent += data
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        if self._unsent and self._reading and not self._closing:
            piece, self._unsent = self._unsent[:READ_BYTES], self._unsent[READ_BYTES:]
            self._protocol.data_received(piece)
            self._loop.call_soon(self._deliver)

    def response(self) -> TestResponse:
        """What was received."""
        return self._reader.response(self._closing)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._reader.feed(bytes(data))
            if self._reader.complete:
                self._finish()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self._reader.end()
        self._finish()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reader.end()
            self._finish()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return self._reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


class _ResponseReader:
    """Bytes into one response; interim (1xx) responses are passed over."""

    def __init__(self, head_only: bool) -> None:
        self.complete = False
        self._cut = False
        self._head_only = head_only
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reason = b""
        self._pairs: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._status = 0
        self._interim = False

    def feed(self, data: bytes) -> None:
        if not self.complete:
            self._parser.feed_data(data)

    def end(self) -> None:
        """The peer has closed: a body without a length ends here."""
        if self._status and not self._interim and not self.complete:
            names = {name.lower() for name, _ in self._pairs}
            self._cut = not names.isdisjoint(("content-length", "transfer-encoding"))
            self.complete = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._pairs.append((name.decode("ascii"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._interim = self._status < 200
        if self._head_only and not self._interim:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._interim:
            self.complete = True

    def on_message_begin(self) -> None:
        if self._interim:
            self._status, self._interim, self._reason = 0, False, b""
            self._pairs, self._body = [], []

    def response(self, closed: bool) -> TestResponse:
        if not self._status:
            raise ConnectionError("the server closed the connection without a response")
        if self._cut:
            raise ConnectionError("the server closed the connection inside the body")
        body = b"" if self._head_only else b"".join(self._body)
        return TestResponse(
            self._status, self._reason.decode("latin-1"), Headers(self._pairs), body, closed)


def _refuse_inside_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("TestClient is for synchronous tests; here an event loop is running already")


def _pairs(headers: Pairs) -> Iterable[tuple[str, str]]:
    return headers.items() if isinstance(headers, Mapping) else headers


def _has(headers: list[tuple[str, str]], name: str) -> bool:
    return any(key.lower() == name for key, _ in headers)


def _body(
    content: Content | None, json: Any, data: Mapping[str, Any] | None
) -> tuple[bytes | list[bytes] | None, str | None]:
    if sum(part is not None for part in (content, json, data)) > 1:
        raise TypeError("give one of content, json and data")
    if json is not None:
        return orjson.dumps(json), "application/json"
    if data is not None:
        return urlencode(data, doseq=True).encode(), "application/x-www-form-urlencoded"
    if isinstance(content, str):
        return content.encode(), None
    if content is None or isinstance(content, (bytes, bytearray)):
        return content, None
    return list(content), None


def _render(
    method: str,
    url: str,
    params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None,
    headers: list[tuple[str, str]],
    body: bytes | list[bytes] | None,
) -> bytes:
    parts = urlsplit(url)
    target = "*" if url == "*" else quote(parts.path or "/", safe=_PATH_SAFE)
    query = quote(parts.query, safe=_QUERY_SAFE)
    if params:
        pairs = params.items() if isinstance(params, Mapping) else params
        query += ("&" if query else "") + urlencode(list(pairs), doseq=True)
    lines = [f"{method} {target}{'?' + query if query else ''} HTTP/1.1"]
    if not _has(headers, "host"):
        lines.append(f"Host: {parts.netloc or 'testserver'}")
    lines += [f"{name}: {value}" for name, value in headers]
    chunked = isinstance(body, list)
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif (body is not None or method in ("POST", "PUT", "PATCH")) and not _has(
        headers, "content-length"
    ):
        lines.append(f"Content-Length: {len(body or b'')}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    if isinstance(body, list):
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in body if part]
        return head + b"".join(chunks) + b"0\r\n\r\n"
    return head + (body or b"")
