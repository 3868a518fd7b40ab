"""testing.py: the client that tests use, itself tested."""

import asyncio

import pytest

from fastserve import App, HTTPError, Request, Response, StreamingResponse
from fastserve.testing import TestClient


@pytest.fixture
def app():
    app = App()

    @app.route("/echo", methods=["*"])
    async def echo(request: Request):
        return {
            "method": request.method,
            "target": request.target.decode(),
            "query": request.query.items(),
            "host": request.headers["host"],
            "headers": request.headers.items(),
            "body": (await request.body()).decode(),
        }

    @app.get("/boom")
    def boom():
        raise ValueError("inside")

    @app.get("/many")
    def many():
        return Response(b"", headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")])

    return app


@pytest.fixture
def client(app):
    with TestClient(app, headers={"x-always": "1"}) as client:
        yield client


def test_params_join_the_query_and_non_ascii_is_encoded(client):
    """What a browser would send."""
    reply = client.get("/echo?a=ü", params={"b": [1, 2], "c": "x y"}).json()

    assert reply["query"] == [["a", "ü"], ["b", "1"], ["b", "2"], ["c", "x y"]]
    assert client.get("/echo?q=%41").json()["target"] == "/echo?q=%41"


@pytest.mark.parametrize(
    ("given", "kind", "body"),
    [
        ({"json": {"a": [1]}}, "application/json", '{"a":[1]}'),
        ({"data": {"a": "1 2", "b": [3, 4]}}, "application/x-www-form-urlencoded", "a=1+2&b=3&b=4"),
        ({"content": "text"}, None, "text"), ({"content": b"bytes"}, None, "bytes"),
        ({"content": (b"a", b"b")}, None, "ab"), ({"content": b"x" * 200_000}, None, "x" * 200_000),
    ],
)
def test_bodies_are_sent_in_every_form(client, given, kind, body):
    """With their content type; an iterable goes chunked, a large one in several reads."""
    reply = client.post("/echo", **given).json()

    assert reply["body"] == body
    assert dict(reply["headers"]).get("content-type") == kind


def test_headers_of_the_client_and_of_the_request_are_sent(client):
    """And a whole URL sets Host."""
    reply = client.get("http://example.org:81/echo", headers=[("x-a", "1"), ("x-a", "2")]).json()

    assert reply["host"] == "example.org:81"
    assert [pair for pair in reply["headers"] if pair[0].startswith("x-")] == [
        ["x-always", "1"], ["x-a", "1"], ["x-a", "2"]]
    assert client.get("/echo").json()["host"] == "testserver"


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "options"])
def test_every_method_has_a_function(client, method):
    """client.get(...) and its siblings."""
    assert getattr(client, method)("/echo").json()["method"] == method.upper()


def test_repeated_headers_are_all_there(client):
    """A multi-dict, as on the other side."""
    reply = client.get("/many")

    assert reply.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert (reply.status_code, reply.content) == (200, b"")


def test_an_unexpected_exception_is_raised_in_the_test(client):
    """The traceback of the handler is what one wants to see."""
    with pytest.raises(ValueError, match="inside"):
        client.get("/boom")

    assert client.get("/echo").status == 200    # and the client goes on


def test_or_it_is_the_500_that_the_world_sees(app):
    """raise_server_exceptions=False."""
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/boom").status == 500


def test_http_errors_and_handled_exceptions_are_not_raised(app):
    """They are answers."""
    app.exception_handler(ValueError)(lambda request, error: ("handled", 400))

    with TestClient(app) as client:
        assert client.get("/boom").text == "handled"
        assert client.get("/nowhere").status == 404


@pytest.mark.parametrize("length", [None, 9])
def test_a_part_is_not_taken_for_the_whole(app, length):
    """A body that broke off is no response; what broke it is raised, if that is wanted."""
    app.exception_handler(LookupError)(lambda request, error: "handled")

    @app.get("/broken")
    def broken():
        def pieces():
            yield "begun"
            raise LookupError("no more")

        return StreamingResponse(pieces(), length=length)

    with TestClient(app) as client, pytest.raises(LookupError, match="no more"):
        client.get("/broken")
    with (
        TestClient(app, raise_server_exceptions=False) as client,
        pytest.raises(ConnectionError, match="inside the body"),
    ):
        client.get("/broken")


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("how", ["raises", "raises later", "gives what is no answer"])
def test_a_failing_exception_handler_is_raised_in_the_test(app, layers, how):
    """With middleware or without: what it raised itself, and not a 500 without a word."""
    for _ in range(layers):
        @app.middleware
        async def layer(request, call_next):
            return await call_next(request)

    def handle(request, error):
        raise NameError("a mistake")

    async def handle_later(request, error):
        raise NameError("a mistake")

    def give(request, error):
        return "body", "status"

    handler, raised = {
        "raises": (handle, NameError), "raises later": (handle_later, NameError),
        "gives what is no answer": (give, TypeError)}[how]
    app.exception_handler(ValueError)(handler)

    with TestClient(app) as client:
        with pytest.raises(raised):
            client.get("/boom")
        assert client.get("/echo").status == 200
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/boom").status == 500


def test_an_exception_handler_may_raise_an_http_error(app):
    """On purpose: it is the answer."""
    def handle(request, error):
        raise HTTPError(409)

    app.exception_handler(ValueError)(handle)

    with TestClient(app) as client:
        assert client.get("/boom").status == 409


def test_it_must_be_entered_and_outside_of_a_loop(app):
    """Both mistakes are told at once."""
    with pytest.raises(RuntimeError, match="inside `with TestClient"):
        TestClient(app).get("/")

    async def inside():
        with TestClient(app):
            pass

    with pytest.raises(RuntimeError, match="synchronous tests"):
        asyncio.run(inside())


def test_a_failing_start_up_fails_the_test_and_closes_the_loop(app):
    """The application's own exception, not one of ours."""
    app.on_startup(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError), TestClient(app):
        pass


def test_a_failing_shutdown_fails_the_test(app):
    """At the end of the with block."""
    app.on_shutdown(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError), TestClient(app):
        pass


def test_a_handler_that_suspends_is_waited_for_and_a_hanging_one_is_not(app):
    """timeout_s bounds a test that would never end."""

    @app.get("/later")
    async def later():
        await asyncio.sleep(0)
        return "later"

    @app.get("/never")
    async def never():
        await asyncio.Event().wait()

    with TestClient(app, timeout_s=0.2) as client:
        assert client.get("/later").text == "later"
        with pytest.raises(asyncio.TimeoutError):
            client.get("/never")


@pytest.mark.parametrize("settings", [{"http": "httptools"}, {"tasks": "asyncio"}])
def test_settings_reach_the_engine(app, settings):
    """The same tests can run on the other parser and on the other way to run handlers."""
    with TestClient(app, **settings) as client:
        assert client.post("/echo", content=[b"a", b"b"]).json()["body"] == "ab"
