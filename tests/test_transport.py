"""The sockets of our own: what is read, and when."""

import asyncio
import contextlib
import os
import socket
import sys

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


@pytest.fixture(params=["socket", "reader"])
def early(request):
    """A bench whose clients have connected, and sent all they will, before it looks."""
    app = App()
    app.get("/")(lambda: "home")

    @app.get("/later")
    async def later():
        await asyncio.sleep(0)
        return "later"

    @app.post("/size")
    async def size(request):
        return str(sum([len(piece) async for piece in request.stream()]))

    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, request.param, max_body_bytes=1 << 20)

        def come(*pieces: bytes) -> socket.socket:
            client = socket.create_connection(bench.address, timeout=5)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
            clients.append(client)
            return client

        clients: list[socket.socket] = []
        bench.come = come
        yield bench
        for client in clients:
            client.close()
        bench.close()


def said(bench, client, enough):
    """What a client hears, until it is enough."""
    heard = b""
    client.setblocking(False)

    def listen():
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            while piece := client.recv(1 << 20):
                heard += piece
            return True
        return enough(heard)

    bench.wait_for(listen, turns=200)
    return heard


def bodies(heard):
    return [reply.body for reply in read_replies(heard)[0]]


def one(heard):
    return len(bodies(heard)) == 1


def test_a_client_that_was_quick_is_answered_and_heard_again(early):
    """Its request came with its connection; the next one comes while that is idle."""
    client = early.come(request())
    for _ in range(3):
        assert bodies(said(early, client, one)) == [b"home"]
        client.sendall(request())
    assert early.engine.connections == 1


@pytest.mark.parametrize(("target", "body"), [("/", b"home"), ("/later", b"later")])
def test_a_quick_client_may_have_ended_already(early, target, body):
    """A request and a FIN that are there when it is accepted: an answer, and the end."""
    client = early.come(request(target))
    client.shutdown(socket.SHUT_WR)
    assert bodies(said(early, client, lambda heard: False)) == [body]
    early.wait_for(lambda: early.engine.connections == 0, turns=200)


@pytest.mark.parametrize("close", [True, False])
def test_quick_clients_beside_old_ones_get_their_own_answers(early, close):
    """More at once than one turn has places for: kept connections, and new ones."""
    old = [early.come(request()) for _ in range(60)]
    assert [bodies(said(early, client, one)) for client in old] == [[b"home"]] * 60
    old += [early.come(request()) for _ in range(60)]
    assert [bodies(said(early, client, one)) for client in old[60:]] == [[b"home"]] * 60
    for client in old:
        client.sendall(request("/none"))
    fields = {"Connection": "close"} if close else {}
    new = [early.come(request(**fields)) for _ in range(60)]
    assert [bodies(said(early, client, one)) for client in new] == [[b"home"]] * 60
    assert [bodies(said(early, client, one)) for client in old] == [[b"Not Found"]] * 120
    assert early.engine.connections == (120 if close else 180)


def test_half_a_head_that_came_early_waits_for_the_rest(early):
    """Nothing is answered before it is whole."""
    client = early.come(request()[:20])
    early.turn()
    assert early.engine.connections == 1
    client.sendall(request()[20:])
    assert bodies(said(early, client, one)) == [b"home"]


@pytest.mark.parametrize("size", [10, 128 * 1024, 400_000])
def test_a_body_that_came_early_is_whole(early, size):
    """As much as the kernel holds before it is accepted, and the rest behind it."""
    client = early.come(request("/size", method="POST", Content_Length=str(size)))
    client.setblocking(False)
    left = size
    while left:
        with contextlib.suppress(BlockingIOError):
            left -= client.send(b"x" * left)
            continue
        early.turn()
    assert bodies(said(early, client, one)) == [str(size).encode()]


def test_a_client_that_came_and_went_leaves_nothing(early):
    """With a request or without, by FIN or by RST."""
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for pieces in ((), (request(),)):
        for reset in (False, True):
            client = early.come(*pieces)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.close()
    early.turn()
    early.wait_for(lambda: early.engine.connections == 0, turns=200)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
