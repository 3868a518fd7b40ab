"""One connection cannot keep the others waiting, however much it asks for."""

import asyncio

import pytest
from support import Bench, request, running_loop

from fastserve import App

GREEDY = 8
DEPTH = 2000            # requests of each, all of them there at once
PER_TURN = 64           # of one connection, at most


@pytest.fixture(params=["socket", "reader", "loop"])
def bench(request):
    app = App()
    app.get("/")(lambda: "home")
    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, request.param)
        yield bench
        bench.close()


def test_greedy_pipelines_do_not_keep_a_new_client_waiting(bench):
    """puma CVE-2019-16770 and CVE-2021-29509: keep-alive clients took all of the server's time.

    Eight connections hold thousands of requests each; a ninth is answered after a few turns.
    """
    greedy = [bench.connect() for _ in range(GREEDY)]
    new = bench.connect()
    for link in greedy:
        assert link.socket.send(request("/") * DEPTH) == DEPTH * len(request("/"))
    new.socket.send(request("/"))
    while not new.poll():
        bench.loop.run_until_complete(asyncio.sleep(0))

    assert bench.engine.requests_total <= 4 * GREEDY * PER_TURN
    bench.wait_for(lambda: all(
        link.received.count(b"\r\n\r\nhome") == DEPTH for link in greedy))
