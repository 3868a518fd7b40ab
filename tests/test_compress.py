"""compress.py: which answers are compressed, how, and what then stands in their head."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import zlib

import pytest

from fastserve import (
    App,
    FileResponse,
    HTTPError,
    Request,
    Response,
    RouteError,
    StreamingResponse,
    compress,
)
from fastserve.testing import TestClient

brotli = pytest.importorskip("brotli", reason="the extra `compress` is not installed")
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="the extra `compress` is not installed")

UNDO = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": zstd.decompress}
TEXT = "a line of some text that repeats itself\n" * 100
ALL = {"accept-encoding": "gzip, deflate, br, zstd"}
SHARED = Response.text(TEXT)


def make_app(folder=None):
    app = App()
    app.get("/text")(lambda: TEXT)
    app.get("/json")(lambda: {"rows": [{"name": "x", "n": n} for n in range(100)]})
    app.get("/shared")(lambda: SHARED)
    app.get("/small")(lambda: "x" * 499)
    app.get("/just")(lambda: "x" * 500)
    app.get("/large")(lambda: TEXT * 20)
    app.get("/picture")(lambda: Response(b"p" * 9000, content_type="image/png"))
    app.get("/bytes")(lambda: b"b" * 9000)
    app.get("/empty")(lambda: None)
    app.get("/own/{name}")(lambda name: Response.text(TEXT, headers=OWN[name]))
    app.get("/part")(lambda: Response.text(TEXT, 206))
    app.get("/stream")(lambda: StreamingResponse(iter([TEXT]), content_type="text/plain"))
    app.get("/off", compress_responses=False)(lambda: TEXT)
    app.get("/file")(lambda: FileResponse(folder / "a.txt"))

    @app.get("/async/{count:int}")
    async def later(request: Request, count: int):
        return Response.text(TEXT * count, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")])

    @app.get("/wrong")
    def wrong():
        raise HTTPError(418, TEXT)

    if folder:
        (folder / "a.txt").write_text(TEXT)
        app.static("/s", folder)
    return app


OWN = {
    "encoding": {"content-encoding": "identity"}, "range": {"content-range": "bytes 0-1/2"},
    "digest": {"content-digest": "sha-256=:x:"}, "ranges": {"accept-ranges": "bytes"},
    "transform": {"cache-control": "public, no-transform"}, "tag": {"etag": '"a"'},
    "weak": {"etag": 'W/"a"'}, "vary": {"vary": "Cookie"}, "star": {"vary": "*"},
    "length": {"content-length": str(len(TEXT))}, "html": {"content-type": "text/html"},
}


@pytest.fixture
def client(tmp_path):
    with TestClient(make_app(tmp_path), compress_responses=True) as client:
        yield client


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("gzip, br", "br"), ("*", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"), ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0, *;q=0.1", "zstd"), ("GZIP", "gzip"), ("x-gzip", "gzip"),
        (None, None), ("", None), ("deflate", None), ("identity", None), ("gzip;q=0", None),
        ("gzip;q=0.5, identity", None), ("gzip, identity", "gzip"), ("identity;q=0", None),
        ("gzip;q=0.5, identity;q=0.4", "gzip"),
    ],
)
def test_the_client_chooses_the_coding(client, accept, coding):
    """By weight, then by our order; every answer says that it depends on that."""
    headers = {} if accept is None else {"accept-encoding": accept}
    reply = client.get("/text", headers=headers)
    assert reply.headers.get("content-encoding") == coding
    body = reply.body if coding is None else UNDO[coding](reply.body)
    assert body.decode() == TEXT
    assert reply.headers["vary"] == "Accept-Encoding"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


def test_several_fields_are_one_list(client):
    """RFC 9110 section 5.3."""
    headers = [("accept-encoding", "gzip;q=0.1"), ("accept-encoding", "br")]
    assert client.get("/text", headers=headers).headers["content-encoding"] == "br"


def test_every_vary_field_stays():
    """What the handler said in several fields is said in one, and none of it is lost."""
    app = App()
    app.get("/")(lambda: Response.text(TEXT, headers=[("vary", "Cookie"), ("vary", "Origin")]))
    with TestClient(app, compress_responses=True) as client:
        vary = client.get("/", headers=ALL).headers.getlist("vary")
    assert vary == ["Cookie, Origin, Accept-Encoding"]


@pytest.mark.parametrize("path", ["/json", "/shared", "/just", "/large", "/async/1", "/async/30"])
def test_whole_bodies_of_text_are_compressed(client, path):
    """Whatever the handler is and returns; what is kept is not changed by it."""
    for _ in range(2):
        plain = client.get(path)
        packed = client.get(path, headers=ALL)
        assert packed.headers["content-encoding"] == "zstd"
        assert zstd.decompress(packed.body) == plain.body
        assert "content-encoding" not in plain.headers
        assert packed.headers.getlist("set-cookie") == plain.headers.getlist("set-cookie")


@pytest.mark.parametrize(
    "path", ["/small", "/picture", "/bytes", "/empty", "/stream", "/off", "/part", "/file",
             "/s/a.txt", "/own/encoding", "/own/range", "/own/digest", "/own/ranges",
             "/own/transform"])
def test_other_bodies_are_left_alone(client, path):
    """Too small, no text, made as it is sent, a file, or bound to its bytes."""
    reply = client.get(path, headers=ALL)
    own = "identity" if path == "/own/encoding" else None
    assert reply.headers.get("content-encoding") == own
    assert reply.body == client.get(path).body
    assert "vary" not in reply.headers


def test_what_does_not_get_smaller_is_sent_as_it_is(client, monkeypatch):
    """It still depends on the client."""
    monkeypatch.setitem(compress.codings(), "zstd", lambda data: data + b"more")
    same = client.get("/text", headers=ALL)
    assert (same.text, "content-encoding" in same.headers) == (TEXT, False)
    assert same.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("own", "field", "value"),
    [("tag", "etag", 'W/"a"'), ("weak", "etag", 'W/"a"'),
     ("vary", "vary", "Cookie, Accept-Encoding"), ("star", "vary", "*"),
     ("html", "content-type", "text/html")])
def test_the_head_fits_the_new_body(client, own, field, value):
    """A weak tag, a longer Vary, the same type; the length is that of what is sent."""
    reply = client.get(f"/own/{own}", headers=ALL)
    assert reply.headers["content-encoding"] == "zstd"
    assert reply.headers.getlist(field) == [value]
    assert client.get("/own/tag").headers["etag"] == '"a"'
    assert client.get("/own/length", headers=ALL).headers["content-encoding"] == "zstd"


def test_head_says_what_get_would(client):
    """The same fields, no body."""
    get, head = client.get("/text", headers=ALL), client.head("/text", headers=ALL)
    assert head.body == b""
    assert dict(head.headers.items()) | {"date": ""} == dict(get.headers.items()) | {"date": ""}


def test_an_error_page_of_a_route_is_compressed_too(client):
    """It is an answer like any other."""
    reply = client.get("/wrong", headers=ALL)
    assert (reply.status, reply.headers["content-encoding"]) == (418, "zstd")


def test_it_is_off_unless_asked_for():
    """By the server or by the route; the route wins; a route without it pays nothing."""
    app = make_app()
    app.get("/on", compress_responses=True)(lambda: TEXT)
    with TestClient(app) as client:
        assert client.get("/on", headers=ALL).headers["content-encoding"] == "zstd"
        assert "content-encoding" not in client.get("/text", headers=ALL).headers
        assert "vary" not in client.get("/text", headers=ALL).headers
    plan, _ = app.build_router().find("GET", b"/text")
    assert not plan.is_async
    with pytest.raises(RouteError, match="compress_responses=1: give True or False"):
        App().get("/", compress_responses=1)


def test_middleware_sees_the_body_as_it_was_made():
    """Compression is outside of it all."""
    app = make_app()
    seen = []

    @app.middleware
    async def look(request, call_next):
        response = await call_next(request)
        seen.append(response.body.decode())
        return response

    with TestClient(app, compress_responses=True) as client:
        assert client.get("/text", headers=ALL).headers["content-encoding"] == "zstd"
    assert seen == [TEXT]


def test_large_bodies_are_compressed_on_a_thread(client, monkeypatch):
    """The loop is free meanwhile."""
    threads = []

    def encode(data):
        threads.append(threading.current_thread())
        return zlib.compress(data)

    monkeypatch.setitem(compress.codings(), "zstd", encode)
    client.get("/large", headers=ALL)
    client.get("/text", headers=ALL)
    assert threads[0] is not threads[1]
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("application/json", True), ("application/problem+json", True), ("Text/HTML; charset=x", True),
     ("image/svg+xml", True), ("text/javascript", True), ("application/atom+xml", True),
     ("application/wasm", True), ("text/event-stream", False), ("image/webp", False),
     ("font/woff2", False), ("application/zip", False), ("application/octet-stream", False),
     ("", False), ("video/mp4", False)])
def test_types_that_shrink_are_known(kind, expected):
    """Text and what is like it."""
    assert compress.shrinks(kind) is expected


def test_gzip_is_there_without_the_extra():
    """The other codings are not offered then."""
    code = ("import sys; sys.modules['brotli'] = sys.modules['backports'] = None\n"
            "sys.modules['backports.zstd'] = sys.modules['compression'] = None\n"
            "sys.modules['compression.zstd'] = None\n"
            "from fastserve.compress import chosen_coding, codings\n"
            "print(list(codings()), chosen_coding(b'zstd, br, gzip;q=0.1'))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['gzip'] gzip"
