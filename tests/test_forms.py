"""Forms: request.form() and request.parts(), their bounds, and what becomes of the files."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading

import pytest
from support import Bench, request, running_loop

from fastserve import App, FormData, HTTPError, Request, UploadFile
from fastserve import forms as room

pytest.importorskip("python_multipart", reason="the extra `forms` is not installed")

BOUNDARY = "----a-Boundary.7"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED = "application/x-www-form-urlencoded"
KINDS = ["fake", "socket", "reader", "loop"]


def part(name, content, *lines, filename=None):
    """One part as a browser sends it."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "\r\n".join([disposition, *lines]).encode()
    return b"--" + BOUNDARY.encode() + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def closed(*parts):
    """A whole multipart body."""
    return b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"


def post(body, content_type=MULTIPART, target="/form", **headers):
    """A POST of a form."""
    return request(target, method="POST", body=body, Content_Type=content_type, **headers)


def chunked(body, content_type=MULTIPART, target="/form"):
    """The same without a Content-Length."""
    head = (f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n")
    return head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


async def shown(form):
    """A form as JSON can hold it."""
    return [
        [name, value if isinstance(value, str) else
         [value.filename, value.content_type, value.size, (await value.read()).decode("latin-1")]]
        for name, value in form.items()
    ]


def make_app(seen=None):
    app = App()

    @app.post("/form")
    async def whole(request: Request):
        form = await request.form()
        if seen is not None:
            seen.append(form)
        return await shown(form)

    @app.post("/large", max_body_bytes=64 * 1024 * 1024)
    async def large(request: Request):
        form = await request.form()
        if seen is not None:
            seen.append([value.in_memory for value in form.values()])
        return [value.size for value in form.values()]

    @app.post("/parts")
    async def parts(request: Request):
        return [
            [part.name, part.filename, part.content_type,
             (await part.read(1 << 20)).decode("latin-1")]
            async for part in request.parts()
        ]

    @app.get("/")
    def home():
        return "home"

    return app


@pytest.fixture
def loop():
    with running_loop(asyncio.new_event_loop) as loop:
        yield loop


@pytest.fixture
def link(loop):
    """A connection to make_app() over a fake transport."""
    bench = Bench(make_app(), loop, "fake")
    yield bench.connect()
    bench.close()


def ask(loop, data, pieces=None, app=None, methods=("POST",), **settings):
    """The reply to one request; `pieces` cuts it into reads of that many bytes."""
    bench = Bench(app or make_app(), loop, "fake", **settings)
    link = bench.connect()
    try:
        if pieces is None:
            link.send(data)
        else:
            link.send(*(data[at : at + pieces] for at in range(0, len(data), pieces)))
        bench.wait_for(lambda: link.received)
        return link.reply(*methods)
    finally:
        bench.close()
        app = bench.engine.app
        app.blocking_pool.close()


def both_ways(loop, data, **settings):
    """The reply to a request that comes at once, which must be that to one byte at a time."""
    at_once = ask(loop, data, **settings)
    by_bytes = ask(loop, data, pieces=1, **settings)
    assert (by_bytes.status, by_bytes.body) == (at_once.status, at_once.body)
    return at_once


# --- what is read ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_multipart_form_is_fields_and_files(loop, kind):
    """Names in order, text as str, files with name, type, size and content; on any transport."""
    bench = Bench(make_app(), loop, kind)
    link = bench.connect()
    body = closed(
        part("title", "caf\u00e9".encode()),
        part("tag", b"a"), part("tag", b"b"),
        part("photo", b"\x89PNG\r\n\r\n--not-it", "Content-Type: image/png", filename="a b.png"),
        part("empty", b""), part("none", b"", filename=""),
    )
    link.send(post(body) + request("/"))
    bench.wait_for(lambda: link.received.endswith(b"home"))

    form, home = link.replies()
    assert form.body.decode() == (
        '[["title","caf\u00e9"],["tag","a"],["tag","b"],'
        '["photo",["a b.png","image/png",16,"\u0089PNG\\r\\n\\r\\n--not-it"]],'
        '["empty",""],["none",["",null,0,""]]]')
    assert home.body == b"home"
    bench.close()


def test_a_form_is_the_same_however_it_is_cut(loop):
    """Every cut into two, one byte at a time, and chunked: one result."""
    body = closed(part("a", b"1\r\n--\r\n-"), part("f", b"x" * 40 + b"\r\n", filename="f"))
    data = post(body)
    whole = ask(loop, data).body
    assert whole.startswith(b'[["a","1\\r\\n--\\r\\n-"],["f",["f",null,42,')

    assert ask(loop, data, pieces=1).body == whole
    assert ask(loop, chunked(body)).body == whole
    assert ask(loop, chunked(body), pieces=1).body == whole
    bench = Bench(make_app(), loop, "fake")
    for cut in range(1, len(data)):
        link = bench.connect()
        link.send(data[:cut], data[cut:])
        assert link.reply().body == whole, cut
        link.drop()
    bench.close()


def test_an_urlencoded_form_is_decoded_like_a_query(loop):
    """`+` is a space, escapes are UTF-8, names repeat, and no extra is needed."""
    data = post(b"a=1&b=x+y%20z&a=%C3%A9&&c&=v&%3D=%26", URLENCODED + "; charset=UTF-8")

    assert both_ways(loop, data).body.decode() == (
        '[["a","1"],["b","x y z"],["a","\u00e9"],["c",""],["","v"],["=","&"]]')


def test_a_semicolon_separates_nothing(loop):
    """CVE-2026-53539: `a;a;a;...` is one field, as browsers mean it, in linear time."""
    reply = ask(loop, post(b"a;b=1;c=2&d=3", URLENCODED))
    assert reply.body == b'[["a;b","1;c=2"],["d","3"]]'

    many = b"a;" * 500_000
    reply = ask(loop, post(many, URLENCODED))
    assert reply.body == b'[["%b",""]]' % many


def test_a_form_is_a_multi_dict():
    """[] and get() give the first value, getlist() all of them, items() every pair."""
    form = FormData([("a", "1"), ("b", "2"), ("a", "3")])

    assert (form["a"], form.get("a"), form.getlist("a")) == ("1", "1", ["1", "3"])
    assert form.items() == [("a", "1"), ("b", "2"), ("a", "3")]
    assert (form.keys(), form.values(), list(form), len(form)) == (
        ["a", "b"], ["1", "2", "3"], ["a", "b"], 2)
    assert ("a" in form, "c" in form, form.get("c"), form.get("c", 0)) == (True, False, None, 0)
    assert form.getlist("c") == []
    with pytest.raises(KeyError):
        form["c"]


def test_form_gives_the_same_form_again_and_takes_the_body(loop):
    """A middleware and a handler may both ask; body() has nothing left of what came in pieces."""
    app = App()

    @app.middleware
    async def first(request: Request, call_next):
        request.state.form = await request.form()
        return await call_next(request)

    @app.post("/form")
    async def second(request: Request):
        assert await request.form() is request.state.form
        try:
            await request.body()
        except RuntimeError as error:
            return str(error)

    reply = ask(loop, post(closed(part("a", b"1"))), pieces=50, app=app)
    assert reply.body == b"the body was taken by stream()"


def test_a_form_is_read_from_a_body_that_was_read_before(loop):
    """body() first, as one does to check a signature, then form()."""
    app = App()

    @app.post("/form")
    async def signed(request: Request):
        size = len(await request.body())
        return [size, (await request.form())["a"], len(await request.body())]

    body = closed(part("a", b"1"))
    assert ask(loop, post(body), app=app).body == b"[%d,\"1\",%d]" % (len(body), len(body))
    assert ask(loop, post(b"a=1", URLENCODED), app=app).body == b'[3,"1",3]'


@pytest.mark.parametrize(
    ("lines", "content", "text"),
    [
        ((), "\u00e9".encode(), "\u00e9"),
        (("Content-Type: text/plain; charset=UTF-8",), "\u00e9".encode(), "\u00e9"),
        (("Content-Type: text/plain; charset=\"iso-8859-1\"",), b"\xe9", "\u00e9"),
        (("Content-Type: text/plain; charset=windows-1252",), b"\x80", "\u20ac"),
        (("Content-Transfer-Encoding: binary",), b"x", "x"),
        ((), b"\xe9", "\ufffd"),
    ],
)
def test_text_is_decoded_by_its_charset(loop, lines, content, text):
    """UTF-8, or what the part says; what is no text becomes U+FFFD, as in a query."""
    reply = ask(loop, post(closed(part("a", content, *lines))))
    assert reply.body.decode() == f'[["a","{text}"]]'


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        (b'form-data; name="a"; filename="caf\xc3\xa9.txt"', "a", "caf\u00e9.txt"),
        (b"Form-Data;name=a ; FILENAME=x.txt", "a", "x.txt"),
        (b'form-data; name="a"; filename="C:\\dir\\x.txt"', "a", "C:\\dir\\x.txt"),
        (b'form-data; name="a\\"b"; filename="\\\\;x"', 'a"b', "\\;x"),
        (b'form-data; name="a"; filename="x"; filename*=utf-8\'\'y', "a", "x"),
        (b'form-data; name=""; filename="a=b;c";', "", "a=b;c"),
        (b'form-data; name="a%22b"; filename="../../etc/passwd"', "a%22b", "../../etc/passwd"),
    ],
)
def test_a_disposition_is_read_as_browsers_write_it(loop, disposition, name, filename):
    """Quoted or not, raw UTF-8, raw backslashes; `filename*` counts for nothing (RFC 7578 4.2)."""
    body = (b"--" + BOUNDARY.encode() + b"\r\nContent-Disposition: " + disposition
            + b"\r\n\r\nx\r\n--" + BOUNDARY.encode() + b"--")
    seen = []
    assert ask(loop, post(body), app=make_app(seen)).status == 200
    (found,) = seen[0].items()
    assert (found[0], found[1].filename) == (name, filename)


# --- part by part ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parts_come_one_after_the_other(loop, kind):
    """Name, filename, content type and content, on any transport, and the next request is seen."""
    bench = Bench(make_app(), loop, kind)
    link = bench.connect()
    body = closed(part("a", b"1"), part("f", b"2" * 9, "Content-Type: image/png", filename="f.png"))
    link.send(post(body, target="/parts") + request("/"))
    bench.wait_for(lambda: link.received.endswith(b"home"))

    assert link.replies()[0].body == (
        b'[["a",null,null,"1"],["f","f.png","image/png","222222222"]]')
    bench.close()


def test_a_part_that_is_not_read_is_skipped(loop):
    """Also one that was begun."""
    app = App()

    @app.post("/parts")
    async def some(request: Request):
        seen = []
        async for part in request.parts():
            if part.name == "begun":
                async for piece in part:
                    seen.append(len(piece) > 0)
                    break
            elif part.name == "read":
                seen.append((await part.read(100)).decode())
                seen.append((await part.read(100)).decode())
        return seen

    body = closed(
        part("x", b"x" * 9), part("begun", b"y" * 9), part("read", b"me"), part("z", b"z"))

    for pieces in (None, 1):
        reply = ask(loop, post(body, target="/parts"), pieces=pieces, app=app)
        assert reply.body == b'[true,"me",""]'
        app = _again(app)


def _again(app):
    # An application serves once; its routes may be served again.
    other = App()
    for route in app.routes:
        other.route(route.path, methods=route.methods)(route.endpoint)
    return other


def test_a_part_that_is_gone_says_so(loop):
    """Parts are read in their order, each before the next."""
    app = App()

    @app.post("/parts")
    async def kept(request: Request):
        parts = [part async for part in request.parts()]
        try:
            await parts[0].read(100)
        except RuntimeError as error:
            return str(error)

    reply = ask(loop, post(closed(part("a", b"1"), part("b", b"2")), target="/parts"), app=app)
    assert reply.body == b"part 'a' is gone: read each part before asking for the next one"


def test_a_part_that_is_too_long_is_413(loop):
    """read() has its own limit."""
    app = App()

    @app.post("/parts")
    async def short(request: Request):
        return [len(await part.read(5)) async for part in request.parts()]

    assert ask(loop, post(closed(part("a", b"12345")), target="/parts"), app=app).body == b"[5]"
    app = _again(app)
    reply = ask(loop, post(closed(part("a", b"123456")), target="/parts"), app=app)
    assert (reply.status, reply.body) == (413, b"part 'a' is larger than 5 bytes")


def test_a_part_that_nobody_reads_holds_the_client_back(loop):
    """Back-pressure goes through the form: reading pauses, then all of it arrives."""
    app = App()
    gate = loop.create_future()
    total = 8 * 1024 * 1024

    @app.post("/parts")
    async def slow(request: Request):
        async for part in request.parts():
            await gate
            return sum([len(piece) async for piece in part])
        return None

    bench = Bench(app, loop, "fake")
    link = bench.connect()
    data = post(closed(part("f", b"x" * total, filename="f")), target="/parts")
    at, size = 0, 64 * 1024
    while link.transport.reading:
        link.send(data[at : at + size])
        at += size
    assert at < 1024 * 1024
    gate.set_result(None)
    bench.turn()
    while at < len(data):
        assert link.transport.reading
        link.send(data[at : at + size])
        at += size
    assert link.reply().body == b"%d" % total
    bench.close()


# --- bounds ------------------------------------------------------------------------------


def fields(count):
    return closed(*(part(f"n{i}", b"v") for i in range(count)))


def files(count):
    return closed(*(part(f"n{i}", b"v", filename="f") for i in range(count)))


BOUNDS = [
    ("form", fields(4), {"max_form_fields": 3}, b"the form has more than 3 fields"),
    ("parts", fields(4), {"max_form_fields": 3}, b"the form has more than 3 fields"),
    ("form", files(3), {"max_form_files": 2}, b"the form has more than 2 files"),
    ("parts", files(3), {"max_form_files": 2}, b"the form has more than 2 files"),
    ("form", closed(part("a", b"x" * 60), part("b", b"x" * 60)), {"max_form_field_bytes": 121},
     b"the text fields are larger than 121 bytes"),
    ("form", closed(part("a", b"", *(f"X-{i}: y" for i in range(16)))), {},
     b"a part has more than 16 header lines"),
    ("form", closed(part("a", b"", *(f"X-{i}: {'y' * 1000}" for i in range(9)))), {},
     b"a part has more than 8192 bytes of header"),
    ("form", closed(part("a", b"", "X: " + "y" * 9000)), {},
     b"a part has more than 8192 bytes of header"),
    ("form", closed(part("a", b"", "X:" + " " * 9000)), {},
     b"a part has more than 8192 bytes of header"),
    ("form", closed(part("a", b"", "X" * 9000 + ": y")), {},
     b"a part has more than 8192 bytes of header"),
    ("form", closed(part("n" * 1025, b"")), {}, b"a name in the form is longer than 1024 bytes"),
    ("form", closed(part("n", b"", filename="f" * 1025)), {},
     b"a name in the form is longer than 1024 bytes"),
]


@pytest.mark.parametrize(("path", "body", "settings", "detail"), BOUNDS)
def test_a_form_beyond_a_bound_is_413(loop, path, body, settings, detail):
    """CVE-2023-30798, CVE-2023-25577: no unlimited fields, files, headers or names.

    At once and one byte at a time, with and without a Content-Length.
    """
    reply = both_ways(loop, post(body, target=f"/{path}"), **settings)
    assert (reply.status, reply.body) == (413, detail)
    reply = ask(loop, chunked(body, target=f"/{path}"), **settings)
    assert (reply.status, reply.body) == (413, detail)


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        (fields(3), {"max_form_fields": 3}),
        (files(2), {"max_form_files": 2}),
        (closed(part("a", b"x" * 60), part("b", b"x" * 60)), {"max_form_field_bytes": 122}),
        (closed(part("a", b"", *(f"X-{i}: y" for i in range(15)))), {}),
        (closed(part("n" * 1024, b"", filename="f" * 1024)), {}),
    ],
)
def test_a_form_at_its_bound_is_read(loop, body, settings):
    """The limit itself is allowed."""
    assert both_ways(loop, post(body), **settings).status == 200


@pytest.mark.parametrize(
    ("body", "settings", "detail"),
    [
        (b"a&b&c&d", {"max_form_fields": 3}, b"the form has more than 3 fields"),
        (b"a=" + b"x" * 99, {"max_form_field_bytes": 100}, b"the body is larger than 100 bytes"),
        (b"a=" + b"x" * 99, {"max_body_bytes": 100}, b"the body is larger than 100 bytes"),
    ],
)
def test_an_urlencoded_form_beyond_a_bound_is_413(loop, body, settings, detail):
    """The same bounds hold for it."""
    reply = both_ways(loop, post(body, URLENCODED), **settings)
    assert (reply.status, reply.body) == (413, detail)
    reply = ask(loop, chunked(body, URLENCODED), **settings)
    assert (reply.status, reply.body) == (413, detail)


def test_the_body_limit_counts_the_whole_form(loop):
    """CVE-2025-69228: many fields under the limit are over it together, and stop there."""
    app = make_app()
    bench = Bench(app, loop, "fake", max_body_bytes=100_000)
    link = bench.connect()
    field = part("f", b"x" * 90_000, filename="f")
    link.send(b"POST /form HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
              + f"Content-Type: {MULTIPART}\r\n\r\n".encode())
    sent = 0
    while not link.received and sent < 1000:
        link.send(b"%x\r\n%b\r\n" % (len(field), field))
        sent += 1

    assert sent == 2
    reply = link.reply()
    assert (reply.status, reply.body) == (413, b"the body is larger than 100000 bytes")
    bench.close()


def test_text_fields_are_limited_together_whatever_the_body_may_be(loop):
    """CVE-2025-69228: on a route for large files, the fields stay small all the same."""
    body = closed(*(part(f"n{i}", b"x" * 900) for i in range(3)))
    reply = ask(loop, post(body, target="/large"), max_form_field_bytes=1000)

    assert (reply.status, reply.body) == (413, b"the text fields are larger than 1000 bytes")


def test_a_form_over_the_limit_is_refused_before_it_is_invited(loop):
    """413, not 100: the Content-Length says it all."""
    head = post(b"", Expect="100-continue").replace(b"Length: 0", b"Length: 2000000")
    reply = ask(loop, head)

    assert reply.status == 413


MALFORMED = [
    (closed(part("a", b"1"))[:-6], "cut short"),
    (b"", "cut short"),
    (b"no boundary at all", "malformed"),
    (b"--" + BOUNDARY.encode() + b"x", "malformed"),
    (closed(part("a", b"1")).replace(b"name", b"game"), "with a name"),
    (closed(part("a", b"1")).replace(b"form-data", b"attachment"), "with a name"),
    (closed(part("a", b"1")).replace(b"Content-Disposition", b"X"), "with a name"),
    (closed(part('a"; name="b', b"1")), "repeated parameter"),
    (closed(part("a", b"", 'Content-Disposition: form-data; name="b"')), "more than one"),
    (closed(part("a", b"")).replace(b'"a"', b'"a'), "does not end"),
    (closed(part("a", b"")).replace(b'"a"', b"a b"), "without a proper value"),
    (closed(part("a", b"")).replace(b'"a"', b'"a"b'), "does not end"),
    (closed(part("a", b"")).replace(b"form-data;", b"form-data; =x;"), "malformed or repeated"),
    (closed(part("a", b"", "X: \0")), "control character"),
    (closed(part("a", b"", "X: a\nb")), "control character"),
    (closed(part("a", b"", "X y: z")), "malformed"),
    (closed(part("a", b"", ": z")), "malformed"),
    (closed(part("a", b"", "Content-Type: multipart/mixed; boundary=x")), "multipart itself"),
    (closed(part("a", b"", "Content-Transfer-Encoding: base64")), "Content-Transfer-Encoding"),
]


@pytest.mark.parametrize(("body", "detail"), MALFORMED)
def test_a_malformed_form_is_400(loop, body, detail, caplog):
    """At once and by bytes; CVE-2024-53981: and it fills no log."""
    with caplog.at_level(logging.DEBUG):
        for path in ("/form", "/parts"):
            reply = both_ways(loop, post(body, target=path))
            assert reply.status == 400
            assert detail in reply.body.decode()
    assert not [record for record in caplog.records if "asyncio" not in record.name]


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"",
     "multipart/form-data; boundary=a; boundary=b", "multipart/form-data; boundary=\"a \"",
     "multipart/form-data; boundary=a{b", f"multipart/form-data; boundary={'b' * 71}",
     f"multipart/form-data; boundary={'b' * 5000}"],
)
def test_a_boundary_that_cannot_be_is_400(loop, content_type):
    """CVE-2026-53538: at most 70 characters of those that RFC 2046 section 5.1.1 has."""
    reply = ask(loop, post(b"--b--", content_type))
    assert reply.status == 400


def test_a_boundary_of_70_characters_is_read(loop):
    """Quoted, with all that may be in it."""
    boundary = "'()+_,-./:=? 09azAZ".ljust(70, "b")
    body = closed(part("a", b"1")).replace(BOUNDARY.encode(), boundary.encode())

    assert ask(loop, post(body, f'multipart/form-data; boundary="{boundary}"')).status == 200


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("form", "application/json"), ("form", None), ("form", "multipart/mixed; boundary=a"),
     ("parts", URLENCODED), ("parts", "text/plain")],
)
def test_what_is_no_form_is_415(loop, path, content_type):
    """The answer names what would be one (RFC 9110 section 15.5.16)."""
    headers = {} if content_type is None else {"Content_Type": content_type}
    reply = ask(loop, request(f"/{path}", method="POST", body=b"{}", **headers))

    assert reply.status == 415
    assert "multipart/form-data" in reply.headers["accept"]


def test_a_charset_that_is_not_known_is_415(loop):
    """No codec is looked up by a name that a stranger sent."""
    body = closed(part("a", b"1", "Content-Type: text/plain; charset=utf-7"))
    assert both_ways(loop, post(body)).status == 415


def operations(function, *args):
    """How many lines of Python it takes: the same in every run, whatever the machine does."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(None)
    return count


def read_all(body, size=None, **limits):
    limits = room.FormLimits(**{"max_form_fields": 10**6, "max_form_files": 10**6, **limits})
    reader = room._Reader(BOUNDARY.encode(), limits)
    size = size or len(body)
    for at in range(0, len(body), size):
        try:
            reader.feed(body[at : at + size])
        except HTTPError:
            return
        reader.events.clear()


START = b"--" + BOUNDARY.encode() + b"\r\n"
WORST = {
    "parts": lambda n: fields(n // 64),
    "data-like-a-boundary": lambda n: closed(part("a", b"\r\n-" * n)),
    "boundary-but-not-quite": lambda n: closed(
        part("a", (b"\r\n--" + BOUNDARY.encode() + b"x") * (n // 16))),
    "padding": lambda n: START[:-2] + b" " * n + b"\r\n",
    "preamble": lambda n: b"\r\n" * n,
    "epilogue": lambda n: closed(part("a", b"")) + b"\r\n-" * n,
    "header-lines": lambda n: START + b"a:b\r\n" * n,
    "header-name": lambda n: START + b"a" * n,
    "header-value": lambda n: START + b"a:" + b"\t " * n,
    "no-newline": lambda n: START + b"a:b\r" * n,
}


@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("size", [1, 7, None])
def test_twice_the_form_takes_at_most_twice_the_work(name, size):
    """CVE-2025-67726, CVE-2026-28356: no payload makes the parser quadratic."""
    small, large = (operations(read_all, WORST[name](n), size) for n in (2048, 4096))

    assert large <= 2.3 * small + 1000


@pytest.mark.parametrize(
    "value",
    ['a; name="{}"', "a; {}", "a{}", 'a; name="{}', "{}=", "a; a{}"],
)
@pytest.mark.parametrize("unit", ["a", ";", "\\\\", '\\"', " ", "a=b;", "=", '"', "*", '";"'])
def test_twice_the_header_takes_at_most_twice_the_work(value, unit):
    """CVE-2026-28356, CVE-2020-5236: header options are read without going back."""

    def read(count):
        try:
            room._parameters(value.format(unit * count))
        except HTTPError:
            pass

    assert operations(read, 2000) <= 2.3 * operations(read, 1000) + 200


# --- files -------------------------------------------------------------------------------


def descriptors():
    """The files that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return sorted(name for name in found if "deleted" in name or "/tmp" in name)


needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/fd"), reason="open files are looked up in /proc")


def test_a_file_past_the_threshold_is_on_disk(loop):
    """What fits together stays in memory; the rest is on disk, and reads the same."""
    seen = []
    body = closed(
        part("a", b"a" * 600, filename="a"), part("b", b"b" * 600, filename="b"),
        part("c", b"c" * 400, filename="c"), part("d", b"d" * 1, filename="d"))
    for pieces in (None, 1, 7):
        reply = ask(loop, post(body, target="/large"), pieces, make_app(seen),
                    form_memory_bytes=1000)
        assert reply.body == b"[600,600,400,1]"
        assert seen.pop() == [True, False, True, False]


def test_a_file_on_disk_reads_like_one_in_memory(loop):
    """read(), read(n), seek(), close(), and `file` for libraries that want one."""
    app = App()

    @app.post("/form")
    async def use(request: Request):
        upload = (await request.form())["f"]
        out = [upload.in_memory, upload.size, (await upload.read(3)).decode()]
        out.append((await upload.read()).decode())
        out.append((await upload.read()).decode())
        await upload.seek(8)
        out.append((await upload.read(-1)).decode())
        upload.file.seek(0)
        out.append([upload.file.readable(), upload.file.seekable(), upload.file.read().decode()])
        await upload.close()
        out.append(upload.file.closed)
        return out

    body = post(closed(part("f", b"0123456789", filename="f")))
    for memory, held in ((0, b"false"), (10, b"true")):
        reply = ask(loop, body, app=app, form_memory_bytes=memory)
        assert reply.body == (
            b'[%b,10,"012","3456789","","89",[true,true,"0123456789"],true]' % held)
        app = _again(app)


def test_an_upload_can_be_made_for_a_test():
    """UploadFile() stands alone."""
    upload = UploadFile(filename="a.txt", size=0)

    assert (asyncio.run(upload.read()), upload.content_type, upload.in_memory) == (b"", None, True)
    assert repr(upload) == "<UploadFile 'a.txt', 0 bytes>"


def test_the_disk_is_written_by_a_thread_in_large_pieces(loop, monkeypatch):
    """Never on the loop, one write at a time, some hundred KiB each."""
    writes = []
    append = UploadFile._append

    def watched(self, pieces):
        writes.append((threading.current_thread() is threading.main_thread(),
                       sum(map(len, pieces))))
        append(self, pieces)

    monkeypatch.setattr(UploadFile, "_append", watched)
    bench = Bench(make_app(), loop, "socket", form_memory_bytes=1000)
    link = bench.connect()
    link.send(post(closed(part("f", b"x" * 4_000_000, filename="f")), target="/large"))
    bench.wait_for(lambda: link.received)

    assert link.reply().body == b"[4000000]"
    assert not any(on_loop for on_loop, _ in writes)
    assert all(size >= room.DISK_WRITE_BYTES for _, size in writes[:-1])
    assert max(size for _, size in writes) < 3 * room.DISK_WRITE_BYTES
    bench.close()
    bench.engine.app.blocking_pool.close()


ENDS = ["answered", "raised", "refused", "cancelled", "left", "malformed"]


@needs_proc
@pytest.mark.parametrize("tasks", ["direct", "asyncio"])
@pytest.mark.parametrize("end", ENDS)
def test_temporary_files_are_gone_when_the_request_is(loop, end, tasks):
    """Answered, failed, refused, cancelled or left: closed, without the garbage collector."""
    app = App()
    gate = loop.create_future()

    @app.post("/form", cancel_on_disconnect=True)
    async def use(request: Request):
        form = await request.form()
        assert not form["f"].in_memory
        if end == "raised":
            raise HTTPError(409)
        if end == "cancelled":
            await gate
        return form["f"].size

    before = descriptors()
    file = part("f", b"x" * 50_000, filename="f")
    body = closed(file, part("g", b"y" * 700_000, filename="g"), part("a", b"1"))
    settings = {"form_memory_bytes": 1000, "tasks": tasks}
    if end == "refused":
        settings["max_form_fields"] = 0
    if end == "malformed":
        body = body[:-20]
    bench = Bench(app, loop, "fake", **settings)
    link = bench.connect()
    gc.collect()
    gc.disable()
    try:
        data = post(body)
        if end == "left":
            link.send(data[:60_000], data[60_000:500_000])
            bench.wait_for(lambda: len(descriptors()) > len(before))
            link.drop()
        else:
            link.send(data[:60_000], data[60_000:500_000], data[500_000:])
            if end == "cancelled":
                bench.wait_for(lambda: len(descriptors()) == len(before) + 2)
                link.drop()
            else:
                bench.wait_for(lambda: link.received)
                expected = {"answered": 200, "raised": 409, "refused": 413, "malformed": 400}
                assert link.reply().status == expected[end]
        bench.wait_for(lambda: descriptors() == before)
    finally:
        gc.enable()
        bench.close()
        app.blocking_pool.close()


@needs_proc
def test_a_write_that_is_under_way_closes_behind_itself(loop):
    """A request that ends while a thread writes waits for nothing, and leaves nothing."""
    app = App()
    release = threading.Event()
    begun = threading.Event()

    @app.post("/form", cancel_on_disconnect=True)
    async def use(request: Request):
        await request.form()

    append = UploadFile._append

    def held(self, pieces):
        append(self, pieces[:1])
        self._writing = True
        begun.set()
        release.wait(10)
        append(self, pieces[1:])

    before = descriptors()
    bench = Bench(app, loop, "fake", form_memory_bytes=0)
    link = bench.connect()
    UploadFile._append = held
    try:
        data = post(closed(part("f", b"x" * 600_000, filename="f")))
        link.send(data[:300_000], data[300_000:500_000])
        bench.wait_for(begun.is_set)
        link.drop()
        assert descriptors() != before
        release.set()
        bench.wait_for(lambda: descriptors() == before)
    finally:
        UploadFile._append = append
        release.set()
        bench.close()
        app.blocking_pool.close()


def test_a_full_disk_is_a_500_with_its_reason_in_the_log(loop, monkeypatch, caplog):
    """The connection goes on; nothing of it goes to the client."""
    import tempfile

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    reply = ask(loop, post(closed(part("f", b"x" * 100, filename="f"))), form_memory_bytes=0)

    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert "No space left on device" in caplog.text


def test_a_missing_extra_is_named(loop, monkeypatch, caplog):
    """500, and the log says what to install; an urlencoded form needs none."""
    for name in ("python_multipart", "python_multipart.multipart", "python_multipart.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    reply = ask(loop, post(closed(part("a", b"1"))))

    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert "pip install 'fastserve[forms]'" in caplog.text
    assert ask(loop, post(b"a=1", URLENCODED)).body == b'[["a","1"]]'


def test_a_form_is_closed_by_hand(loop):
    """form.close() closes every file at once."""
    uploads = [UploadFile(filename="a"), UploadFile(filename="b")]
    form = FormData([("a", uploads[0]), ("t", "x"), ("b", uploads[1])])
    loop.run_until_complete(form.close())

    assert [upload.file.closed for upload in uploads] == [True, True]
