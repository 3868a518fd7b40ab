"""Turning without sleeping: busy_poll_us, on a loop that says when it would sleep."""

from __future__ import annotations

import asyncio
import selectors

import pytest
from support import Bench, Clock, request, running_loop

from fastserve import App

STEP_S = 10e-6      # that the clock moves in a turn of the loop
FEW_TURNS = 20


class Selector(selectors.DefaultSelector):
    """Moves the clock; stops the loop at a given time, or where it would sleep."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.loop = None
        self.stop_at_s = float("inf")

    def select(self, timeout=None):
        self.clock.now_s += STEP_S
        ready = super().select(0)
        if self.clock.now_s >= self.stop_at_s or (timeout != 0 and not ready):
            self.loop.stop()
        return ready


class Awake:
    """A server on such a loop, and a connection to it."""

    def __init__(self, loop, selector, kind, busy_poll_us):
        self.app = App()
        self.loop, self.selector = loop, selector
        self.awaited = loop.create_future()

        @self.app.get("/")
        def home():
            return "here"

        @self.app.get("/wait")
        async def wait():
            return await self.awaited

        self.bench = Bench(
            self.app, loop, kind, clock=selector.clock, busy_poll_us=busy_poll_us)
        self.link = self.bench.connect()
        self.run()

    def run(self, for_s=float("inf")):
        """Let it run until it would sleep, or for that time; returns for how long, in µs."""
        begun_s = self.selector.clock.now_s
        self.selector.stop_at_s = begun_s + for_s
        self.loop.run_forever()
        self.selector.stop_at_s = float("inf")
        return (self.selector.clock.now_s - begun_s) * 1e6

    def ask(self, target="/"):
        """Send a request, and no more: link.send() would turn the loop until it rests."""
        if self.bench.kind == "socket":
            self.link.socket.send(request(target))
        else:
            self.link.transport.protocol.data_received(request(target))


@pytest.fixture(params=["fake", "socket"])
def serve(request):
    selector = Selector()
    loop = selector.loop = asyncio.SelectorEventLoop(selector)
    with running_loop(lambda: loop):
        made = []

        def make(busy_poll_us):
            made.append(Awake(loop, selector, request.param, busy_poll_us))
            return made[-1]

        yield make
        for server in made:
            server.bench.close()


def about(span_us):
    """That long, and the few turns that work itself takes."""
    return pytest.approx(span_us + FEW_TURNS / 2 * STEP_S * 1e6, abs=FEW_TURNS / 2 * STEP_S * 1e6)


def test_a_loop_sleeps_at_once_unless_told_otherwise(serve):
    """After an answer it has nothing to do, and the default is to wait for the kernel's word."""
    server = serve(0)
    server.ask()
    assert server.run() == about(0)
    server.bench.turn()
    assert server.link.reply().body == b"here"


def test_it_looks_for_more_until_the_time_is_up(serve):
    """busy_poll_us after the last request it sleeps, and is awake again for the next one."""
    server = serve(1000)
    for _ in range(3):
        server.ask()
        assert server.run() == about(1000)
    server.bench.turn()
    assert len(server.link.replies("GET", "GET", "GET")) == 3


def test_the_time_begins_anew_with_each_request(serve):
    """Who is asked often enough never sleeps."""
    server = serve(1000)
    server.ask()
    for _ in range(5):
        assert server.run(for_s=600e-6) == about(600)
        server.ask()
    assert server.run() == about(1000)


def test_the_time_begins_anew_with_an_answer(serve):
    """A handler that waited, for a database say, ends: more of its like are likely."""
    server = serve(1000)
    server.ask("/wait")
    assert server.run(for_s=900e-6) == about(900)
    server.awaited.set_result("at last")
    assert server.run() == about(1000)
    server.bench.turn()
    assert server.link.reply().body == b"at last"


def test_a_handler_that_waits_for_long_does_not_keep_it_awake(serve):
    """A request under way is no work: a stream of an hour costs no processor for an hour."""
    server = serve(1000)
    server.ask("/wait")
    assert server.run() == about(1000)
    server.awaited.set_result("at last")
    server.bench.turn()


def test_a_closed_engine_lets_the_loop_sleep(serve):
    """What it had scheduled ends with it."""
    server = serve(1_000_000)
    server.ask()
    server.run(for_s=100e-6)
    server.bench.engine.close()
    assert server.run() == about(0)
