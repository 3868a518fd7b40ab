"""Clients that take their time, and more requests than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
import uvloop
from support import Bench, request, running_loop

from fastserve import App, FileResponse, Request

KINDS = ("fake", "socket", "reader", "loop")


def make_app() -> App:
    app = App()
    app.state.log = []
    app.state.gates = {}

    @app.get("/")
    def home():
        return "home"

    @app.get("/gate/{name}")
    async def gate(name: str):
        app.state.gates[name] = opened = asyncio.get_running_loop().create_future()
        app.state.log.append(f"{name} begun")
        return await opened

    @app.get("/quick/{name}", handler_timeout_s=3)
    async def quick(name: str):
        return await gate(name)

    @app.get("/endless/{name}", handler_timeout_s=0)
    async def endless(name: str):
        return await gate(name)

    @app.get("/stubborn", handler_timeout_s=1)
    async def stubborn():
        try:
            return await gate("stubborn")
        except asyncio.CancelledError:
            return "its own answer"

    @app.get("/stream", handler_timeout_s=1)
    async def stream():
        yield "begun"
        yield await gate("stream")

    @app.get("/late-stream", handler_timeout_s=1)
    async def late_stream():
        yield await gate("late-stream")

    @app.post("/body")
    async def body(request: Request):
        return str(len(await request.body()))

    @app.post("/late")
    async def late(request: Request):
        await gate("late")
        return str(len(await request.body()))

    @app.post("/ignore")
    async def ignore():
        return await gate("ignore")

    @app.get("/large/{size:int}")
    def large(size: int):
        return b"x" * size

    @app.get("/pieces/{size:int}")
    async def pieces(size: int):
        while True:
            yield b"x" * size

    @app.get("/file")
    def file():
        return FileResponse(app.state.file)

    return app


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    with running_loop(request.param) as loop:
        yield loop


def make_bench(loop, kind, **settings):
    bench = Bench(make_app(), loop, kind, **settings)
    bench.app = bench.engine.app
    return bench


@pytest.fixture(params=KINDS)
def bench(request, loop):
    bench = make_bench(loop, request.param)
    yield bench
    bench.close()


@pytest.fixture
def link(bench):
    return bench.connect()


def wait(bench, seconds, step=0.25):
    """Let time pass, as the worker does: a tick every quarter of a second."""
    for _ in range(round(seconds / step)):
        bench.clock.now_s += step
        bench.engine.tick()
    bench.turn()


def open_gate(bench, name, value="open"):
    bench.loop.call_soon(bench.app.state.gates[name].set_result, value)
    bench.turn()


def statuses(link):
    return [reply.status for reply in link.replies()]


# --- heads -----------------------------------------------------------------------------------


def test_a_connection_that_sends_nothing_is_closed_after_ten_seconds(bench, link, caplog):
    """No 408: no request was begun. The log says why."""
    caplog.set_level(logging.INFO)
    wait(bench, 9.75)
    assert not link.closed

    wait(bench, 1)
    assert link.closed
    assert link.received == b""
    assert "it sent nothing" in caplog.text


def test_a_head_has_ten_seconds_however_its_bytes_come(bench, link, caplog):
    """Bytes do not reset the deadline: a head in drops is answered 408."""
    caplog.set_level(logging.INFO)
    wait(bench, 5)
    head = iter(request("/"))
    for _ in range(9):
        link.send(bytes([next(head)]))
        wait(bench, 1)
    assert not link.closed

    wait(bench, 2)
    assert link.reply().status == 408
    assert link.reply().headers["connection"] == "close"
    assert link.closed
    assert "its request head did not come in time" in caplog.text


def test_one_byte_after_a_response_is_a_head_that_was_begun(bench, link):
    """The keep-alive time ends with the first byte of the next request."""
    link.send(request("/"), b"G")
    wait(bench, 11)

    assert statuses(link) == [200, 408]
    assert link.closed


def test_each_head_has_its_own_ten_seconds(bench, link):
    """Slow, but in time, as often as a client likes."""
    for _ in range(3):
        link.send(request("/")[:10])
        wait(bench, 8)
        link.send(request("/")[10:])

    assert statuses(link) == [200, 200, 200]
    assert not link.closed


@pytest.mark.parametrize("idle_s", [0.5, 2, 5])
def test_a_keep_alive_shorter_than_a_head_may_take_is_kept_to(loop, idle_s):
    """However often the connection was busy before, and when it was looked at."""
    bench = make_bench(loop, "fake", keep_alive_timeout_s=idle_s)
    link = bench.connect()
    for pause in (0.25, idle_s - 0.25, 0.25):
        link.send(request("/"))
        wait(bench, pause)
    assert not link.closed
    link.send(request("/"))
    wait(bench, idle_s - 0.25)
    assert not link.closed
    wait(bench, 0.75)
    assert link.closed
    bench.close()


def test_an_idle_connection_stays_seventy_five_seconds(bench, link):
    """Longer than a load balancer's minute (RFC 9112 section 9.8); counted from the answer."""
    link.send(request("/"))
    wait(bench, 50)
    link.send(request("/"))
    wait(bench, 74.5)
    assert not link.closed

    wait(bench, 1.5)
    assert link.closed
    assert statuses(link) == [200, 200]


def test_a_head_that_waits_behind_a_handler_is_not_late(bench, link):
    """Nobody can be late with a request while the one before is being answered."""
    link.send(request("/gate/a"), request("/")[:10])
    wait(bench, 60)
    assert not link.closed

    open_gate(bench, "a")
    link.send(request("/")[10:])
    assert statuses(link)[:2] == [200, 200]


# --- bodies ----------------------------------------------------------------------------------


def begin_body(link, path="/body", size=100_000):
    link.send(request(path, method="POST", content_length=str(size)), b"x")


def test_a_body_in_drops_is_refused_when_its_rate_counts(bench, link, caplog):
    """One byte every two seconds is below 500 a second: 408 after the grace of ten."""
    caplog.set_level(logging.INFO)
    begin_body(link)
    for _ in range(4):
        wait(bench, 2)
        link.send(b"x")
    wait(bench, 1.75)
    assert link.received == b""

    wait(bench, 1)
    assert link.reply().status == 408
    assert "its request body did not come in time" in caplog.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_at_a_fair_rate_may_take_its_time(bench, link, chunked):
    """600 bytes a second are enough, for as long as it takes."""
    if chunked:
        link.send(request("/body", method="POST", transfer_encoding="chunked"))
    else:
        link.send(request("/body", method="POST", content_length="36000"))
    for _ in range(60):
        link.send(b"258\r\n" + b"x" * 600 + b"\r\n" if chunked else b"x" * 600)
        wait(bench, 1)
    if chunked:
        link.send(b"0\r\n\r\n")

    assert link.reply().body == b"36000"


def test_a_body_that_stops_is_refused_after_thirty_seconds(bench, link):
    """However much came before."""
    begin_body(link, size=500_000)
    link.send(b"x" * 100_000)
    wait(bench, 29.5)
    assert link.received == b""

    wait(bench, 1)
    assert link.reply().status == 408


def test_a_body_that_nobody_reads_is_not_late(bench, link):
    """While the handler does not take it, reading pauses, and the clock with it."""
    link.send(request("/late", method="POST", content_length="300000"), b"x" * 200_000)
    wait(bench, 100)
    assert link.received == b""

    open_gate(bench, "late")
    wait(bench, 5)
    link.send(b"x" * 100_000)
    assert link.reply().body == b"300000"


def test_a_client_that_waits_to_be_asked_is_not_late(bench, link):
    """Expect: 100-continue: its time begins with our 100 (RFC 9110 section 10.1.1)."""
    link.send(request("/late", method="POST", content_length="5", expect="100-continue"))
    wait(bench, 100)
    assert link.received == b""

    open_gate(bench, "late")
    assert b"100 Continue" in link.received
    wait(bench, 31)
    assert b"408" in link.received


def test_a_body_that_comes_unasked_is_late_like_any_other(bench, link):
    """Who begins to send does not wait to be asked, whatever its Expect said."""
    link.send(request("/late", method="POST", content_length="5", expect="100-continue"), b"x")
    open_gate(bench, "late")
    wait(bench, 9.5)
    assert link.received == b""

    wait(bench, 1)
    assert link.reply().status == 408


def test_a_body_that_comes_unasked_and_is_not_wanted_may_not_stop_either(bench, link):
    """It is thrown away for as long as it comes: then the connection ends."""
    link.send(request("/ignore", method="POST", content_length="5", expect="100-continue"), b"x")
    open_gate(bench, "ignore")
    assert link.reply().status == 200
    wait(bench, 9.5)
    assert not link.closed

    wait(bench, 1)
    assert link.closed


def test_a_slow_body_that_no_handler_wants_ends_the_connection(bench, link):
    """The handler's answer comes all the same, and is the last."""
    begin_body(link, "/ignore")
    wait(bench, 31)
    open_gate(bench, "ignore")

    assert link.reply().status == 200
    assert link.reply().headers["connection"] == "close"


# --- output ----------------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_dropped_after_thirty_seconds(loop, caplog):
    """Its answer waits in vain; the log says so."""
    caplog.set_level(logging.INFO)
    bench = make_bench(loop, "socket")
    link = bench.connect()
    link.poll = lambda: False
    link.socket.sendall(request("/large/20000000"))
    bench.turn()
    wait(bench, 29.5)
    assert bench.engine.connections == 1

    wait(bench, 1)
    assert bench.engine.connections == 0
    assert "does not read its answer" in caplog.text
    bench.close()


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
def test_a_client_that_reads_slowly_is_not_dropped(loop, kind):
    """Any progress begins the time anew."""
    bench = make_bench(loop, kind)
    link = bench.connect()
    poll, link.poll = link.poll, lambda: False
    link.socket.sendall(request("/large/50000000"))
    bench.turn()
    for _ in range(4):
        wait(bench, 20)
        wanted = len(link.buffer) + 4_500_000
        while len(link.buffer) < wanted:
            with contextlib.suppress(BlockingIOError):
                link.buffer += link.socket.recv(1 << 20)
            bench.turn()
        assert bench.engine.connections == 1
    link.poll = poll
    bench.wait_for(lambda: len(link.received) > 50_000_000)
    bench.close()


def keep_full(bench, link):
    """Have a fake transport be full behind every write; the function that takes some of it.

    Its size does not tell that: what was taken made room for as much again.
    """
    paused = False
    write = link.transport.write

    def write_and_pause(data):
        nonlocal paused
        write(data)
        if not paused:
            paused = True
            link.protocol.pause_writing()

    def take():
        nonlocal paused
        paused = False
        bench.loop.call_soon(link.protocol.resume_writing)
        bench.turn()

    link.transport.write = write_and_pause
    link.transport.get_write_buffer_size = lambda: 65_558
    return take


@pytest.mark.parametrize("target", ["/pieces/100", "/pieces/20000", "/file"])
def test_a_client_that_reads_is_not_dropped_however_full_its_buffer_stays(loop, tmp_path, target):
    """TLS fills it to the same size again and again: what left it counts, not what is in it."""
    bench = make_bench(loop, "fake")
    bench.app.state.file = tmp_path / "file"
    bench.app.state.file.write_bytes(b"x" * 1_000_000)
    link = bench.connect()
    take = keep_full(bench, link)
    link.send(request(target))
    for _ in range(4):
        before = link.received_bytes
        take()
        bench.wait_for(lambda before=before: link.received_bytes > before)
        wait(bench, 20)
    assert not link.closed

    wait(bench, 11)
    assert link.transport.aborted
    bench.close()


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
def test_the_last_answer_may_be_read_slowly_like_any_other(loop, kind):
    """Bytes behind the last request are thrown away for two seconds, and do not cut its answer."""
    bench = make_bench(loop, kind)
    link = bench.connect()
    poll, link.poll = link.poll, lambda: False
    link.socket.sendall(request("/large/20000000", connection="close") + b"\r\n")
    bench.turn()
    wait(bench, 20)
    link.poll = poll
    bench.wait_for(lambda: link.closed)
    assert len(link.reply().body) == 20_000_000

    wait(bench, 5)
    assert bench.engine.connections == 0
    bench.close()


def test_the_time_to_linger_begins_when_the_answer_is_gone(loop):
    """Two seconds from then on, and the time to look twice; who never reads has write_timeout_s."""
    bench = make_bench(loop, "fake")
    link, deaf = bench.connect(), bench.connect()
    unsent = 1000
    link.transport.get_write_buffer_size = lambda: unsent
    deaf.transport.get_write_buffer_size = lambda: 1000
    link.send(b"NONSENSE\r\n\r\n")
    deaf.send(b"NONSENSE\r\n\r\n")
    wait(bench, 15)
    assert link.transport.ended
    assert not link.transport.aborted

    unsent = 0
    wait(bench, 2)
    assert not link.transport.aborted
    wait(bench, 3)
    assert link.transport.aborted
    assert not deaf.transport.aborted
    wait(bench, 13)
    assert deaf.transport.aborted
    bench.close()


# --- handlers --------------------------------------------------------------------------------


def test_a_handler_with_a_timeout_is_ended(bench, link, caplog):
    """504, and the connection stays; the route says how long."""
    caplog.set_level(logging.INFO)
    link.send(request("/quick/a") + request("/"))
    wait(bench, 2.75)
    assert link.received == b""

    wait(bench, 1)
    assert statuses(link) == [504, 200]
    assert not link.closed
    assert "its handler is ended" in caplog.text


def test_the_servers_timeout_is_overridden_by_the_routes(loop):
    """handler_timeout_s of the server for all that have none; 0 at a route is no limit."""
    bench = make_bench(loop, "fake", handler_timeout_s=5.0)
    slow, endless = bench.connect(), bench.connect()
    slow.send(request("/gate/slow"))
    endless.send(request("/endless/a"))
    wait(bench, 6)

    assert slow.reply().status == 504
    assert endless.received == b""
    open_gate(bench, "a")
    assert endless.reply().status == 200
    bench.close()


def test_a_handler_that_ignores_its_end_is_answered_by_itself(bench, link):
    """Cancelling is a request; what the handler returns counts."""
    link.send(request("/stubborn"))
    wait(bench, 2)

    assert link.reply().body == b"its own answer"


def test_a_stream_that_does_not_begin_is_ended(bench, link):
    """A generator's time is up to its first piece, and from its turn on."""
    link.send(request("/endless/a") + request("/late-stream"))
    wait(bench, 3)
    open_gate(bench, "a")
    bench.wait_for(lambda: "late-stream begun" in bench.app.state.log)
    wait(bench, 0.5)
    assert statuses(link) == [200]

    wait(bench, 1)
    assert statuses(link) == [200, 504]
    assert not link.closed
    assert bench.engine.requests_in_flight == 0


def test_a_body_that_has_begun_is_not_ended_by_the_handlers_timeout(bench, link):
    """The timeout is for the answer to begin; what reads it is watched otherwise."""
    link.send(request("/stream"))
    wait(bench, 10)
    open_gate(bench, "stream")

    assert link.received.endswith(b"4\r\nopen\r\n0\r\n\r\n")


# --- too many at once ------------------------------------------------------------------------


def crowded(loop, **settings):
    settings = {"max_in_flight": 2, "max_queued": 2, "queue_timeout_s": 0.1} | settings
    return make_bench(loop, "fake", **settings)


def test_requests_above_the_limit_wait_for_one_to_end(loop):
    """The newest first; their handlers have not begun."""
    bench = crowded(loop)
    links = [bench.connect() for _ in range(4)]
    for link, name in zip(links, "abcd", strict=True):
        link.send(request(f"/gate/{name}"))
    assert bench.app.state.log == ["a begun", "b begun"]

    open_gate(bench, "a")
    assert bench.app.state.log == ["a begun", "b begun", "d begun"]
    open_gate(bench, "b")
    assert bench.app.state.log[-1] == "c begun"
    open_gate(bench, "c")
    open_gate(bench, "d")
    assert [link.reply().status for link in links] == [200] * 4
    bench.close()


def test_requests_above_the_queue_are_answered_at_once(loop):
    """503 with Retry-After; the connection stays usable."""
    bench = crowded(loop, max_queued=0, retry_after_s=7)
    for name in "ab":
        bench.connect().send(request(f"/gate/{name}"))
    link = bench.connect()
    link.send(request("/gate/c") + request("/gate/d"))

    assert statuses(link) == [503, 503]
    assert link.replies()[0].headers["retry-after"] == "7"
    assert not link.closed
    open_gate(bench, "a")
    link.send(request("/"))
    assert statuses(link) == [503, 503, 200]
    bench.close()


def test_requests_that_wait_too_long_are_shed(loop):
    """The oldest first, after queue_timeout_s."""
    bench = crowded(loop)
    links = [bench.connect() for _ in range(4)]
    for link, name in zip(links, "abcd", strict=True):
        link.send(request(f"/gate/{name}"))
    bench.clock.now_s += 0.2
    bench.loop.run_until_complete(asyncio.sleep(0.15))
    bench.turn()

    assert [link.reply().status for link in links[2:]] == [503, 503]
    assert not links[2].closed
    bench.close()


QUEUED = {
    "close": (request("/", Connection="close"), False, 200),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", False, 200),
    "half-closed": (request("/"), True, 200),
    "half-closed behind a body": (request("/body", method="POST", body=b"abc"), True, 200),
    "half-closed behind chunks": (
        request("/body", method="POST", transfer_encoding="chunked") + b"1\r\na\r\n0\r\n\r\n",
        True, 200),
    "half-closed in a body": (request("/body", method="POST", body=b"abc")[:-1], True, 400),
}


@pytest.mark.parametrize("kind", QUEUED)
@pytest.mark.parametrize("in_time", [True, False])
def test_who_waits_is_answered_though_nothing_follows(loop, kind, in_time):
    """The last request of a connection waits for its turn as any other does."""
    data, half_closes, status = QUEUED[kind]
    with contextlib.closing(crowded(loop)) as bench:
        for name in "ab":
            bench.connect().send(request(f"/gate/{name}"))
        link = bench.connect()
        link.send(data)
        if half_closes:
            link.send_eof()
        assert not link.closed

        if in_time:
            open_gate(bench, "a")
        else:
            bench.clock.now_s += 0.2
        bench.wait_for(lambda: link.closed)
        assert statuses(link) == [status if in_time else 503]


def test_a_client_that_leaves_the_queue_is_forgotten(loop):
    """Its place is free, and its handler never begins."""
    bench = crowded(loop)
    links = [bench.connect() for _ in range(4)]
    for link, name in zip(links, "abcd", strict=True):
        link.send(request(f"/gate/{name}"))
    links[3].drop()
    other = bench.connect()
    other.send(request("/gate/e"))
    assert other.received == b""
    open_gate(bench, "a")

    assert bench.app.state.log == ["a begun", "b begun", "e begun"]
    bench.close()


def test_idle_connections_are_no_load(loop):
    """Only requests under way count."""
    bench = crowded(loop)
    idle = [bench.connect() for _ in range(20)]
    for link in idle:
        link.send(request("/"))

    assert [link.reply().status for link in idle] == [200] * 20
    bench.close()


# --- the wheel -------------------------------------------------------------------------------


def test_time_in_which_the_loop_did_not_run_counts_for_nobody(bench):
    """A blocked loop, a suspended machine: no client is late because we were."""
    old = bench.connect()
    bench.clock.now_s += 1000
    new = bench.connect()
    new.send(request("/"))
    bench.engine.tick()
    bench.turn()
    assert not old.closed
    assert not new.closed

    wait(bench, 11)
    assert old.closed
    wait(bench, 62)
    assert not new.closed
    wait(bench, 4)
    assert new.closed


def test_deadlines_can_be_turned_off(loop):
    """0 is no limit."""
    bench = make_bench(
        loop, "fake", header_timeout_s=0, keep_alive_timeout_s=0, body_timeout_s=0,
        body_min_rate_bytes_s=0)
    silent, idle, half, body = (bench.connect() for _ in range(4))
    idle.send(request("/"))
    half.send(request("/")[:9])
    begin_body(body)
    wait(bench, 1000, step=1)

    assert not any(link.closed for link in (silent, idle, half, body))
    bench.close()


def test_a_crowd_that_is_due_together_is_ended_a_few_at_a_time(loop):
    """No stall for those who are in time: the rest of a slot waits for the loop's next turn."""
    bench = make_bench(loop, "fake")
    links = [bench.connect() for _ in range(1000)]
    for _ in range(40):
        bench.clock.now_s += 0.25
        bench.engine.tick()
    assert bench.engine.connections == 1000

    bench.clock.now_s += 0.25
    bench.engine.tick()
    assert sum(link.closed for link in links) == 32
    bench.wait_for(lambda: bench.engine.connections == 0)
    bench.close()
