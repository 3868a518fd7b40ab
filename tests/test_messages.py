"""Request and Response, as a handler meets them."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from support import Bench, read_replies, request, running_loop

from fastserve import App, HTTPError, Request, Response, StreamingResponse
from fastserve._speedups.responses import as_response


@pytest.fixture
def ask():
    """Run a handler on one request; returns (what it returned, the reply)."""
    with running_loop(asyncio.new_event_loop) as loop:

        def ask(handler, data=None, path="/{rest:path}", methods=("*",)):
            app = App()
            out = []

            async def endpoint(request: Request, rest: str = ""):
                value = handler(request)
                if asyncio.iscoroutine(value):
                    value = await value
                out.append(value)
                return None if isinstance(value, (str, dict)) or value is None else value

            app.route(path, methods=list(methods))(endpoint)
            bench = Bench(app, loop, "fake")
            link = bench.connect()
            link.send(data if data is not None else request("/"))
            replies, _ = read_replies(link.received)
            bench.close()
            return (out[0] if out else None), replies[-1]

        yield ask


def test_what_a_request_tells(ask):
    """Method, path, raw path, target, query, version, scheme, url."""
    data = (
        b"BREW /caf%C3%A9/x?a=1&b=%20 HTTP/1.1\r\nHost: example.test:81\r\nX-A: 1\r\nx-a: 2\r\n"
        b"Cookie: a=1; b=\"two\"; a=3; c\r\n\r\n"
    )

    def look(r):
        return {
            "method": r.method,
            "path": r.path,
            "raw_path": r.raw_path,
            "target": r.target,
            "query_string": r.query_string,
            "query": r.query.items(),
            "version": r.http_version,
            "scheme": r.scheme,
            "url": r.url,
            "x-a": r.headers.getlist("X-A"),
            "first": r.headers["x-a"],
            "absent": r.headers.get("x-b"),
            "all": r.headers.items(),
            "cookies": r.cookies,
            "repr": repr(r),
        }

    seen, _ = ask(look, data)
    assert seen == {
        "method": "BREW",
        "path": "/caf\u00e9/x",
        "raw_path": b"/caf%C3%A9/x",
        "target": b"/caf%C3%A9/x?a=1&b=%20",
        "query_string": b"a=1&b=%20",
        "query": [("a", "1"), ("b", " ")],
        "version": "1.1",
        "scheme": "http",
        "url": "http://example.test:81/caf%C3%A9/x?a=1&b=%20",
        "x-a": ["1", "2"],
        "first": "1",
        "absent": None,
        "all": [
            ("host", "example.test:81"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("cookie", 'a=1; b="two"; a=3; c'),
        ],
        "cookies": {"a": "1", "b": "two"},
        "repr": "<Request BREW '/caf%C3%A9/x?a=1&b=%20'>",
    }


def test_an_absolute_target_has_its_path_behind_the_authority(ask):
    """RFC 9112 section 3.2.2."""
    data = b"GET http://example.test?x=1 HTTP/1.1\r\nHost: example.test\r\n\r\n"
    seen, reply = ask(lambda r: {"path": r.path, "raw": r.raw_path, "q": r.query["x"]}, data)

    assert seen == {"path": "/", "raw": b"/", "q": "1"}
    assert reply.status == 204


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"GET http://a.test:81/x HTTP/1.1\r\nX: 1\r\nHost: b\r\n\r\n", ["x", "host"]),
        (b"GET HTTP://a.test:81?x HTTP/1.1\r\nHost: a.test\r\n\r\n", ["host"]),
        (b"GET http://a.test:81 HTTP/1.0\r\nX: 1\r\n\r\n", ["host", "x"]),
    ],
)
def test_an_absolute_target_names_the_host(ask, data, names):
    """RFC 9112 section 3.2.2: whatever Host says; headers and URL cannot disagree."""
    seen, _ = ask(
        lambda r: {
            "host": r.headers["host"], "all": r.headers.getlist("HOST"), "url": r.url,
            "names": r.headers.keys(), "target": r.target.decode(),
        },
        data,
    )  # fmt: skip

    assert (seen["host"], seen["all"]) == ("a.test:81", ["a.test:81"])
    assert seen["url"] == seen["target"]
    assert seen["names"] == names


def test_a_request_outlives_its_connection_and_its_buffer(ask):
    """Everything of a kept request stays what it was."""
    kept, _ = ask(lambda r: (r.headers, r)[1] if False else {"r": r})
    r = kept["r"]

    assert (r.method, r.path, r.headers["host"], r.client) == ("GET", "/", "test", None)


def test_state_is_the_requests_own(ask):
    """request.state starts empty for each request."""

    def use(r):
        assert not hasattr(r.state, "user")
        r.state.user = 1
        return {"user": r.state.user}

    assert ask(use)[0] == {"user": 1}
    assert ask(use)[0] == {"user": 1}


def test_requests_are_not_made_by_hand():
    """The constructor says where requests come from."""
    with pytest.raises(TypeError, match="TestClient"):
        Request()


def test_a_body_can_be_read_twice(ask):
    """body() and json() keep what they read."""

    async def twice(r):
        return {"a": await r.body(), "b": await r.body(), "c": await r.json()}

    seen, _ = ask(twice, request("/", method="POST", body=b'{"x": 1}'))
    assert seen == {"a": b'{"x": 1}', "b": b'{"x": 1}', "c": {"x": 1}}


def test_a_request_without_a_body_has_an_empty_one(ask):
    """body() is b"", stream() gives nothing."""

    async def read(r):
        return {"body": await r.body(), "pieces": [piece async for piece in r.stream()]}

    assert ask(read)[0] == {"body": b"", "pieces": []}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1,]"])
def test_a_body_that_is_no_json_is_400(ask, body):
    """json() raises HTTPError(400)."""

    async def read(r):
        return await r.json()

    _, reply = ask(read, request("/", method="POST", body=body))
    assert reply.status == 400


def test_a_streamed_body_cannot_be_read_again(ask):
    """body() after stream() is a RuntimeError that says why."""

    async def read(r):
        pieces = [piece async for piece in r.stream()]
        with pytest.raises(RuntimeError, match="stream"):
            await r.body()
        return {"body": b"".join(pieces)}

    data = request("/", method="POST", Transfer_Encoding="chunked")
    data += b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert ask(read, data)[0] == {"body": b"abc"}


def answer(ask, value):
    """The reply to a handler that returns a value."""
    with running_loop(asyncio.new_event_loop) as loop:
        app = App()
        app.get("/")(lambda: value)
        bench = Bench(app, loop, "fake")
        link = bench.connect()
        link.send(request("/"))
        reply = link.reply()
        bench.close()
        return reply


@pytest.mark.parametrize(
    ("value", "status", "content_type", "body"),
    [
        ("text", 200, "text/plain; charset=utf-8", b"text"),
        ("t\u00e9xt", 200, "text/plain; charset=utf-8", "t\u00e9xt".encode()),
        ("", 200, "text/plain; charset=utf-8", b""),
        (b"bytes", 200, "application/octet-stream", b"bytes"),
        (bytearray(b"bytes"), 200, "application/octet-stream", b"bytes"),
        (memoryview(b"bytes"), 200, "application/octet-stream", b"bytes"),
        ({"a": 1}, 200, "application/json", b'{"a":1}'),
        ([1, 2], 200, "application/json", b"[1,2]"),
        (7, 200, "application/json", b"7"),
        (True, 200, "application/json", b"true"),
        (datetime.date(2026, 11, 20), 200, "application/json", b'"2026-11-20"'),
        (None, 204, None, b""),
        (("made", 201), 201, "text/plain; charset=utf-8", b"made"),
        (({"a": 1}, 202), 202, "application/json", b'{"a":1}'),
        ((None, 204), 204, None, b""),
        (("x", 299), 299, "text/plain; charset=utf-8", b"x"),
        (Response.html("<p>"), 200, "text/html; charset=utf-8", b"<p>"),
        (Response.text("x", 203), 203, "text/plain; charset=utf-8", b"x"),
        (Response.json([1], 203), 203, "application/json", b"[1]"),
        (Response("x", content_type="text/csv"), 200, "text/csv", b"x"),
        (Response(b"x", headers={"Content-Type": "image/x"}), 200, "image/x", b"x"),
        (Response(status=304, headers={"etag": '"1"'}), 304, None, b""),
    ],
)
def test_what_a_handler_may_return(ask, value, status, content_type, body):
    """Each kind of value becomes its response."""
    reply = answer(ask, value)

    assert (reply.status, reply.headers.get("content-type"), reply.body) == (
        status,
        content_type,
        body,
    )


def test_a_tuple_may_carry_headers(ask):
    """(body, status, headers)."""
    reply = answer(ask, ("x", 201, {"x-a": "1", "content-type": "text/x"}))

    assert (reply.status, reply.headers["x-a"]) == (201, "1")
    assert reply.headers["content-type"] == "text/x"


class Page(Response):
    """One of an application, with something of its own."""

    def __init__(self, name):
        super().__init__(name, headers={"x-own": "1"})
        self.name = name


@pytest.mark.parametrize("kept", [
    Page("page"), StreamingResponse(["pa", "ge"], headers={"x-own": "1"}, length=4),
], ids=["whole", "pieces"])
def test_a_response_in_a_tuple_may_be_kept_and_returned_again(ask, kept):
    """What the tuple says is of this answer alone."""
    for number in range(2):     # were it sent twice, they would be joined
        reply = answer(ask, (kept, 404, {"x-a": str(number)}))
        assert (reply.status, reply.headers["x-a"]) == (404, str(number))
        assert reply.headers["x-own"] == "1"
    reply = answer(ask, kept)
    assert reply.status == 200
    assert "x-a" not in reply.headers


@pytest.mark.parametrize(
    "value",
    [
        ("a", "b"),
        ("a", True),
        ("a", 200, {}, 1),
        ("a",),
        (),
        ("a", 99),
        ("a", 100),
        ("a", 600),
        ("a", 204),
        ("a", 200, {"x": "a\r\nb"}),
        object(),
        "\ud800",
        {1, 2},
        {"a": object()},
        Response("x", headers={"content-length": "7"}),
        Response("x", headers={"transfer-encoding": "chunked"}),
        Response("x", headers={"connection": "upgrade"}),
    ],
)
def test_what_a_handler_may_not_return_is_a_500(ask, caplog, value):
    """The mistake is in the log; the client sees a plain 500 and nothing half-written."""
    reply = answer(ask, value)

    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert "Error" in caplog.text


def test_own_date_and_server_replace_ours(ask):
    """A handler may set them; they are never doubled."""
    reply = answer(ask, Response("x", headers={"Date": "today", "Server": "mine"}))

    assert (reply.headers["date"], reply.headers["server"]) == ("today", "mine")


def test_a_redirect_has_a_location(ask):
    """307 by default; what is not ASCII is percent-encoded, what is a line break cannot be."""
    reply = answer(ask, Response.redirect("/caf\u00e9?a=b&c=%20#d"))

    assert (reply.status, reply.headers["location"]) == (307, "/caf%C3%A9?a=b&c=%20#d")
    assert "\r" not in Response.redirect("/a\r\nb: c").headers["location"]
    with pytest.raises(ValueError, match="300 to 399"):
        Response.redirect("/", 200)


def test_cookies_are_set_and_deleted():
    """Set-Cookie has every attribute asked for, one line each (RFC 6265 section 4.1)."""
    response = Response("x")
    response.set_cookie(
        "a", "1", max_age_s=60, domain="example.test", secure=True, httponly=True, samesite="strict"
    )
    new_year = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    response.set_cookie("b", "2", expires=new_year)
    response.delete_cookie("c")

    assert response.headers.getlist("set-cookie") == [
        "a=1; Max-Age=60; Path=/; Domain=example.test; SameSite=Strict; Secure; HttpOnly",
        "b=2; Expires=Thu, 01 Jan 2026 00:00:00 GMT; Path=/; SameSite=Lax",
        "c=; Max-Age=0; Path=/",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("a b", "1"),
        ("", "1"),
        ("a;b", "1"),
        ("a", "1; Domain=evil"),
        ("a", "1\r\n"),
        ("a", '"'),
        ("a", "\u20ac"),
    ],
)
def test_a_cookie_that_would_be_two_is_refused(arguments):
    """Names are tokens, values cookie-octets."""
    with pytest.raises(ValueError, match="cookie"):
        Response().set_cookie(*arguments)


@pytest.mark.parametrize("options", [{"path": "/;x"}, {"domain": "a;b"}, {"samesite": "no"}])
def test_cookie_attributes_are_checked(options):
    """No attribute smuggles another."""
    with pytest.raises(ValueError, match="samesite|';'"):
        Response().set_cookie("a", "1", **options)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (({"a": 1},), TypeError),
        (("x", 199), ValueError),
        (("x", 600), ValueError),
        (("x", "200"), TypeError),
        (("x", True), TypeError),
    ],
)
def test_a_response_checks_its_arguments(arguments, error):
    """The mistake surfaces in the user's own line."""
    with pytest.raises(error):
        Response(*arguments)


def test_content_type_can_be_read_and_changed():
    """response.content_type follows the header where that is set."""
    response = Response("x")
    assert response.content_type == "text/plain; charset=utf-8"
    response.content_type = "text/x"
    assert response.content_type == "text/x"
    response.headers["content-type"] = "text/y"
    assert response.content_type == "text/y"
    response.content_type = None
    assert response.content_type is None
    with pytest.raises(ValueError, match="line break"):
        response.content_type = "a\r\nb"


def test_as_response_leaves_a_response_alone():
    """Middleware gets the very object that the handler returned."""
    response = Response("x")
    assert as_response(response) is response
    assert as_response(("x", 201)).status == 201


def test_http_error_checks_its_status():
    """A status that is none of an answer's is refused."""
    with pytest.raises(ValueError, match="200 to 599"):
        HTTPError(42)
    assert str(HTTPError(404)) == "404 Not Found"
    assert HTTPError(404, "why").detail == "why"
