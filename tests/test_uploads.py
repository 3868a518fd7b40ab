"""Request bodies at length: limits, back-pressure and memory of body(), json() and stream()."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import tracemalloc

import pytest
from support import Bench, request, running_loop

from fastserve import App, Request

KINDS = ["fake", "socket", "reader", "loop"]


def make_app():
    app = App()
    app.state.taken = 0

    @app.post("/body")
    async def body(request: Request):
        return len(await request.body())

    @app.post("/own")
    async def own(request: Request):
        return len(await request.body(max_bytes=5000))

    @app.post("/small", max_body_bytes=10)
    async def small(request: Request):
        return len(await request.body())

    @app.post("/json")
    async def decoded(request: Request):
        return await request.json()

    @app.post("/stream")
    async def stream(request: Request):
        return sum([len(piece) async for piece in request.stream()])

    @app.post("/stream-small", max_body_bytes=10)
    async def stream_small(request: Request):
        return sum([len(piece) async for piece in request.stream()])

    @app.post("/slow")
    async def slow(request: Request):
        async for piece in request.stream():
            app.state.taken += len(piece)
            await app.state.gate
        return app.state.taken

    return app


@pytest.fixture
def loop():
    with running_loop(asyncio.new_event_loop) as loop:
        yield loop


@pytest.fixture(params=KINDS)
def bench(request, loop):
    """An app behind every kind of transport; limits of 1000 bytes."""
    bench = Bench(make_app(), loop, request.param, max_body_bytes=1000)
    yield bench
    bench.close()


def head(target, length=None):
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {target} HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n".encode()


def ask(bench, *pieces):
    """The reply to a request in pieces; once there is one, the rest is not sent."""
    link = bench.connect()
    for piece in pieces:
        if link.received:
            break
        link.send(piece)
    bench.wait_for(lambda: link.received)
    return link.reply()


LIMITS = [("/body", 1000), ("/json", 1000), ("/small", 10), ("/stream-small", 10), ("/own", 5000)]


@pytest.mark.parametrize(("target", "limit"), LIMITS)
def test_a_limit_holds_to_the_byte(bench, target, limit):
    """What is at it is read, one byte more is 413: with a length, chunked, at once."""
    for size, status in ((limit, 200), (limit + 1, 413)):
        body = b"0." + b"1" * (size - 2)
        assert ask(bench, head(target, size) + body).status == status
        assert ask(bench, head(target, size), body).status == status
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        assert ask(bench, head(target) + chunk).status == status
        assert ask(bench, head(target), chunk[:7], chunk[7:]).status == status


@pytest.mark.parametrize(("target", "limit"), LIMITS)
def test_a_limit_holds_when_fed_byte_by_byte(loop, target, limit):
    """Accumulated over the reads, not counted per read; it stops where the limit is passed."""
    for framed in (False, True):
        bench = Bench(make_app(), loop, "fake", max_body_bytes=1000)
        link = bench.connect()
        link.send(head(target))
        sent = 0
        while not link.received and sent <= limit + 1:
            link.send(*([b"1", b"\r", b"\n", b"7", b"\r", b"\n"] if framed else [b"1\r\n7\r\n"]))
            sent += 1
        assert (sent, link.reply().status) == (limit + 1, 413)
        bench.close()


@pytest.mark.parametrize("target", ["/body", "/json", "/stream-small", "/small"])
def test_a_length_over_the_limit_is_413_before_anything_is_read(bench, target):
    """No 100 Continue, and no wait for what was announced."""
    link = bench.connect()
    link.send(head(target, 2**40).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    bench.wait_for(lambda: link.received)

    assert [reply.status for reply in link.replies()] == [413]


def test_reading_pauses_while_nobody_takes(bench):
    """A handler that waits holds the client back; what it has, and no more, is in memory."""
    app = bench.engine.app
    app.state.gate = bench.loop.create_future()
    link = bench.connect()
    total = 24 * 1024 * 1024        # more than socket buffers hold
    piece = b"x" * 65536
    link.send(head("/slow", total))
    sent = stalled = 0
    while sent < total and stalled < 40:
        at = sent
        if bench.kind == "fake":
            if link.transport.reading:
                link.send(piece)
                sent += len(piece)
            else:
                stalled += 1
        else:
            try:
                sent += link.socket.send(piece)
            except BlockingIOError:
                stalled += 1
            bench.turn()
        stalled = 0 if sent > at else stalled
    assert sent < total
    assert app.state.taken <= 512 * 1024

    app.state.gate.set_result(None)
    while sent < total:
        rest = piece[: min(len(piece), total - sent)]
        link.send(rest)
        sent += len(rest)
    bench.wait_for(lambda: link.received)
    assert link.reply().body == b"%d" % total


def test_a_body_taken_whole_never_pauses(bench):
    """body() wants all of it, up to the limit, whatever a pause would be."""
    app = make_app()
    other = Bench(app, bench.loop, bench.kind, max_body_bytes=10_000_000)
    link = other.connect()
    link.send(head("/body", 5_000_000), b"x" * 5_000_000)
    other.wait_for(lambda: link.received)
    assert link.reply().body == b"5000000"
    other.close()


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_a_body_is_whole_however_late_it_is_asked_for(loop, bench, size):
    """What came before body() and what comes behind it, with a length and in chunks."""
    app = App()
    content = bytes(index * 7 % 251 for index in range(size))
    got = []

    @app.post("/")
    async def late(request: Request):
        await app.state.gate
        got.append(await request.body())

    other = Bench(app, loop, bench.kind, max_body_bytes=4_000_000)
    half = size // 2
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:half], content[half:])]
    for pieces in ([head("/", size), content], [head("/"), *chunks, b"0\r\n\r\n"]):
        app.state.gate = loop.create_future()
        link = other.connect()
        link.send(pieces[0])
        loop.call_later(0.05, app.state.gate.set_result, None)
        link.send(*pieces[1:])
        other.wait_for(lambda link=link: link.received)
        assert link.reply().status == 204
    assert got == [content, content]
    other.close()


def test_a_body_that_was_given_up_can_still_be_streamed(loop):
    """A task in body() is cancelled half-way: stream() gives all, and holds the client back."""
    app = App()
    content = bytes(index * 7 % 251 for index in range(400_000))

    @app.post("/")
    async def changed_mind(request: Request):
        whole = asyncio.ensure_future(request.body())
        await app.state.gate
        whole.cancel()
        pieces = []
        async for piece in request.stream():
            pieces.append(piece)
            await app.state.next
        return b"".join(pieces)

    bench = Bench(app, loop, "fake")
    app.state.gate, app.state.next = loop.create_future(), loop.create_future()
    link = bench.connect()
    link.send(head("/", len(content)), content[:100_000], content[100_000:200_000])
    assert link.transport.reading
    app.state.gate.set_result(None)
    bench.turn()
    link.send(content[200_000:300_000], content[300_000:390_000])
    assert not link.transport.reading
    app.state.next.set_result(None)
    bench.wait_for(lambda: link.transport.reading)
    link.send(content[390_000:])
    bench.wait_for(lambda: link.received)

    assert link.reply().body == content
    bench.close()


@pytest.mark.parametrize("ended_by", ["limit", "cancellation"])
def test_what_body_has_given_up_does_not_pile_up(loop, ended_by):
    """It has raised 413, or was cancelled, and the answer takes its time: reading pauses."""
    app = App()
    app.state.patience, app.state.answer = loop.create_future(), loop.create_future()

    @app.middleware
    async def takes_its_time(request, call_next):
        response = await call_next(request)
        await app.state.answer
        return response

    @app.post("/limit")
    async def limit(request: Request):
        await request.body(max_bytes=1000)

    @app.post("/cancellation")
    async def cancellation(request: Request):
        whole = asyncio.ensure_future(request.body(max_bytes=-1))
        await app.state.patience
        whole.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await whole

    with contextlib.closing(Bench(app, loop, "fake")) as bench:
        link = bench.connect()
        link.send(head(f"/{ended_by}"), b"7fffffff\r\n", b"x" * 100_000)
        app.state.patience.set_result(None)
        bench.turn()
        sent = 100_000
        while link.transport.reading and sent < 4_000_000:
            link.send(b"x" * 50_000)
            sent += 50_000
        assert sent < 300_000
        assert not link.received

        app.state.answer.set_result(None)
        bench.turn()
        assert link.reply().status == (413 if ended_by == "limit" else 204)


def test_a_promised_length_is_not_believed(loop):
    """A terabyte is announced where that is allowed: what has come decides what is kept for it."""
    bench = Bench(make_app(), loop, "fake", max_body_bytes=1 << 41)
    link = bench.connect()
    tracemalloc.start()
    try:
        link.send(head("/body", 1 << 40), b"x" * 1000, b"x" * 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert link.transport.reading
    assert not link.received
    assert peak < 17 << 20      # address space; the next test counts memory
    bench.close()


CLAIMS = """
import asyncio, socket
from fastserve import App, Request

app = App()
begun = 0

@app.post("/")
async def whole(request: Request):
    global begun
    begun += 1
    await request.body()

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

loop = asyncio.new_event_loop()
engine = app.build_engine(loop)
listener = socket.create_server(("127.0.0.1", 0), backlog=300)
listener.setblocking(False)
engine.listen(listener)

async def claim(count):
    until = begun + count
    for _ in range(count):
        client = socket.create_connection(listener.getsockname())
        client.sendall(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 1048576\\r\\n\\r\\nx")
        clients.append(client)
    while begun < until:
        await asyncio.sleep(0.01)

clients = []
loop.run_until_complete(claim(10))
before = resident()
loop.run_until_complete(claim(200))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is read from /proc")
def test_clients_that_promise_take_no_memory():
    """200 of them announce a MiB and send one byte of it: 32 KiB each at most."""
    done = subprocess.run(
        [sys.executable, "-c", CLAIMS], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 200 * 32


def test_a_million_tiny_chunks_are_not_quadratic(loop):
    """CVE-2025-69229: ten times the chunks take about ten times the CPU, for each way to read."""

    def cost(target, count):
        bench = Bench(make_app(), loop, "fake", max_body_bytes=1_000_000)
        link = bench.connect()
        link.send(head(target))
        begun = time.process_time()
        for _ in range(count // 1000):
            link.protocol.data_received(b"1\r\nx\r\n" * 1000)
        link.send(b"0\r\n\r\n")
        spent = time.process_time() - begun
        assert link.reply().body == b"%d" % count
        bench.close()
        return spent

    for target in ("/body", "/stream"):
        once = max(cost(target, 100_000) for _ in range(3))
        assert min(cost(target, 1_000_000) for _ in range(2)) <= 3 * 10 * once


UPLOAD = """
import asyncio, socket, sys, threading
import uvloop
from fastserve import App, Request

app = App()

@app.post("/")
async def count(request: Request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return size

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def send(address, size, answers):
    with socket.create_connection(address) as client:
        client.sendall(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
        piece = memoryview(bytearray(65536))
        while size:
            size -= client.send(piece[:size])
        answers.append(client.recv(1000))
    loop.call_soon_threadsafe(loop.stop)

loop = uvloop.new_event_loop()
engine = app.build_engine(loop)
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
engine.listen(listener)

def upload(size):
    answers = []
    thread = threading.Thread(target=send, args=(listener.getsockname(), size, answers))
    thread.start()
    loop.run_forever()
    thread.join()
    assert answers[0].endswith(b"\\r\\n\\r\\n%d" % size), answers

upload(1 << 20)
before = peak()
upload({size})
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_long_upload_takes_no_memory(tmp_path):
    """100 MiB to a handler that counts them: at most 8 MiB more than one MiB took.

    A quarter of a MiB is in use; the rest is what glibc's heap keeps between pieces, 3.5 MiB
    on a busy machine, no more of it for 800 MiB.
    """
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD.format(size=100 << 20)], capture_output=True, text=True,
        check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 8 << 10


def test_small_pieces_do_not_cost_an_object_each(loop):
    """Two bytes a chunk, as many as a body may hold: memory stays within four times the body."""
    app = App()
    sizes = []

    @app.post("/")
    async def whole(request: Request):
        sizes.append(len(await request.body()))

    bench = Bench(app, loop, "fake")
    link = bench.connect()
    link.send(request("/", method="POST", transfer_encoding="chunked"))
    piece = b"2\r\nab\r\n" * 1000
    tracemalloc.start()
    try:
        for _ in range(200):
            link.protocol.data_received(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    link.send(b"0\r\n\r\n")

    assert sizes == [400_000]
    assert peak < 4 * 400_000
    bench.close()
