"""middleware.py: order, what call_next gives, what travels through, and what it costs: nothing."""

import asyncio
import contextlib

import pytest
from support import Bench, running_loop

from fastserve import App, ClientDisconnect, HTTPError, Request, Response
from fastserve.testing import TestClient


@pytest.fixture
def app():
    return App()


def mark(app, name, seen):
    @app.middleware
    async def layer(request, call_next):
        seen.append(f"{name} in")
        response = await call_next(request)
        assert isinstance(response, Response)
        seen.append(f"{name} out {response.status}")
        return response

    return layer


def test_the_first_registered_is_the_outermost(app):
    """In by order of registration, out in reverse."""
    seen = []
    mark(app, "A", seen)
    mark(app, "B", seen)
    app.get("/{id:int}")(lambda id: [id])

    with TestClient(app) as client:
        assert client.get("/7").json() == [7]
    assert seen == ["A in", "B in", "B out 200", "A out 200"]


def test_it_runs_for_what_the_router_answers_too(app):
    """404, 405 and the automatic OPTIONS pass through it, and keep their headers."""
    seen = []
    mark(app, "A", seen)
    app.get("/x")(lambda: "x")

    with TestClient(app) as client:
        assert client.get("/nowhere").status == 404
        assert client.post("/x").headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.options("/x").headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.head("/x").body == b""
    assert [event for event in seen if "out" in event] == [
        "A out 404", "A out 405", "A out 204", "A out 200"]


def test_call_next_gives_a_response_whatever_the_handler_returned_or_raised_on_purpose(app):
    """None, a tuple, an HTTPError, an exception with a handler: a Response each time."""
    seen = []
    mark(app, "A", seen)

    @app.exception_handler(KeyError)
    async def handle(request, error):
        return "handled", 418

    @app.get("/none")
    async def none():
        return None

    @app.get("/http")
    def http():
        raise HTTPError(409, "no", {"x-why": "because"})

    @app.get("/key")
    async def key(request: Request):
        raise KeyError

    with TestClient(app) as client:
        assert client.get("/none").status == 204
        assert client.get("/http").headers["x-why"] == "because"
        assert client.get("/key").text == "handled"
    assert [event for event in seen if "out" in event] == ["A out 204", "A out 409", "A out 418"]


def test_an_unexpected_exception_travels_through_and_may_be_caught(app):
    """try/except around call_next works; uncaught it is the outermost 500."""
    seen = []

    @app.middleware
    async def catches(request, call_next):
        try:
            return await call_next(request)
        except ZeroDivisionError as error:
            seen.append(str(error))
            return Response.text("caught", 503)

    app.get("/zero")(lambda: 1 / 0)
    app.get("/key")(lambda: {}["x"])

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/zero").text == "caught"
        assert client.get("/key").status == 500
    assert seen == ["division by zero"]


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_client_that_leaves_is_no_exception_to_handle(app, layers):
    """Middleware or not: no handler is asked, and who half-closed inside a body reads a 400."""
    asked = []
    for name in range(layers):
        mark(app, name, [])
    for kind in (Exception, ClientDisconnect):
        app.exception_handler(kind)(lambda request, error: asked.append(error))

    @app.post("/")
    async def read(request: Request):
        return await request.body()

    with (
        running_loop(asyncio.new_event_loop) as loop,
        contextlib.closing(Bench(app, loop, "fake")) as bench,
    ):
        link = bench.connect()
        link.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        link.send_eof()
        bench.wait_for(lambda: link.received)
        assert link.reply().status == 400
    assert asked == []


def test_middleware_may_answer_itself_or_raise(app):
    """Without call_next the handler does not run; its HTTPError is an answer to those outside."""
    seen = []
    mark(app, "outer", seen)

    @app.middleware
    async def guard(request, call_next):
        if request.path == "/short":
            return "short", 203
        raise HTTPError(401, "who are you")

    app.get("/{x}")(lambda x: seen.append("handler"))

    with TestClient(app) as client:
        assert client.get("/short").status == 203
        assert client.get("/other").status == 401
    assert seen == ["outer in", "outer out 203", "outer in", "outer out 401"]


def test_middleware_may_change_the_response(app):
    """Headers are set on what goes out."""

    @app.middleware
    async def stamp(request, call_next):
        response = await call_next(request)
        response.headers["x-stamp"] = request.method
        return response

    app.get("/")(lambda: "x")

    with TestClient(app) as client:
        assert client.get("/").headers["x-stamp"] == "GET"


def test_what_is_no_middleware_is_refused_at_registration(app):
    """A plain def, a class, a wrong signature: a TypeError that names it."""

    def sync(request, call_next):
        pass

    async def short(request):
        pass

    class Thing:
        pass

    for wrong, reason in [(sync, "must be an async def"), (Thing, "must be an async def"),
                          (short, "must take")]:
        with pytest.raises(TypeError, match=reason) as caught:
            app.middleware(wrong)
        assert wrong.__name__ in str(caught.value)


def test_an_object_with_an_async_call_is_middleware(app):
    """So that it can hold settings."""

    class Layer:
        async def __call__(self, request, call_next):
            response = await call_next(request)
            response.headers["x-layer"] = "yes"
            return response

    app.middleware(Layer())
    app.get("/")(lambda: "x")

    with TestClient(app) as client:
        assert client.get("/").headers["x-layer"] == "yes"


def test_an_application_without_middleware_calls_its_handlers_directly(app):
    """No wrapper, no coroutine: the plan holds the handler itself."""

    def handler():
        return "x"

    app.get("/")(handler)
    plan, _ = app.build_router().find("GET", b"/")

    assert plan.handler is handler
    assert not plan.is_async
