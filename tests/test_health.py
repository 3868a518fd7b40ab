"""/-/live and /-/ready: the server's own answers, where the application has none."""

import asyncio

import pytest
from support import Bench, request

from fastserve import App, Response
from fastserve._speedups.plan import Plan
from fastserve.config import Config
from fastserve.health import LIVE, READY, Health
from fastserve.testing import TestClient


def test_both_paths_answer():
    """GET and HEAD, never to be cached; nothing else about them."""
    with TestClient(App()) as client:
        for path, body in (("/-/live", b"live"), ("/-/ready", b"ready")):
            reply = client.get(path)
            assert (reply.status, reply.body) == (200, body)
            assert reply.headers["cache-control"] == "no-store"
            assert client.request("HEAD", path).status == 200
            assert client.request("HEAD", path).body == b""
            assert client.request("POST", path).status == 405
        assert client.get("/-/other").status == 404


def test_a_draining_server_is_not_ready():
    """It lives on until it is done."""
    loop = asyncio.new_event_loop()
    bench = Bench(App(), loop, "fake")
    link = bench.connect()
    bench.engine.draining = True
    link.send(request("/-/ready"))
    assert (link.reply().status, link.reply().body) == (503, b"draining")
    link = bench.connect()
    link.send(request("/-/live"))
    assert link.reply().status == 200
    bench.close()
    loop.close()


def test_an_application_answers_them_itself():
    """One of them, or both by a route of its own; a wildcard is no such route."""
    app = App()

    @app.get("/-/ready")
    def ready():
        return Response(b"mine", 503)

    @app.get("/{rest:path}")
    def rest(rest):
        return "rest"

    with TestClient(app) as client:
        assert (client.get("/-/ready").status, client.get("/-/ready").body) == (503, b"mine")
        assert client.get("/-/live").body == b"live"
        assert client.get("/-/other").body == b"rest"


def test_they_can_be_turned_off():
    """Then they are paths like any other."""
    with TestClient(App(), health_paths=False) as client:
        assert client.get("/-/live").status == 404


def test_no_middleware_sees_them_and_no_list_shows_them():
    """A login page in front of a health check keeps a server from ever being used."""
    app = App()

    @app.middleware
    async def refuse(request, call_next):
        return Response(b"", 401)

    with TestClient(app) as client:
        assert client.get("/-/live").status == 200
        assert client.get("/elsewhere").status == 401
    assert app.routes == ()


def test_the_log_leaves_out_these_two():
    """Unless it is told otherwise: the default of access_log_skip."""
    assert Config().unlogged_paths() == (LIVE, READY)


def test_their_plans_are_exempt():
    """From the limit of requests in flight; those of handlers are not."""
    plans = [plan for _, plan in Health().plans(())]

    assert [plan.exempt for plan in plans] == [True, True]
    assert not Plan(print, ()).exempt


@pytest.mark.parametrize("other", ["/-/live/", "/-/liveness", "/-", "/-/"])
def test_only_these_two(other):
    """Nothing near them is taken."""
    with TestClient(App()) as client:
        assert client.get(other).status == 404
