"""The connection, over a fake transport, our raw one (epoll and add_reader) and the loop's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging

import pytest
import uvloop
from support import Bench, read_replies, request, running_loop

from fastserve import App, HTTPError, Request, Response

KINDS = ("fake", "socket", "reader", "loop")


def make_app() -> App:
    app = App()
    app.state.log = []
    app.state.gates = {}

    @app.get("/")
    def home():
        return "Hello, World!"

    @app.get("/async")
    async def from_coroutine():
        return {"message": "Hello, World!"}

    @app.get("/gate/{name}")
    async def gate(request: Request, name: str):
        """Wait until the test opens the gate, or until cancelled."""
        app.state.gates[name] = opened = asyncio.get_running_loop().create_future()
        try:
            value = await opened
        except asyncio.CancelledError:
            app.state.log.append(f"{name} cancelled")
            raise
        app.state.log.append(f"{name} done")
        return value

    @app.post("/gate/{name}")
    async def post_gate(request: Request, name: str):
        return await gate(request, name)

    @app.post("/gate/{name}/leaving", cancel_on_disconnect=True)
    async def leaving_gate(request: Request, name: str):
        return await gate(request, name)

    @app.get("/gate/{name}/staying", cancel_on_disconnect=False)
    async def staying_gate(request: Request, name: str):
        return await gate(request, name)

    @app.post("/echo")
    async def echo(request: Request):
        return Response(await request.body(), status=201, headers={"x-kind": "echo"})

    @app.post("/fields")
    async def fields(request: Request):
        return {**dict(request.headers), "body": (await request.body()).decode()}

    @app.post("/pieces")
    async def pieces(request: Request):
        return [len(piece) async for piece in request.stream()]

    @app.post("/ignore")
    def ignore():
        return "ignored"

    @app.post("/ignore-async")
    async def ignore_async(request: Request):
        return "ignored"

    @app.get("/raise")
    def fail():
        raise ValueError("a secret of the server")

    @app.get("/raise-async")
    async def fail_async():
        raise ValueError("a secret of the server")

    @app.get("/raise-later")
    async def fail_later():
        await asyncio.sleep(0)
        raise ValueError("a secret of the server")

    @app.get("/teapot")
    def teapot():
        raise HTTPError(418, "short and stout", headers={"x-pot": "1"})

    @app.get("/big/{size:int}")
    def big(size: int):
        return b"x" * size

    @app.get("/big-async/{size:int}")
    async def big_async(size: int):
        await asyncio.sleep(0)
        return b"x" * size

    @app.get("/close")
    def close():
        return Response("bye", headers={"connection": "close"})

    return app


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    with running_loop(request.param) as loop:
        yield loop


@pytest.fixture(params=[*((kind, "native") for kind in KINDS), ("fake", "httptools")], ids="-".join)
def bench(request, loop):
    kind, http = request.param
    bench = Bench(make_app(), loop, kind, http=http)
    bench.app = bench.engine.app
    yield bench
    bench.close()


@pytest.fixture
def link(bench):
    return bench.connect()


def open_gate(bench, name, value="open"):
    bench.app.state.gates[name].set_result(value)
    bench.turn()


def test_a_request_is_answered(link):
    """A handler's str becomes a 200 with type, length, date and server."""
    link.send(request("/"))

    reply = link.reply()
    assert (reply.status, reply.reason, reply.body) == (200, "OK", b"Hello, World!")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["server"] == "fastserve"
    assert reply.headers["date"].endswith(" GMT")
    assert "connection" not in reply.headers
    assert not link.closed


def test_every_split_of_a_request_has_the_same_answer(bench):
    """Where a request is cut into reads does not matter."""
    data = request("/echo", method="POST", body=b"four", X_Long="v" * 40)
    for cut in range(1, len(data)):
        link = bench.connect()
        link.send(data[:cut], data[cut:])
        assert (link.reply().status, link.reply().body) == (201, b"four"), cut
        link.drop()


def test_a_request_byte_by_byte_is_answered(link):
    """The slowest possible sender is understood."""
    data = request("/echo", method="POST", body=b"four")
    link.send(*[data[i : i + 1] for i in range(len(data))])

    assert link.reply().body == b"four"


def test_pipelined_requests_are_answered_in_order_in_one_send(bench):
    """All answers of one read leave in one write (RFC 9112 section 9.3.2)."""
    link = bench.connect()
    link.send(request("/") + request("/async") + request("/teapot") + request("/"))

    assert [reply.status for reply in link.replies()] == [200, 200, 418, 200]
    if bench.kind == "fake":
        assert len(link.transport.writes) == 1


def test_suspended_answers_keep_the_order_of_their_requests(bench):
    """Sixteen pipelined requests that finish backwards are answered forwards."""
    link = bench.connect()
    link.send(b"".join(request(f"/gate/g{i}") for i in range(16)))
    assert link.received == b""

    for i in reversed(range(16)):
        open_gate(bench, f"g{i}", f"answer {i}")

    assert [reply.body for reply in link.replies()] == [b"answer %d" % i for i in range(16)]


def test_a_quick_answer_waits_behind_a_slow_one(bench):
    """A sync handler behind a suspended one runs at once, its answer keeps its place."""
    link = bench.connect()
    link.send(request("/gate/slow") + request("/") + request("/teapot"))
    assert link.received == b""

    open_gate(bench, "slow")

    bodies = [reply.body for reply in link.replies()]
    assert bodies == [b"open", b"Hello, World!", b"short and stout"]


def test_no_more_than_max_pipelined_are_begun(loop):
    """The seventeenth waits until one of the sixteen before it is answered."""
    bench = Bench(make_app(), loop, "fake", max_pipelined=16)
    link = bench.connect()
    link.send(b"".join(request(f"/gate/g{i}") for i in range(20)))
    gates = bench.engine.app.state.gates
    assert len(gates) == 16

    gates["g0"].set_result("open")
    bench.turn()

    assert len(gates) == 17
    bench.close()


def test_an_unsafe_request_waits_for_those_before_it(bench):
    """POST is not begun beside another request (RFC 9112 section 9.3.2)."""
    link = bench.connect()
    link.send(request("/gate/a") + request("/gate/b", method="POST", body=b""))
    assert set(bench.app.state.gates) == {"a"}

    open_gate(bench, "a")
    assert set(bench.app.state.gates) == {"a", "b"}
    open_gate(bench, "b")

    assert [reply.status for reply in link.replies()] == [200, 200]


def test_a_request_behind_an_unsafe_one_waits(bench):
    """GET is not begun beside a POST that still runs."""
    link = bench.connect()
    link.send(request("/gate/a", method="POST", body=b"") + request("/gate/b"))
    assert set(bench.app.state.gates) == {"a"}

    open_gate(bench, "a")

    assert set(bench.app.state.gates) == {"a", "b"}


def test_a_long_pipeline_is_worked_off_in_turns(bench):
    """A thousand requests in one read are all answered, though no turn does them all."""
    link = bench.connect()
    link.send(request("/") * 1000)
    bench.wait_for(lambda: len(read_replies(link.received)[0]) == 1000)

    if bench.kind == "fake":
        assert len(link.transport.writes) > 10


def test_a_greedy_client_does_not_starve_others(loop):
    """Between two turns of a long pipeline, others are served."""
    bench = Bench(make_app(), loop, "fake")
    greedy, modest = bench.connect(), bench.connect()

    served = []
    loop.call_soon(greedy.protocol.data_received, request("/") * 1000)
    loop.call_soon(modest.protocol.data_received, request("/"))
    loop.call_soon(lambda: served.append(len(read_replies(greedy.received)[0])))
    bench.turn()

    assert served[0] < 100
    assert modest.reply().status == 200
    assert len(greedy.replies()) == 1000
    bench.close()


def test_bytes_behind_a_request_are_kept(link):
    """Half of the next request waits for its other half."""
    second = request("/teapot")
    link.send(request("/") + second[:20])
    assert [reply.status for reply in link.replies()] == [200]

    link.send(second[20:])

    assert [reply.status for reply in link.replies()] == [200, 418]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_what_is_no_request_is_refused_once_and_the_connection_ends(link, data, status):
    """One answer with its status, Connection: close, and nothing behind it is looked at."""
    link.send(data + request("/"))

    reply = link.reply()
    assert reply.status == status
    assert reply.headers["connection"] == "close"
    assert link.closed


def test_a_refusal_comes_after_the_answers_before_it(bench):
    """A bad request behind a slow good one does not overtake it."""
    link = bench.connect()
    link.send(request("/gate/a") + b"NONSENSE\r\n\r\n" + request("/"))
    assert link.received == b""

    open_gate(bench, "a")

    assert [reply.status for reply in link.replies()] == [200, 400]
    assert link.closed


def test_nothing_is_parsed_behind_an_error(bench):
    """The request behind a malformed one never reaches the application (CVE-2024-49768)."""
    link = bench.connect()
    link.send(b"BAD\r\n\r\n" + request("/gate/never"))
    link_received = link.reply().status
    if not link.closed:
        link.send(request("/gate/never"))

    assert link_received == 400
    assert bench.app.state.gates == {}


@pytest.mark.parametrize(
    ("version", "connection", "says", "closes"),
    [
        ("1.1", None, None, False),
        ("1.1", "keep-alive", None, False),
        ("1.1", "close", "close", True),
        ("1.1", "Close, x-foo", "close", True),
        ("1.0", None, "close", True),
        ("1.0", "keep-alive", "keep-alive", False),
        ("1.0", "close", "close", True),
    ],
)
def test_persistence_follows_version_and_connection(link, version, connection, says, closes):
    """RFC 9112 section 9.3, both versions."""
    line = "" if connection is None else f"Connection: {connection}\r\n"
    link.send(f"GET / HTTP/{version}\r\nHost: a\r\n{line}\r\n".encode())

    assert link.reply().headers.get("connection") == says
    assert link.closed is closes


def test_a_response_may_close_the_connection(link):
    """Connection: close set by a handler is said and done; what follows is not answered."""
    link.send(request("/close") + request("/"))

    assert link.reply().headers["connection"] == "close"
    assert link.closed


def test_head_has_the_headers_of_get_and_no_body(link):
    """The Content-Length of a HEAD is that of the GET (RFC 9110 section 9.3.2)."""
    link.send(request("/", method="HEAD") + request("/"))

    first, second = link.replies("HEAD", "GET")
    assert first.headers["content-length"] == "13"
    assert first.body == b""
    assert second.body == b"Hello, World!"


def test_unknown_paths_and_methods(link):
    """404, 405 with Allow, 204 with Allow for OPTIONS, 400 for a broken escape."""
    link.send(
        request("/nowhere")
        + request("/echo")
        + request("/echo", method="OPTIONS")
        + request("*", method="OPTIONS")
        + request("/%zz")
    )

    replies = link.replies()
    assert [reply.status for reply in replies] == [404, 405, 204, 204, 400]
    assert replies[1].headers["allow"] == "POST, OPTIONS"
    assert replies[2].headers["allow"] == "POST, OPTIONS"
    assert "GET" in replies[3].headers["allow"]
    assert "content-length" not in replies[2].headers


@pytest.mark.parametrize("path", ["/raise", "/raise-async", "/raise-later"])
def test_an_exception_is_a_500_that_tells_nothing(link, caplog, path):
    """The traceback is in the log; not a word of it is on the wire."""
    with caplog.at_level(logging.ERROR, "fastserve.error"):
        link.send(request(path))
        link.bench.wait_for(lambda: link.received)

    reply = link.reply()
    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert b"secret" not in link.received
    assert "a secret of the server" in caplog.text
    assert path in caplog.text
    assert not link.closed


def test_an_http_error_is_its_status(link):
    """HTTPError gives status, detail and headers."""
    link.send(request("/teapot"))

    reply = link.reply()
    assert (reply.status, reply.body, reply.headers["x-pot"]) == (418, b"short and stout", "1")


def test_a_body_is_read(link):
    """await request.body() is the body, of a length or chunked, and the next request is seen."""
    chunked = (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: 1\r\n\r\n"
    )
    link.send(request("/echo", method="POST", body=b"one") + chunked + request("/"))
    link.bench.wait_for(lambda: len(read_replies(link.received)[0]) == 3)

    assert [reply.body for reply in link.replies()] == [b"one", b"abcdefg", b"Hello, World!"]


def test_a_body_in_pieces_streams(bench):
    """stream() gives what has arrived, before the rest has."""
    link = bench.connect()
    link.send(b"POST /pieces HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    for piece in (b"abc", b"def", b"ghi"):
        link.send(piece)

    assert link.reply().body == b"[3,3,3]"


def test_a_body_over_the_limit_is_413(link):
    """body() refuses what is longer than max_body_bytes, before it has come."""
    link.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n")

    assert link.reply().status == 413
    assert link.reply().headers["connection"] == "close"
    assert link.closed


@pytest.mark.parametrize("http", ["native", "httptools"])
def test_a_chunked_body_over_the_limit_is_413(loop, http):
    """A body without a length is refused when it grows over the limit."""
    bench = Bench(make_app(), loop, "fake", http=http, max_body_bytes=1000)
    link = bench.connect()
    link.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(11):
        if link.closed:
            break
        link.send(b"64\r\n" + b"a" * 100 + b"\r\n")

    assert link.reply().status == 413
    bench.close()


def test_a_malformed_chunked_body_is_400_and_the_end(bench):
    """A broken chunk reaches the handler as an error; nothing behind it is parsed."""
    link = bench.connect()
    link.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n"
        + request("/gate/never")
    )
    bench.wait_for(lambda: link.received)

    assert link.reply().status == 400
    assert link.closed
    assert bench.app.state.gates == {}


@pytest.mark.parametrize("path", ["/ignore", "/ignore-async"])
def test_an_unread_body_is_thrown_away(link, path):
    """A short body that nobody read is skipped, and the connection goes on."""
    body = b"x" * 5000
    data = request(path, method="POST", body=body)
    link.send(data[:-4000], data[-4000:] + request("/"))

    assert [reply.body for reply in link.replies()] == [b"ignored", b"Hello, World!"]
    assert not link.closed


def test_a_long_unread_body_ends_the_connection(link):
    """What is too long to throw away is answered with Connection: close."""
    link.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\nxxx")

    assert link.reply().headers["connection"] == "close"
    assert link.closed


def test_an_endless_unread_chunked_body_ends_the_connection(link):
    """More chunks than are worth throwing away end the connection."""
    link.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert link.reply().status == 200
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    for _ in range(10):
        if link.closed:
            break
        link.send(chunk)

    assert link.closed
    assert link.reply().status == 200


def test_100_continue_is_sent_when_the_handler_wants_the_body(link):
    """The invitation goes out first, the final answer after the body (RFC 9110 section 10.1.1)."""
    link.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    assert [reply.status for reply in link.replies()] == [100]

    link.send(b"abc")

    assert [reply.status for reply in link.replies()] == [100, 201]
    assert not link.closed


def test_no_invitation_when_the_body_is_there_already(link):
    """A client that did not wait needs no 100."""
    link.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"
    )

    assert [reply.status for reply in link.replies()] == [201]


def test_an_answer_without_the_invited_body_ends_the_connection(link):
    """A final answer instead of 100 closes: the body may come or not."""
    link.send(
        b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )

    assert link.reply().headers["connection"] == "close"
    assert link.closed


def test_a_413_comes_instead_of_the_invitation(link):
    """A body that is too long is refused before it is sent."""
    link.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )

    assert [reply.status for reply in link.replies()] == [413]


@pytest.mark.parametrize("size", [31 * 1024, 33 * 1024, 300_000, 8_000_000])
@pytest.mark.parametrize("path", ["/big", "/big-async"])
def test_large_bodies_arrive_whole(bench, path, size):
    """Copied or by reference, at once or in many sends."""
    link = bench.connect()
    link.send(request("/") + request(f"{path}/{size}") + request("/"))
    bench.wait_for(
        lambda: link.received_bytes > size and len(read_replies(link.received)[0]) == 3)

    replies = link.replies()
    assert [len(reply.body) for reply in replies] == [13, size, 13]
    assert replies[1].body == b"x" * size


def test_a_client_that_does_not_read_stops_being_served(loop):
    """With the way out full, no further request is begun and reading pauses."""
    bench = Bench(make_app(), loop, "fake")
    link = bench.connect()
    link.protocol.pause_writing()
    link.send(request("/"))
    assert not link.transport.reading
    assert link.received == b""

    loop.call_soon(link.protocol.resume_writing)
    bench.turn()

    assert link.transport.reading
    assert link.reply().status == 200
    bench.close()


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
def test_back_pressure_of_a_real_socket(loop, kind):
    """A pipeline of large answers to a client that does not read is held back, then goes on."""
    bench = Bench(make_app(), loop, kind)
    link = bench.connect()
    bench.links.clear()
    data = request("/big/1000000") * 24
    link.socket.setblocking(True)
    link.socket.sendall(data)
    bench.turn()
    assert bench.engine.requests_total < 24

    link.socket.setblocking(False)
    bench.links.append(link)
    bench.wait_for(lambda: len(link.received) > 24_000_000)

    assert [len(reply.body) for reply in link.replies()] == [1_000_000] * 24
    bench.close()


def test_a_body_nobody_takes_pauses_reading(loop):
    """stream() that is not consumed holds the client back."""
    app = make_app()

    @app.post("/hold")
    async def hold(request: Request):
        stream = request.stream()
        first = await anext(stream)
        app.state.gates["hold"] = gate = asyncio.get_running_loop().create_future()
        await gate
        return sum([len(piece) async for piece in stream], len(first))

    bench = Bench(app, loop, "fake")
    link = bench.connect()
    link.send(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n", b"x" * 50_000)
    assert link.transport.reading
    link.send(b"x" * 200_000)
    assert not link.transport.reading

    app.state.gates["hold"].set_result(None)
    bench.turn()
    assert link.transport.reading
    link.send(b"x" * 150_000)

    assert link.reply().body == b"400000"
    bench.close()


def test_pipelined_input_is_bounded(loop):
    """While the connection cannot go on, at most a bounded amount of input is taken."""
    bench = Bench(make_app(), loop, "fake")
    link = bench.connect()
    link.send(request("/gate/a", method="POST", body=b""))
    for _ in range(40):
        if not link.transport.reading:
            break
        link.send(request("/", X_Pad="p" * 7000))

    assert not link.transport.reading
    bench.engine.app.state.gates["a"].set_result("open")
    bench.turn()
    assert link.transport.reading
    bench.close()


@pytest.mark.parametrize("http", ["native", "httptools"])
def test_a_head_may_be_larger_than_what_is_kept_of_a_pipeline(loop, http):
    """Reading does not pause inside a head: with larger limits, the rest must still come."""
    bench = Bench(
        make_app(), loop, "fake", http=http, max_head_bytes=300_000, max_field_bytes=200_000
    )
    link = bench.connect()
    data = request("/", X_Long="v" * 150_000)
    for start in range(0, len(data), 30_000):
        assert link.transport.reading
        link.send(data[start : start + 30_000])

    assert link.reply().status == 200
    bench.close()


def test_a_client_that_leaves_cancels_its_get(bench):
    """Nobody waits for the answer of a GET whose client is gone."""
    link = bench.connect()
    link.send(request("/gate/a"))
    assert bench.engine.requests_in_flight == 1
    link.drop()
    bench.wait_for(lambda: bench.app.state.log)

    assert bench.app.state.log == ["a cancelled"]
    assert bench.engine.requests_in_flight == 0
    assert bench.engine.connections == 0


@pytest.mark.parametrize("targets", [["/handler"], ["/stream"], ["/handler", "/handler"]])
def test_a_client_that_leaves_does_not_interrupt_what_cleans_up(loop, targets):
    """TLS tells the end of input, and the loss in a later turn: a handler hears of it once."""
    app = App()
    log, cleaned = [], loop.create_future()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(cleaned)
            task = asyncio.current_task()
            log.append(task.cancelling() if hasattr(task, "cancelling") else 1)

    @app.get("/handler")
    async def handler():
        await work()

    @app.get("/stream")
    async def stream():
        await asyncio.sleep(0)

        async def pieces():
            yield "begun"
            await work()

        return pieces()

    with contextlib.closing(Bench(app, loop, "fake")) as bench:
        link = bench.connect()
        link.send(b"".join(map(request, targets)))
        link.send_eof()
        if not link.closed:
            link.drop()
        assert log == []
        cleaned.set_result(None)
        bench.turn()
        assert log == [1] * len(targets)
        assert bench.engine.requests_in_flight == 0


def test_a_client_that_leaves_does_not_cut_a_post_in_half(bench):
    """A handler of another method runs to its end."""
    link = bench.connect()
    link.send(request("/gate/a", method="POST", body=b""))
    link.drop()
    bench.wait_for(lambda: bench.engine.connections == 0)
    assert bench.app.state.log == []

    open_gate(bench, "a")

    assert bench.app.state.log == ["a done"]
    assert bench.engine.requests_in_flight == 0


def test_a_route_may_ask_to_be_cancelled(bench):
    """cancel_on_disconnect=True cancels a POST as well."""
    link = bench.connect()
    link.send(request("/gate/a/leaving", method="POST", body=b""))
    link.drop()
    bench.wait_for(lambda: bench.app.state.log)

    assert bench.app.state.log == ["a cancelled"]


def test_a_client_that_leaves_inside_its_body(bench, caplog):
    """The handler gets ClientDisconnect; that is no error of ours."""
    link = bench.connect()
    link.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    link.drop()
    bench.wait_for(lambda: bench.engine.requests_in_flight == 0)

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_half_close_inside_a_body_is_answered(link):
    """Who only said too early that no more comes can still read the 400."""
    link.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    link.send_eof()

    assert link.reply().status == 400
    assert link.closed


def test_a_route_may_ask_not_to_be_cancelled(bench):
    """cancel_on_disconnect=False lets a GET run to its end."""
    link = bench.connect()
    link.send(request("/gate/a/staying"))
    link.drop()
    open_gate(bench, "a")

    assert bench.app.state.log == ["a done"]


def test_a_handler_behind_middleware_is_cancelled_all_the_same(loop):
    """The client's leaving reaches through every layer, and each may clean up."""
    app = make_app()

    @app.middleware
    async def layer(request, call_next):
        try:
            return await call_next(request)
        finally:
            app.state.log.append("layer left")

    bench = Bench(app, loop, "socket")
    bench.app = app
    link = bench.connect()
    link.send(request("/gate/a"))
    link.drop()
    bench.wait_for(lambda: len(app.state.log) == 2)

    assert app.state.log == ["a cancelled", "layer left"]
    bench.close()


def test_half_close_behind_requests_gets_the_answers(link):
    """A client that has said all it will still reads; then the server closes."""
    link.send(request("/") * 3)
    link.send_eof()

    assert len(link.replies()) == 3
    assert link.closed


def test_half_close_with_a_long_pipeline_gets_all_answers(link):
    """The end of input does not drop what was sent before it."""
    data = request("/") * 500
    if link.bench.kind == "fake":
        link.protocol.data_received(data)
        assert link.protocol.eof_received()
    else:
        link.socket.setblocking(True)
        link.socket.sendall(data)
        link.socket.shutdown(1)
        link.socket.setblocking(False)
    link.bench.wait_for(lambda: link.closed)

    assert len(link.replies()) == 500


def test_half_close_waits_for_a_post(bench):
    """A POST in progress is answered after the end of input."""
    link = bench.connect()
    link.send(request("/gate/a", method="POST", body=b""))
    link.send_eof()
    assert not link.closed

    open_gate(bench, "a")

    assert link.reply().body == b"open"
    assert link.closed


def test_half_close_is_gone_for_a_get(bench):
    """A GET whose client ended its input is cancelled."""
    link = bench.connect()
    link.send(request("/gate/a"))
    link.send_eof()
    bench.wait_for(lambda: link.closed)

    assert bench.app.state.log == ["a cancelled"]
    assert link.received == b""


@pytest.mark.parametrize("second", ["/", "/gate/b", "/gate/b/staying"])
def test_nothing_is_answered_behind_a_request_that_is_not(bench, second):
    """A client that reads on would take it for the answer to the one before."""
    link = bench.connect()
    link.send(request("/gate/a") + request(second))
    link.send_eof()
    bench.wait_for(lambda: link.closed)

    assert bench.app.state.log[0] == "a cancelled"
    assert link.received == b""
    assert bench.engine.requests_in_flight == 0


def test_half_close_in_a_head_just_closes(link):
    """Half a request and no more is nothing to answer."""
    link.send(b"GET / HT")
    link.send_eof()

    assert link.received == b""
    assert link.closed


def test_a_refused_client_can_read_the_answer_while_it_sends(bench):
    """After an error the server half-closes and reads on for a while (RFC 9112 section 9.6)."""
    link = bench.connect()
    link.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")
    assert link.reply().status == 413
    assert bench.engine.connections == 1
    if bench.kind != "fake":
        link.send(b"x" * 1000)
        link.send_eof()
    else:
        assert link.transport.ended
        assert not link.transport.closed
        link.send(b"x" * 1000)
        link.send_eof()
    bench.wait_for(lambda: bench.engine.connections == 0)


def test_lingering_is_bounded_in_bytes(bench):
    """A client that goes on sending is cut off."""
    link = bench.connect()
    link.send(b"NONSENSE\r\n\r\n")
    for _ in range(5):
        if bench.engine.connections == 0:
            break
        try:
            link.send(b"x" * 100_000)
        except ConnectionError:
            break
    bench.wait_for(lambda: bench.engine.connections == 0)


def test_the_fields_of_each_request_are_its_own(bench):
    """Same, other, longer and shorter fields, in any order on one connection."""
    link = bench.connect()
    sizes = [1, 1, 2, 1, 3000, 3000, 1, 300, 301, 300, 2, 2]
    for size in sizes:
        body = b"b" * min(size, 9)
        data = b"POST /fields HTTP/1.1\r\nHost: a\r\nX: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            b"v" * size, len(body), body)  # fmt: skip
        link.send(data)
        link.send(data[:30], data[30:])
    # The same fields as the last: but this version closes.
    link.send(data.replace(b"1.1", b"1.0"))
    bench.wait_for(lambda: bench.engine.connections == 0)

    replies = [json.loads(reply.body) for reply in link.replies()]
    sent = [size for size in sizes for _ in range(2)] + sizes[-1:]
    assert [len(reply["x"]) for reply in replies] == sent
    assert [len(reply["body"]) for reply in replies] == [min(size, 9) for size in sent]


def test_a_request_keeps_its_fields_when_others_come(loop):
    """What a handler kept reads as it was sent, whether the next ones had the same fields."""
    app = App()
    kept = []

    @app.get("/")
    def keep(request: Request):
        kept.append(request)

    bench = Bench(app, loop, "fake")
    link = bench.connect()
    sent = ["a", "a", "a", "a", "bb", "a", "bb", "bb", "bb", "c", "c", "c"]
    for nth, value in enumerate(sent):
        link.send(request(f"/?nth={nth}", x_value=value))
    assert [request.query["nth"] for request in kept] == [str(nth) for nth in range(len(sent))]
    assert [request.headers["x-value"] for request in kept] == sent
    assert [len(request.headers) for request in kept] == [2] * len(sent)
    bench.close()


def test_lingering_is_bounded_in_time(bench):
    """A client that stays silent is dropped after two seconds of the clock."""
    link = bench.connect()
    link.send(b"NONSENSE\r\n\r\n")
    for _ in range(7):
        bench.clock.now_s += 0.25
        bench.engine.tick()
        bench.turn()
    assert bench.engine.connections == 1

    for _ in range(3):
        bench.clock.now_s += 0.25
        bench.engine.tick()
        bench.turn()
    bench.wait_for(lambda: bench.engine.connections == 0)
    assert link.reply().status == 400


def test_draining_closes_idle_connections(bench):
    """drain() ends what is idle at once."""
    link = bench.connect()
    link.send(request("/"))
    bench.engine.drain()
    bench.wait_for(lambda: bench.engine.connections == 0)

    assert link.reply().status == 200
    assert link.closed


def test_draining_answers_what_has_come_and_was_not_read(loop):
    """Closing a connection with a request in it unread would reset it."""
    with contextlib.closing(Bench(make_app(), loop, "socket")) as bench:
        fresh, used = bench.connect(), bench.connect()
        used.send(request("/"))
        for link in (fresh, used):
            link.socket.send(request("/"))
        bench.engine.drain()
        bench.wait_for(lambda: fresh.closed and used.closed)

        for link, count in ((fresh, 1), (used, 2)):
            replies = link.replies()
            assert [reply.status for reply in replies] == [200] * count
            assert replies[-1].headers["connection"] == "close"
            assert link.closed


@pytest.mark.parametrize("says_something", [True, False])
def test_draining_waits_a_second_for_the_first_request_of_a_connection(bench, says_something):
    """It was accepted, so its request is under way; but nobody waits for the silent for long."""
    link = bench.connect()
    bench.engine.drain()
    bench.turn()
    assert not link.closed
    if says_something:
        link.send(request("/"))
        assert link.reply().headers["connection"] == "close"
    else:
        for _ in range(6):
            bench.clock.now_s += 0.25
            bench.engine.tick()
            bench.turn()
        assert link.received == b""
    bench.wait_for(lambda: bench.engine.connections == 0)
    assert link.closed


def test_draining_lets_a_request_finish_and_says_close(bench):
    """A request in progress is answered, with Connection: close."""
    link = bench.connect()
    link.send(request("/gate/a"))
    bench.engine.drain()
    bench.turn()
    assert not link.closed

    open_gate(bench, "a")

    assert link.reply().headers["connection"] == "close"
    assert link.closed


def test_draining_closes_behind_an_answer_that_did_not_say_so(bench):
    """It was made before, and had to wait for another one's turn."""
    link = bench.connect()
    link.send(request("/gate/a") + request("/"))
    bench.loop.call_soon(bench.engine.drain)
    bench.turn()
    assert not link.closed

    open_gate(bench, "a")
    bench.wait_for(lambda: bench.engine.connections == 0)

    assert [reply.status for reply in link.replies()] == [200, 200]
    assert link.closed


def test_draining_closes_behind_a_body_that_is_thrown_away(bench):
    """Its request was answered before, and the connection was to go on."""
    link = bench.connect()
    link.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
    assert link.reply().status == 200
    bench.loop.call_soon(bench.engine.drain)
    bench.turn()
    link.send(b"abc")
    assert not link.closed

    link.send(b"def")
    bench.wait_for(lambda: bench.engine.connections == 0)

    assert link.reply().status == 200
    assert link.closed


def test_draining_answers_a_whole_pipeline_before_it_says_close(bench):
    """What has come is answered; nobody need ask again what nobody has looked at."""
    link = bench.connect()
    bench.engine.draining = True
    link.send(request("/") * 2 + request("/async"))
    bench.turn()

    replies = link.replies()

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert [reply.headers.get("connection") for reply in replies] == [None, None, "close"]
    assert link.closed


def test_the_end_does_not_wait_for_whole_pipelines(bench):
    """Behind drain() the next answer is the last: a client could go on for ever."""
    link = bench.connect()
    bench.engine.drain()
    link.send(request("/") * 3)
    bench.turn()

    assert link.reply().headers["connection"] == "close"
    assert link.closed


def test_abort_cancels_and_drops(bench):
    """abort() leaves nothing running."""
    link = bench.connect()
    link.send(request("/gate/a", method="POST", body=b""))
    bench.engine.abort()
    bench.wait_for(lambda: bench.engine.connections == 0 and bench.app.state.log)

    assert bench.app.state.log == ["a cancelled"]
    assert bench.engine.requests_in_flight == 0


def test_context_variables_do_not_leak(loop):
    """What a handler sets in the context is gone for the next request, sync or async."""
    variable = contextvars.ContextVar("variable", default="clean")
    app = App()

    @app.get("/sync")
    def sync():
        seen = variable.get()
        variable.set("dirty")
        return seen

    @app.get("/async")
    async def coroutine():
        seen = variable.get()
        variable.set("dirty")
        await asyncio.sleep(0)
        return [seen, variable.get()]

    bench = Bench(app, loop, "fake")
    link = bench.connect()
    link.send((request("/sync") + request("/async")) * 2)

    assert [reply.body for reply in link.replies()] == [b"clean", b'["clean","dirty"]'] * 2
    bench.close()


def test_context_variables_of_exception_handlers_do_not_leak(loop):
    """A synchronous one may bind what it likes, at once, later, and when nobody waits for it."""
    variable = contextvars.ContextVar("variable", default="clean")
    app = App()
    app.state.gate = loop.create_future()

    @app.exception_handler(KeyError)
    def handle(request, error):
        seen = variable.get()
        variable.set("dirty")
        return seen

    @app.get("/raise")
    def raises():
        raise KeyError

    @app.get("/raise-later")
    async def raises_later():
        await asyncio.sleep(0)
        raise KeyError

    @app.post("/raise-alone")
    async def raises_alone():
        await app.state.gate
        raise KeyError

    @app.get("/sync")
    def sync():
        return variable.get()

    @app.get("/async")
    async def coroutine():
        await asyncio.sleep(0)
        return variable.get()

    with contextlib.closing(Bench(app, loop, "fake")) as bench:
        gone = bench.connect()
        gone.send(request("/raise-alone", method="POST"))
        gone.drop()
        app.state.gate.set_result(None)
        bench.turn()
        link = bench.connect()
        for path in ("/raise", "/raise-later", "/raise-later"):
            link.send(request(path) + request("/sync") + request("/async"))
            link.send(request("/async"))
        assert [reply.body for reply in link.replies()] == [b"clean"] * 12


def test_the_date_is_refreshed_by_the_tick(loop):
    """Date follows the wall clock at every tick (RFC 9110 section 6.6.1)."""
    wall = [784111777.0]
    bench = Bench(make_app(), loop, "fake", wall_clock=lambda: wall[0])
    link = bench.connect()
    link.send(request("/"))
    wall[0] += 1
    bench.engine.tick()
    link.send(request("/") + request("/async") + request("/teapot"))

    dates = [reply.headers["date"] for reply in link.replies()]
    assert dates == ["Sun, 06 Nov 1994 08:49:37 GMT"] + ["Sun, 06 Nov 1994 08:49:38 GMT"] * 3
    bench.close()


def test_connections_are_counted(bench):
    """engine.connections follows accepts and closes."""
    links = [bench.connect() for _ in range(5)]
    for link in links:
        link.send(request("/"))
    assert bench.engine.connections == 5
    for link in links:
        link.drop()
    bench.wait_for(lambda: bench.engine.connections == 0)


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
def test_stop_listening_serves_what_is_queued(loop, kind):
    """Connections that the kernel has accepted for us are not lost."""
    bench = Bench(make_app(), loop, kind)
    import socket

    clients = [socket.create_connection(bench.address) for _ in range(20)]
    bench.engine.stop_listening()
    for client in clients:
        client.sendall(request("/"))
    bench.wait_for(lambda: bench.engine.requests_total == 20)
    bench.turn()
    for client in clients:
        client.settimeout(5)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        client.close()
    bench.close()


def test_the_client_address_is_known(bench):
    """request.client has host and port."""
    app = App()

    @app.get("/")
    def who(request: Request):
        return [request.client.host, request.client.port]

    own = Bench(app, bench.loop, bench.kind)
    link = own.connect()
    link.send(request("/"))

    if own.kind == "fake":
        assert link.reply().body == b'["192.0.2.7",4711]'
    else:
        host, port = link.socket.getsockname()
        assert link.reply().body == f'["{host}",{port}]'.encode()
    own.close()
