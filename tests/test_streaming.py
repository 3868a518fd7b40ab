"""Bodies that are sent as they are made: generators, streams, trailers, interim answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
import uvloop
from support import Bench, read_replies, request, running_loop

from fastserve import App, FileResponse, HTTPError, Request, StreamingResponse, blocking

KINDS = ("fake", "socket", "reader", "loop")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def chunks(data: bytes) -> tuple[list[bytes], bytes]:
    """The chunks of a chunked body, and what follows the last one."""
    found, at = [], 0
    while True:
        line = data.index(b"\r\n", at)
        start, count = line + 2, int(data[at:line], 16)
        if count == 0:
            return found, data[start:]
        found.append(data[start : start + count])
        at = start + count + 2
        assert data[at - 2 : at] == b"\r\n"


def make_app() -> App:
    app = App()
    app.state.log = []
    app.state.gates = {}

    async def gate(name):
        app.state.gates[name] = opened = asyncio.get_running_loop().create_future()
        return await opened

    @app.get("/plain")
    def plain():
        return "plain"

    @app.get("/sync")
    def sync():
        yield "one, "
        yield ""
        yield "two"

    @app.get("/async")
    async def from_async():
        yield b"one, "
        await asyncio.sleep(0)
        yield b"two"

    @app.get("/rows")
    def rows():
        for _ in range(1000):
            yield b"x" * 1000

    @app.get("/nothing")
    def nothing():
        return
        yield

    @app.get("/gated/{name}")
    async def gated(name: str):
        try:
            yield f"<{name}"
            yield await gate(name)
            yield ">"
            app.state.log.append(f"{name} whole")
        finally:
            app.state.log.append(f"{name} ended")

    @app.post("/gated/{name}")
    async def post_gated(name: str):
        return gated(name)

    @app.get("/explicit/{name}")
    async def explicit(name: str):
        return StreamingResponse(gated(name), 201, {"x-kind": "slow"}, content_type="text/x-slow")

    @app.get("/late/{name}")
    async def late(name: str):
        async def pieces():
            try:
                yield await gate(name)
            finally:
                app.state.log.append(f"{name} ended")

        await asyncio.sleep(0)
        return pieces()

    @app.get("/known")
    def known():
        return StreamingResponse(iter([b"12345", b"67890"]), length=10)

    @app.get("/short")
    def short():
        return StreamingResponse(iter([b"12345"]), length=10)

    @app.get("/long")
    def long():
        return StreamingResponse(iter([b"12345", b"67890", b"!"]), length=10)

    @app.get("/trailers")
    def trailers():
        return StreamingResponse([b"body"], trailers=lambda: {"x-sum": "42"})

    @app.get("/bad-trailers")
    def bad_trailers():
        return StreamingResponse([b"body"], trailers={"content-length": "4"})

    @app.get("/raises/{when}")
    def raises(when: str):
        if when == "first":
            raise ValueError("a secret of the server")
        yield "begun"
        raise ValueError("a secret of the server")

    @app.get("/teapot")
    async def teapot():
        raise HTTPError(418)
        yield

    @app.get("/wrong")
    def wrong():
        yield 42

    @app.get("/tuple")
    def status_of_tuple():
        return (piece for piece in ["a", "b"]), 202, {"x-kind": "tuple"}

    @app.get("/large/{count:int}")
    async def large(count: int):
        try:
            for _ in range(count):
                app.state.made = getattr(app.state, "made", 0) + 1
                yield b"x" * 65536
        finally:
            app.state.log.append("large ended")

    @app.get("/endless")
    async def endless():
        try:
            while True:
                yield b"x" * 1000
        finally:
            app.state.log.append("endless ended")

    @app.post("/echo")
    async def echo(request: Request):
        async for piece in request.stream():
            yield piece

    @app.post("/copy")
    async def copy(request: Request):
        return StreamingResponse(request.stream())

    @app.post("/keep")
    async def keep(request: Request):
        app.state.kept = request
        return await gate("keep")

    @app.get("/pull")
    async def pull():
        async for piece in app.state.kept.stream():
            yield piece

    @app.get("/nudge")
    def nudge():
        app.state.kept.send_early_hints("</a.css>; rel=preload")
        return "nudged"

    @app.get("/blocking")
    @blocking
    def from_threads():
        try:
            yield "a"
            yield "b"
        finally:
            app.state.log.append("blocking ended")

    @app.get("/hints")
    async def hints(request: Request):
        request.send_early_hints(["</a.css>; rel=preload", "</b.js>; rel=preload"])
        await asyncio.sleep(0)
        request.send_early_hints("</c.js>; rel=preload")
        return "hinted"

    @app.get("/hints-sync")
    def hints_sync(request: Request):
        request.send_early_hints("</a.css>; rel=preload")
        return "hinted"

    @app.get("/hints-bad")
    def hints_bad(request: Request):
        request.send_early_hints("</a.css>\r\nevil: 1")

    @app.get("/no-content")
    def no_content():
        return StreamingResponse([b"x"], 204)

    return app


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    with running_loop(request.param) as loop:
        yield loop


@pytest.fixture(params=KINDS)
def bench(request, loop):
    bench = Bench(make_app(), loop, request.param)
    bench.app = bench.engine.app
    yield bench
    bench.close()


@pytest.fixture
def link(bench):
    return bench.connect()


def head_and_body(data: bytes):
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return lines[0], dict(line.lower().split(": ", 1) for line in lines[1:]), body


def open_gate(bench, name, value="open"):
    bench.loop.call_soon(bench.app.state.gates[name].set_result, value)
    bench.turn()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/sync", "text/plain; charset=utf-8"), ("/async", "application/octet-stream")],
)
def test_a_generator_is_sent_in_chunks_and_the_connection_stays(link, path, kind):
    """What it yields first tells the media type; an empty piece is no end of the body."""
    link.send(request(path) + request("/plain"))

    line, headers, body = head_and_body(link.received)
    pieces, rest = chunks(body)
    assert line == "HTTP/1.1 200 OK"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["content-type"] == kind
    assert "content-length" not in headers
    assert pieces == [b"one, ", b"two"]
    assert rest.startswith(b"\r\nHTTP/1.1 200 OK")
    assert rest.endswith(b"plain")
    assert not link.closed


def test_a_generator_that_yields_nothing_is_an_empty_body(link):
    """The head is sent all the same."""
    link.send(request("/nothing"))

    line, _headers, body = head_and_body(link.received)
    assert line == "HTTP/1.1 200 OK"
    assert chunks(body) == ([], b"\r\n")


def test_each_piece_leaves_when_it_is_made(bench, link):
    """The client reads the first piece while the handler waits."""
    link.send(request("/gated/a"))
    assert chunks(head_and_body(link.received)[2] + b"0\r\n")[0] == [b"<a"]

    open_gate(bench, "a")
    assert chunks(head_and_body(link.received)[2])[0] == [b"<a", b"open", b">"]
    assert bench.app.state.log == ["a whole", "a ended"]


def test_a_streaming_response_has_its_own_status_headers_and_type(bench, link):
    """And its head leaves before the first piece is there."""
    link.send(request("/explicit/e"))
    open_gate(bench, "e")

    line, headers, _body = head_and_body(link.received)
    assert line == "HTTP/1.1 201 Created"
    assert headers["x-kind"] == "slow"
    assert headers["content-type"] == "text/x-slow"


def test_a_tuple_gives_a_generator_its_status(link):
    """(generator, status, headers) as for any body."""
    link.send(request("/tuple"))

    line, headers, body = head_and_body(link.received)
    assert line == "HTTP/1.1 202 Accepted"
    assert headers["x-kind"] == "tuple"
    assert b"".join(chunks(body)[0]) == b"ab"


def test_a_known_length_is_sent_and_kept(link):
    """Content-Length instead of chunks."""
    link.send(request("/known"))

    reply = link.reply()
    assert reply.headers["content-length"] == "10"
    assert reply.body == b"1234567890"
    assert "transfer-encoding" not in reply.headers
    assert not link.closed


@pytest.mark.parametrize(("path", "sent"), [("/short", b"12345"), ("/long", b"1234567890")])
def test_a_length_that_is_not_kept_ends_the_connection(link, caplog, path, sent):
    """A client must not take what follows for the rest, nor the rest for a response."""
    link.send(request(path) + request("/plain"))

    _, headers, body = head_and_body(link.received)
    assert headers["content-length"] == "10"
    assert body == sent
    assert link.closed
    assert "Content-Length" in caplog.text


def test_http_1_0_gets_the_body_up_to_the_end_of_the_connection(link):
    """It knows no chunks (RFC 9112 section 6.1)."""
    link.send(b"GET /sync HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")

    _, headers, body = head_and_body(link.received)
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    assert body == b"one, two"
    assert link.closed


def test_http_1_0_with_a_known_length_may_stay(link):
    """Then nothing needs the end of the connection."""
    link.send(b"GET /known HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")

    _, headers, _ = head_and_body(link.received)
    assert headers["connection"] == "keep-alive"
    assert not link.closed


@pytest.mark.parametrize("path", ["/sync", "/known", "/gated/h"])
def test_head_of_a_stream_has_no_body_and_runs_none_of_it(bench, link, path):
    """The generator is closed before it began."""
    link.send(request(path, method="HEAD") + request("/plain"))

    replies, rest = read_replies(link.received, ["HEAD", "GET"])
    assert [reply.status for reply in replies] == [200, 200]
    assert rest == b""
    assert bench.app.state.log == []


def test_trailers_follow_a_chunked_body(link):
    """They are made when the body has ended."""
    link.send(request("/trailers") + request("/plain"))

    pieces, rest = chunks(head_and_body(link.received)[2])
    assert pieces == [b"body"]
    assert rest.startswith(b"x-sum: 42\r\n\r\nHTTP/1.1 200 OK")


def test_a_trailer_that_frames_is_refused(link, caplog):
    """RFC 9110 section 6.5.1: Content-Length behind the body means harm."""
    link.send(request("/bad-trailers"))

    assert link.closed
    assert b"content-length: 4" not in link.received.lower().partition(b"\r\n\r\n")[2]
    assert "may not be a trailer" in caplog.text


def test_an_exception_before_the_first_piece_is_an_ordinary_answer(link, caplog):
    """Nothing is sent yet, so there can be a status."""
    paths = ("/raises/first", "/teapot", "/wrong", "/plain")
    link.send(b"".join(request(path) for path in paths))

    assert [reply.status for reply in link.replies()] == [500, 418, 500, 200]
    assert b"secret" not in link.received
    assert "a secret of the server" in caplog.text


def test_an_exception_in_the_middle_cuts_the_body(link, caplog):
    """No last chunk: the client knows that something is missing."""
    link.send(request("/raises/later") + request("/plain"))

    body = head_and_body(link.received)[2]
    assert body == b"5\r\nbegun\r\n"
    assert link.closed
    assert "a secret of the server" in caplog.text


def test_a_body_of_a_status_without_one_is_refused(link):
    """204 has none (RFC 9110 section 15.3.5)."""
    link.send(request("/no-content"))

    assert link.reply().status == 500


def test_streams_keep_the_order_of_pipelined_requests(bench, link):
    """A later body waits for its turn, whole answers and streams mixed."""
    link.send(request("/gated/a") + request("/gated/b") + request("/plain") + request("/sync"))
    open_gate(bench, "a", "A")
    open_gate(bench, "b", "B")

    data = link.received
    bodies = []
    for _ in range(4):
        _, headers, data = head_and_body(data)
        if "content-length" in headers:
            size = int(headers["content-length"])
            bodies.append(data[:size])
            data = data[size:]
        else:
            pieces, rest = chunks(data)
            bodies.append(b"".join(pieces))
            data = rest.removeprefix(b"\r\n")
    assert bodies == [b"<aA>", b"<bB>", b"plain", b"one, two"]
    assert data == b""
    assert not link.closed


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_leaves_ends_the_stream(bench, link, method):
    """Whatever the method: nobody is there to send the rest to; the generator cleans up."""
    link.send(request("/gated/a", method=method))
    link.drop()
    bench.wait_for(lambda: bench.app.state.log)

    assert bench.app.state.log == ["a ended"]
    assert bench.engine.requests_in_flight == 0
    assert bench.engine.connections == 0


@pytest.mark.parametrize(
    ("path", "received"), [("/gated/a", b"<a"), ("/explicit/a", b"<a"), ("/late/a", b"")])
def test_a_client_that_says_its_end_ends_the_stream(bench, link, caplog, path, received):
    """A FIN, as of any client that closes: a quiet stream need not write to notice."""
    link.send(request(path))
    assert link.received.count(received)
    link.send_eof()
    bench.wait_for(lambda: link.closed)

    assert bench.app.state.log == ["a ended"]
    assert bench.engine.requests_in_flight == 0
    assert b"500" not in link.received
    assert not caplog.records


def test_half_close_gets_the_whole_of_what_is_at_hand(bench, link):
    """A client that has said all it will still downloads what its handler need not wait for."""
    if bench.kind == "fake":
        bench.loop.call_soon(link.protocol.data_received, request("/rows"))
        link.send_eof()
    else:
        link.socket.sendall(request("/rows"))
        link.send_eof()
    bench.wait_for(lambda: link.closed)

    assert b"".join(chunks(head_and_body(link.received)[2])[0]) == b"x" * 1_000_000


def test_a_slow_reader_stops_the_generator(bench):
    """What is made ahead is the backlog and the kernel's buffers, not the body."""
    if bench.kind == "fake":
        pytest.skip("a fake transport takes everything")
    link = bench.connect()
    link.poll = lambda: False       # reads nothing
    link.socket.sendall(request("/large/2000"))
    bench.turn()
    made = bench.app.state.made
    bench.turn()

    assert bench.app.state.made == made < 300
    link.drop()
    bench.wait_for(lambda: bench.app.state.log)


def test_the_kernel_keeps_little_of_a_stream_that_nobody_reads(loop):
    """Not the megabytes that it takes of a socket without that limit, for every slow reader."""
    bench = Bench(make_app(), loop, "socket")
    bench.app = bench.engine.app
    link = bench.connect()
    link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.poll = lambda: False       # reads nothing
    link.socket.sendall(request("/large/2000"))
    for _ in range(50):
        bench.turn()
    assert bench.app.state.made <= 10      # of 64 KiB
    link.drop()
    bench.wait_for(lambda: bench.app.state.log)
    bench.close()


def test_a_large_stream_arrives_whole(bench, link):
    """Through every pause and resumption."""
    link.send(request("/large/200"))
    size = 200 * 65536
    bench.wait_for(lambda: link.received_bytes > size and link.received.endswith(b"0\r\n\r\n"))

    pieces, _ = chunks(head_and_body(link.received)[2])
    assert b"".join(pieces) == b"x" * size


def test_an_endless_stream_leaves_room_for_others(bench):
    """A generator that never waits gives way after each turn's worth."""
    if bench.kind == "fake":
        pytest.skip("a fake transport takes everything, for ever")
    greedy = bench.connect()
    other = bench.connect()
    greedy.socket.sendall(request("/endless"))
    other.socket.sendall(request("/plain"))
    for _ in range(200):
        bench.loop.run_until_complete(asyncio.sleep(0))
        greedy.poll()
        other.poll()
        if other.received:
            break
    assert other.received.endswith(b"plain")
    greedy.drop()
    bench.wait_for(lambda: bench.app.state.log)


def test_a_request_body_can_be_answered_piece_by_piece(bench, link):
    """An echo that never holds the whole; nobody knew it would be read, so it is the last."""
    link.send(request("/echo", method="POST", transfer_encoding="chunked"))
    link.send(b"3\r\nabc\r\n")
    link.send(b"2\r\nde\r\n0\r\n\r\n")

    assert b"".join(chunks(head_and_body(link.received)[2])[0]) == b"abcde"


def test_a_request_body_is_invited_before_the_answer_that_is_made_of_it(bench, link):
    """Behind the answer's head the 100 would be part of its body (RFC 9110 section 15.2)."""
    link.send(request("/copy", method="POST", content_length="5", expect="100-continue"))
    assert link.received.startswith(CONTINUE)
    link.send(b"hello")
    bench.wait_for(lambda: link.closed)

    status, _, body = head_and_body(link.received.removeprefix(CONTINUE))
    assert status == "HTTP/1.1 200 OK"
    assert chunks(body) == ([b"hello"], b"\r\n")


def test_a_request_body_is_not_invited_in_the_middle_of_an_answer(loop, tmp_path):
    """Somebody asks for it while a file is being sent: too late for a 100."""
    app = App()
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)

    async def read(request):
        await app.state.gate
        await request.body()

    @app.post("/")
    async def file(request: Request):
        app.state.reading = asyncio.ensure_future(read(request))
        return FileResponse(path)

    bench = Bench(app, loop, "fake")
    app.state.gate = loop.create_future()
    link = bench.connect()
    write = link.transport.write

    def write_and_pause(data):
        write(data)
        link.transport.write = write
        link.protocol.pause_writing()

    link.transport.write = write_and_pause
    link.send(request("/", method="POST", content_length="5", expect="100-continue"))
    loop.call_soon(app.state.gate.set_result, None)
    bench.turn()
    assert link.received
    loop.call_soon(link.protocol.resume_writing)
    bench.wait_for(lambda: link.closed)

    assert link.reply().body == b"x" * 1_000_000
    app.state.reading.cancel()
    bench.close()


def test_blocking_generators_run_on_threads(bench, link):
    """Each step of them, and their end."""
    link.send(request("/blocking"))
    bench.wait_for(lambda: link.received.endswith(b"0\r\n\r\n"))

    assert chunks(head_and_body(link.received)[2])[0] == [b"a", b"b"]
    assert bench.app.state.log == ["blocking ended"]


def test_a_body_may_be_read_for_the_answer_on_another_connection(bench):
    """Each client reads what is its own: one the invitation, the other one its two answers."""
    giver, taker = bench.connect(), bench.connect()
    giver.send(request("/keep", method="POST", content_length="5", expect="100-continue"))
    taker.send(request("/plain") + request("/pull"))
    assert giver.received == CONTINUE
    assert taker.reply().body == b"plain"
    answered = len(taker.received)

    giver.send(b"hello")
    assert chunks(head_and_body(taker.received[answered:])[2])[0] == [b"hello"]
    open_gate(bench, "keep", "kept")
    assert [reply.body for reply in giver.replies()] == [b"", b"kept"]


def test_early_hints_may_be_sent_from_another_connection(bench):
    """They go to the client of their request, and nothing else does; none once it is answered."""
    link, other = bench.connect(), bench.connect()
    link.send(request("/keep", method="POST", content_length="0"))
    other.send(request("/plain") + request("/nudge"))
    assert [reply.status for reply in link.replies()] == [103]
    assert [reply.body for reply in other.replies()] == [b"plain", b"nudged"]

    open_gate(bench, "keep", "kept")
    other.send(request("/nudge"))
    assert [reply.status for reply in link.replies()] == [103, 200]


def test_early_hints_come_before_the_answer(bench, link):
    """103 with the links, as often as asked for (RFC 8297)."""
    link.send(request("/hints"))

    replies, rest = read_replies(link.received)
    assert [reply.status for reply in replies] == [103, 103, 200]
    assert rest == b""
    assert replies[0].headers["link"] == "</a.css>; rel=preload, </b.js>; rel=preload"


def test_early_hints_are_not_for_http_1_0_nor_out_of_turn(bench, link):
    """HTTP/1.0 knows no 1xx (RFC 9110 section 15.2); inside another answer it would break that."""
    link.send(request("/gated/a") + request("/hints-sync"))
    assert b" 103 " not in link.received
    open_gate(bench, "a")
    assert b" 103 " not in link.received
    assert link.received.endswith(b"hinted")

    old = bench.connect()
    old.send(b"GET /hints-sync HTTP/1.0\r\n\r\n")
    assert b" 103 " not in old.received
    assert old.received.endswith(b"hinted")


def test_early_hints_cannot_break_the_head(bench, link, caplog):
    """A line break in a link is a mistake of the handler's, answered 500."""
    link.send(request("/hints-bad"))

    assert link.reply().status == 500
    assert "evil" not in link.received.decode()


def test_streaming_responses_refuse_what_cannot_be_sent():
    """At the call that makes them, with the name of the thing."""
    with pytest.raises(TypeError, match="iterable"):
        StreamingResponse(42)
    with pytest.raises(TypeError, match="iterable"):
        StreamingResponse("text")
    with pytest.raises(ValueError, match="length"):
        StreamingResponse([b""], length=-1)
    with pytest.raises(ValueError, match="trailers"):
        StreamingResponse([b""], length=1, trailers={"a": "b"})


def test_draining_lets_a_stream_end(bench, link):
    """The worker stops: what is under way is sent whole, then the connection ends."""
    link.send(request("/gated/a"))
    bench.loop.call_soon(bench.engine.drain)
    bench.turn()
    assert not link.closed
    open_gate(bench, "a")

    assert chunks(head_and_body(link.received)[2])[0] == [b"<a", b"open", b">"]
    assert link.closed


def test_aborting_ends_the_generator(bench, link):
    """Its finally runs; nothing is left in flight."""
    link.send(request("/gated/a"))
    bench.loop.call_soon(bench.engine.abort)
    bench.wait_for(lambda: bench.app.state.log)

    assert bench.app.state.log == ["a ended"]
    assert bench.engine.requests_in_flight == 0


def test_middleware_sees_a_stream_as_a_response(loop):
    """It may change status and headers; the body passes it by."""
    app = make_app()

    @app.middleware
    async def stamp(request, call_next):
        response = await call_next(request)
        response.headers["x-stamp"] = "1"
        return response

    with contextlib.closing(Bench(app, loop, "fake")) as bench:
        link = bench.connect()
        link.send(request("/sync"))
        _, headers, body = head_and_body(link.received)
        assert headers["x-stamp"] == "1"
        assert chunks(body)[0] == [b"one, ", b"two"]
