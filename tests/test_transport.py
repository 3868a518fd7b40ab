"""The sockets of our own: what is read, and when."""

import asyncio

import pytest
from support import Bench, read_replies, request, running_loop

from fastserve import App


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
@pytest.mark.parametrize("first", [200_000, 256 * 1024, 290_000])
def test_what_arrives_while_nobody_reads_is_read_later(kind, first):
    """Reading pauses for a handler that waits; the rest comes meanwhile, and nothing after it."""
    app, gate = App(), asyncio.Event()

    @app.post("/")
    async def count(request):
        await gate.wait()
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return str(size)

    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, kind)
        try:
            link = bench.connect()
            link.send(request(method="POST", Content_Length="300000"), b"x" * first)
            link.send(b"x" * (300_000 - first))
            gate.set()
            bench.wait_for(lambda: read_replies(link.received)[0] != [], turns=200)
            assert link.reply().body == b"300000"
        finally:
            bench.close()


@pytest.mark.parametrize("kind", ["socket", "reader"])
@pytest.mark.parametrize("requests_before", [0, 1])
def test_a_request_that_came_in_the_last_moment_is_answered(kind, requests_before):
    """It waits unread in the kernel when its connection has been idle for too long."""
    app = App()
    app.get("/")(lambda: "there")

    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, kind, keep_alive_timeout_s=2, header_timeout_s=2)
        try:
            link = bench.connect()
            for _ in range(requests_before):
                link.send(request())
            for _ in range(8):
                bench.clock.now_s += 0.25
                bench.engine.tick()
            assert not link.closed
            link.socket.send(request())
            for _ in range(3):
                bench.clock.now_s += 0.25
                bench.engine.tick()
            bench.turn()
            assert [reply.body for reply in link.replies()] == [b"there"] * (requests_before + 1)
            for _ in range(13):
                bench.clock.now_s += 0.25
                bench.engine.tick()
            bench.wait_for(lambda: link.closed)
        finally:
            bench.close()


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
@pytest.mark.parametrize("size", [65_535, 65_536, 131_072, 131_073, 400_000])
def test_a_large_body_ends_where_it_ends(kind, size):
    """However it comes: its pieces are its bytes, and what is behind it is the next request."""
    app = App()
    body = bytes(index * 7 % 251 for index in range(size))

    @app.post("/")
    async def echo(request):
        if request.query.get("whole"):
            return await request.body()
        return b"".join([piece async for piece in request.stream()])

    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, kind)
        try:
            link = bench.connect()
            heads = [request(path, method="POST", Content_Length=str(size))
                     for path in ("/", "/?whole=1")]
            link.send(heads[0], body + heads[1] + body[:10], body[10:] + heads[0] + body)
            link.send(heads[1], body[:70_000], body[70_000:] + heads[0], body[:1], body[1:])
            bench.wait_for(lambda: len(read_replies(link.received)[0]) == 5)
            assert all(reply.body == body for reply in link.replies())
        finally:
            bench.close()
