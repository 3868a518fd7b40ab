"""Memory stays flat: after a warm-up, a great many requests leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest
import uvloop
from support import FakeTransport, request, running_loop

from fastserve import App, HTTPError, Request, Response

BATCH = 64


def make_app() -> App:
    app = App()

    @app.get("/")
    def home():
        return "Hello, World!"

    @app.get("/json")
    async def greeting():
        return {"message": "Hello, World!"}

    @app.get("/users/{id:int}/{name}")
    async def user(request: Request, id: int, name: str):
        return {"id": id, "name": name, "q": request.query["q"], "host": request.headers["host"]}

    @app.post("/echo")
    async def echo(request: Request):
        return Response(await request.body(), status=201, headers={"x-kind": "echo"})

    @app.get("/later")
    async def later():
        await asyncio.sleep(0)
        return "later"

    @app.get("/fail")
    def fail():
        raise HTTPError(400, "no")

    return app


class Sink(FakeTransport):
    """A transport that only counts."""

    count = 0

    def write(self, data) -> None:
        """Forget it."""
        self.count += 1


CHUNKED = request("/echo", method="POST", Transfer_Encoding="chunked") + b"3\r\nabc\r\n0\r\n\r\n"
MIXES = {
    "sync": (request("/"), 1_000_000),
    "async": (request("/json"), 200_000),
    "params": (request("/users/7/x?q=1"), 100_000),
    "body": (request("/echo", method="POST", body=b"x" * 100), 100_000),
    "chunked": (CHUNKED, 20_000),
    "suspended": (request("/later"), 50_000),
    "errors": (request("/fail") + request("/nowhere") + request("/", method="PUT"), 30_000),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("http", ["native", "httptools"])
def test_requests_leave_nothing_behind(mix, http):
    """Blocks, objects and resident memory after many requests are those after few."""
    data, count = MIXES[mix]
    if http == "httptools":
        count //= 20
    with running_loop(uvloop.new_event_loop) as loop:
        engine = make_app().build_engine(loop, http=http)
        protocol = engine.protocol()
        transport = Sink(loop, protocol)
        protocol.connection_made(transport)
        batch = data * BATCH

        def serve(requests: int) -> tuple[int, int]:
            async def work():
                for _ in range(requests // BATCH):
                    loop.call_soon(protocol.data_received, batch)   # no task may be current
                    target[0] += BATCH * data.count(b" HTTP/1.1")
                    while engine.requests_in_flight or engine.requests_total < target[0]:
                        await asyncio.sleep(0)

            loop.run_until_complete(work())
            gc.collect()
            return sys.getallocatedblocks(), len(gc.get_objects())

        target = [0]
        serve(BATCH * 40)
        blocks, objects = serve(BATCH * 40)
        resident = resident_bytes()
        more_blocks, more_objects = serve(count)

        assert more_objects - objects <= 20
        assert more_blocks - blocks <= 200
        if resident is not None:
            assert resident_bytes() - resident < 2 << 20
        engine.close()


def resident_bytes() -> int | None:
    """Of this process, where the system tells."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096
    except OSError:
        return None


def test_connections_leave_nothing_behind():
    """Many connections, half of them dropped inside a request, are forgotten."""
    with running_loop(uvloop.new_event_loop) as loop:
        engine = make_app().build_engine(loop)

        def come_and_go(data: bytes) -> None:
            protocol = engine.protocol()
            protocol.connection_made(Sink(loop, protocol))
            protocol.data_received(data)
            protocol.connection_lost(None)

        def connect(count: int) -> tuple[int, int]:
            async def work():
                for i in range(count):
                    loop.call_soon(come_and_go, request("/later") + request("/")[: i % 20])
                    if i % 50 == 0:
                        await asyncio.sleep(0)
                await asyncio.sleep(0)
                while engine.requests_in_flight:
                    await asyncio.sleep(0)

            loop.run_until_complete(work())
            gc.collect()
            return sys.getallocatedblocks(), len(gc.get_objects())

        connect(500)
        blocks, objects = connect(500)
        more_blocks, more_objects = connect(20_000)

        assert engine.connections == 0
        assert more_objects - objects <= 20
        assert more_blocks - blocks <= 200
        engine.close()
