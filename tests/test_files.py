"""FileResponse and app.static(): what a client gets for a file."""

import email
import os
import re
import time
from datetime import timedelta
from email.utils import formatdate, parsedate_to_datetime

import pytest

from fastserve import App, FileResponse, RouteError
from fastserve.files import HASHED, StaticFiles, content_disposition
from fastserve.mediatypes import media_type
from fastserve.testing import TestClient

THEN = 1_000_000_000
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
TAG = f'"{THEN * 10**9:x}-5"'


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "a.txt", b"hello")
    write(tmp_path, "large.bin", bytes(range(256)) * 4096)
    write(tmp_path, "empty.txt", b"")
    write(tmp_path, "index.html", b"<h1>home</h1>")
    write(tmp_path, "docs/index.html", b"<h1>docs</h1>")
    write(tmp_path, "plain/file.txt", b"x")
    write(tmp_path, "app.js", b"x" * 1000)
    write(tmp_path, "app.js.gz", b"g" * 300)
    write(tmp_path, "app.js.br", b"b" * 200)
    write(tmp_path, "app.js.zst", b"z" * 250)
    write(tmp_path, "app.3f2a9c1b.js", b"hashed")
    return tmp_path


def write(folder, name, content, when=THEN):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (when, when))


@pytest.fixture
def client(folder):
    app = App()
    app.static("/s", folder)

    @app.route("/one", methods=["GET", "POST"])
    def one():
        return FileResponse(folder / "a.txt", headers={"x-own": "yes"})

    @app.get("/missing")
    def missing():
        return FileResponse(folder / "nope")

    @app.get("/folder")
    def of_a_folder():
        return FileResponse(folder)

    @app.get("/gone")
    def gone():
        return FileResponse(folder / "a.txt", 410)

    @app.get("/download")
    async def download():
        return FileResponse(folder / "large.bin", filename="Übersicht.pdf", max_age_s=60)

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("path", ["/s/a.txt", "/one"])
def test_a_file_comes_with_its_validators(client, path):
    """Type, length, tag, date, and that ranges can be had."""
    reply = client.get(path)

    assert (reply.status, reply.body) == (200, b"hello")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["etag"] == TAG
    assert reply.headers["last-modified"] == DATE
    assert reply.headers["accept-ranges"] == "bytes"
    assert "cache-control" not in reply.headers


@pytest.mark.parametrize("path", ["/s/a.txt", "/one", "/s/large.bin", "/s/empty.txt"])
def test_head_says_what_get_would(client, path):
    """The same fields, no body."""
    get, head = client.get(path), client.head(path)

    assert head.body == b""
    assert dict(head.headers.items()) | {"date": ""} == dict(get.headers.items()) | {"date": ""}


CONDITIONS = [
    ({"if-none-match": TAG}, 304), ({"if-none-match": f"W/{TAG}"}, 304),
    ({"if-none-match": "*"}, 304), ({"if-none-match": '"x"'}, 200),
    ({"if-modified-since": DATE}, 304),
    ({"if-modified-since": "Sun, 09 Sep 2001 01:46:39 GMT"}, 200),
    ({"if-modified-since": "Sunday, 09-Sep-01 01:46:40 GMT"}, 304),
    ({"if-none-match": '"x"', "if-modified-since": DATE}, 200),
    ({"if-match": TAG}, 200), ({"if-match": '"x"'}, 412), ({"if-match": f"W/{TAG}"}, 412),
    ({"if-unmodified-since": DATE}, 200),
    ({"if-unmodified-since": "Sun, 09 Sep 2001 01:46:39 GMT"}, 412),
    ({"if-match": TAG, "if-none-match": TAG}, 304),
    ({"if-match": '"x"', "if-none-match": TAG}, 412),
    ({"range": "bytes=1-2"}, 206), ({"range": "bytes=1-2", "if-range": TAG}, 206),
    ({"range": "bytes=1-2", "if-range": '"x"'}, 200),
    ({"range": "bytes=1-2", "if-range": DATE}, 206),
    ({"range": "bytes=1-2", "if-none-match": TAG}, 304),
    ({"range": "bytes=9-"}, 416), ({"range": "bytes=9-", "if-range": '"x"'}, 200),
    ({"range": "lines=1-2"}, 200),
]


@pytest.mark.parametrize(("headers", "status"), CONDITIONS, ids=str)
@pytest.mark.parametrize("path", ["/s/a.txt", "/one"])
def test_conditions_are_answered(client, path, headers, status):
    """GET as the RFC says; HEAD alike, but without ranges; other methods know no conditions."""
    reply = client.get(path, headers=headers)

    assert reply.status == status
    if status == 304:
        assert reply.body == b""
        assert reply.headers["etag"] == TAG
        assert "content-type" not in reply.headers
        assert "content-length" not in reply.headers
    elif status == 206:
        assert reply.body == b"el"
        assert reply.headers["content-range"] == "bytes 1-2/5"
    elif status == 416:
        assert reply.headers["content-range"] == "bytes */5"
    assert client.head(path, headers=headers).status == (status if status in (304, 412) else 200)
    if path == "/one":
        assert client.post(path, headers=headers).status == 200


def test_a_repeated_condition_is_one_list(client):
    """RFC 9110 section 5.3."""
    headers = [("if-none-match", '"x"'), ("If-None-Match", TAG)]

    assert client.get("/s/a.txt", headers=headers).status == 304


def test_several_ranges_are_a_multipart(client, folder):
    """Each part has its type and its place; the boundary is another one every time."""
    field = {"range": "bytes=0-1,1000000-,-1"}
    replies = [client.get("/s/large.bin", headers=field) for _ in range(2)]
    content = (folder / "large.bin").read_bytes()
    for reply in replies:
        assert reply.status == 206
        assert "content-range" not in reply.headers
        head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + reply.body).get_payload()
        assert [part.get_payload(decode=True) for part in parts] == [
            content[:2], content[1000000:], content[-1:]]
        assert [part["content-range"] for part in parts] == [
            f"bytes 0-1/{len(content)}", f"bytes 1000000-{len(content) - 1}/{len(content)}",
            f"bytes {len(content) - 1}-{len(content) - 1}/{len(content)}"]
        assert {part["content-type"] for part in parts} == {"application/octet-stream"}
    assert replies[0].headers["content-type"] != replies[1].headers["content-type"]


def test_too_many_ranges_get_all_of_it(client):
    """CVE-2025-62727: bounded before anything is made of them."""
    field = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 34, 2))
    reply = client.get("/s/large.bin", headers={"range": field})

    assert (reply.status, len(reply.body)) == (200, 256 * 4096)


CODINGS = [
    (None, None, 1000), ("gzip", "gzip", 300), ("br", "br", 200), ("zstd", "zstd", 250),
    ("gzip, br, zstd", "br", 200), ("gzip;q=1, br;q=0.5", "gzip", 300), ("*", "br", 200),
    ("br;q=0, *;q=0.1", "zstd", 250), ("identity", None, 1000), ("deflate", None, 1000),
    ("gzip;q=0", None, 1000), ("identity;q=1, gzip;q=0.5", None, 1000), ("", None, 1000),
    ("x-gzip", "gzip", 300),
]


@pytest.mark.parametrize(("accept", "coding", "size"), CODINGS, ids=str)
def test_a_sibling_in_a_coding_is_sent_where_it_is_welcome(client, accept, coding, size):
    """The best weight, then the smallest; each with a tag of its own and the same type."""
    headers = {} if accept is None else {"accept-encoding": accept}
    for _ in range(2):      # the second time it is known
        reply = client.get("/s/app.js", headers=headers)
        assert (reply.headers.get("content-encoding"), len(reply.body)) == (coding, size)
        assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
        assert reply.headers["vary"] == "Accept-Encoding"
        assert reply.headers["etag"].endswith(f'-{coding}"' if coding else f'{size:x}"')


def test_a_tag_of_one_coding_is_not_that_of_another(client):
    """A cache must not take one for the other (RFC 9110 section 8.8.3.3)."""
    tag = client.get("/s/app.js", headers={"accept-encoding": "gzip"}).headers["etag"]

    same = client.get("/s/app.js", headers={"accept-encoding": "gzip", "if-none-match": tag})
    other = client.get("/s/app.js", headers={"accept-encoding": "br", "if-none-match": tag})
    assert (same.status, same.headers["vary"]) == (304, "Accept-Encoding")
    assert other.status == 200


def test_a_compressed_file_by_its_own_name_has_no_coding(client):
    """It is what was asked for."""
    reply = client.get("/s/app.js.gz", headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in reply.headers
    assert reply.headers["content-type"] == "application/gzip"


def test_a_directory_is_its_index(client):
    """With the slash; without it a redirect that keeps the query; the root as well."""
    assert client.get("/s/docs/").body == b"<h1>docs</h1>"
    assert client.get("/s/").body == b"<h1>home</h1>"
    for path in ("/s/docs", "/s"):
        reply = client.get(f"{path}?a=%20b")
        assert (reply.status, reply.headers["location"]) == (307, f"{path}/?a=%20b")
    assert client.get("/s/plain").status == 404     # it has no index
    assert client.get("/s/plain/").status == 404


def served(folder, url, headers=(), **options):
    app = App()
    app.static("/s", folder, **options)
    with TestClient(app) as client:
        return client.get(url, headers=headers)


def test_redirect_and_index_may_be_off(folder):
    """Then a directory is a 404."""
    assert served(folder, "/s/docs", redirect=False).status == 404
    assert served(folder, "/s/docs/", redirect=False).status == 200
    assert served(folder, "/s", index=None).status == 404
    assert served(folder, "/s/", index=None).status == 404
    assert served(folder, "/s/docs/", index="other.html").status == 404


def test_the_fallback_is_for_those_who_ask_for_html(folder):
    """A page of a single-page application, never in place of a script; not kept by caches."""
    page = {"accept": "text/html,*/*;q=0.8"}
    reply = served(folder, "/s/users/7", page, fallback="index.html", max_age_s=60)

    assert (reply.status, reply.body) == (200, b"<h1>home</h1>")
    assert reply.headers["cache-control"] == "no-cache"
    assert "Accept" in reply.headers["vary"]
    assert served(folder, "/s/gone.js", {"accept": "*/*"}, fallback="index.html").status == 404
    assert served(folder, "/s/users/7", page).status == 404
    assert served(folder, "/s/../a.txt", page, fallback="index.html").status == 404
    assert served(folder, "/s/.env", page, fallback="index.html").status == 404


@pytest.mark.parametrize(
    ("keep_bytes", "second"), [(131072, b"hello"), (4, b"HELLO"), (0, b"HELLO")])
def test_content_may_be_read_for_each_request(folder, keep_bytes, second):
    """Files up to keep_bytes stay in memory for a second; others are read again each time."""
    app = App()
    app.static("/s", folder, keep_bytes=keep_bytes)
    with TestClient(app) as client:
        assert client.get("/s/a.txt").body == b"hello"
        descriptor = os.open(folder / "a.txt", os.O_WRONLY)     # in place: only reading tells
        os.write(descriptor, b"HELLO")
        os.close(descriptor)
        os.utime(folder / "a.txt", (THEN, THEN))
        assert client.get("/s/a.txt").body == second
        assert client.head("/s/a.txt").headers["content-length"] == "5"
        assert client.get("/s/app.js", headers={"accept-encoding": "br"}).body == b"b" * 200
        assert client.get("/s/a.txt", headers={"range": "bytes=1-2"}).body == second[1:3]


def test_small_files_that_are_not_kept_are_read_and_sent_with_their_head(folder, monkeypatch):
    """Up to 64 KiB in one piece; larger ones, and what needs the disk, by the kernel."""
    from fastserve._speedups import files

    write(folder, "b.bin", b"b" * 65536)
    app = App()
    app.static("/files", folder, keep_bytes=0)
    serve = app.routes[0].endpoint
    kinds = []

    @app.get("/s/{path:path}")
    async def static(request, path):
        answer = serve(request, path)
        answer = await answer if hasattr(answer, "__await__") else answer
        kinds.append(type(answer).__name__)
        return answer

    def ask(name, **options):
        reply = client.get(f"/s/{name}", **options)
        whole = (folder / name).read_bytes()
        assert reply.body == (whole[1:3] if options else whole)
        return kinds.pop()

    with TestClient(app) as client:
        for name, kind in (("a.txt", "Response"), ("b.bin", "Response"), ("empty.txt", "Response"),
                           ("large.bin", "PartsResponse")):
            assert [ask(name), ask(name)] == [kind, kind]
        assert ask("b.bin", headers={"range": "bytes=1-2"}) == "PartsResponse"
        monkeypatch.setattr(files, "read_file", lambda file, cached: never())
        assert ask("a.txt") == "PartsResponse"


def never():
    raise BlockingIOError


@pytest.mark.parametrize("wrong", [-1, 131073, 1.5, None, True])
def test_keep_bytes_has_bounds(folder, wrong):
    """Larger files are sent by the kernel, which needs no memory of ours."""
    with pytest.raises(RouteError, match=f"keep_bytes={wrong!r}: give a number of bytes up to"):
        App().static("/s", folder, keep_bytes=wrong)


def test_a_hashed_name_is_kept_for_ever(folder):
    """Its content never changes; other names get max_age_s, or nothing."""
    for_ever = "public, max-age=31536000, immutable"

    assert served(folder, "/s/app.3f2a9c1b.js").headers["cache-control"] == for_ever
    assert served(folder, "/s/a.txt", max_age_s=60).headers["cache-control"] == "max-age=60"
    assert "cache-control" not in served(folder, "/s/app.3f2a9c1b.js", immutable=None).headers
    assert served(folder, "/s/a.txt", immutable=r"^a\.").headers["cache-control"] == for_ever


@pytest.mark.parametrize(("name", "hashed"), [
    ("app.3f2a9c1b.js", True), ("index-BxT3aK9Z.css", True), ("main_0123456789abcdef.js", True),
    ("style.d41d8cd98f00b204e9800998ecf8427e.css", True),
    ("report-20240131.pdf", False), ("app.js", False), ("app.min.js", False),
    ("jquery-3.7.1.js", False), ("deadbeef", False), ("app.facade.js", False),
    ("my-document.pdf", False), ("bootstrap-extended.css", False), ("3f2a9c1b.js", False),
])
def test_what_looks_hashed(name, hashed):
    """Letters and figures both, in a part of its own: a date or a word is none."""
    assert bool(re.search(HASHED, name)) is hashed


def test_headers_of_ones_own_win(folder):
    """For every file of a directory, and of one response."""
    app = App()
    app.static("/s", folder, max_age_s=60, headers={"cache-control": "private", "x-a": "1"})
    with TestClient(app) as client:
        reply = client.get("/s/a.txt")
        unchanged = client.get("/s/a.txt", headers={"if-none-match": TAG})
    assert reply.headers.getlist("cache-control") == ["private"]
    assert reply.headers["x-a"] == "1"
    assert (unchanged.status, unchanged.headers["cache-control"]) == (304, "private")


def test_a_file_that_changes_is_seen_within_a_second(folder):
    """What is believed for a second is whole: never a new length with old content."""
    now = [0.0]
    app = App()
    files = StaticFiles(folder, app.blocking_pool, clock=lambda: now[0])
    app.get("/s/{path:path}")(files.shelf.get)
    with TestClient(app) as client:
        first = client.get("/s/a.txt")
        write(folder, "a.txt", b"changed", THEN + 5)
        now[0] = 0.99
        second = client.get("/s/a.txt")
        now[0] = 1.0
        third = client.get("/s/a.txt")
        write(folder, "large.bin", b"short", THEN + 5)      # never kept: seen at once
        fourth = client.get("/s/large.bin")

    assert first.body == second.body == b"hello"
    assert (third.body, third.headers["content-length"]) == (b"changed", "7")
    assert third.headers["etag"] != first.headers["etag"]
    assert fourth.body == b"short"


@pytest.mark.parametrize(("size", "bound"), [(5, 1024), (100_000, 167)])
def test_what_is_remembered_is_bounded(folder, size, bound):
    """By entries and by bytes: a stranger may spell one path in many ways."""
    write(folder, "abcdefghijkl", b"x" * size)
    app = App()
    files = StaticFiles(folder, app.blocking_pool, clock=lambda: 0.0)
    app.get("/s/{path:path}")(files.shelf.get)
    with TestClient(app) as client:
        for number in range(bound + 20):
            spelled = "".join(
                f"%{ord(c):x}" if number >> i & 1 else c for i, c in enumerate("abcdefghijkl"))
            assert client.get(f"/s/{spelled}").status == 200

    assert len(files.shelf) == bound


@pytest.mark.parametrize("seconds", [0, 68169600, 951782399, 951782400, 1709251199, 1767225599])
def test_the_date_of_a_file_is_that_of_the_calendar(folder, seconds):
    """The epoch, leap days, the ends of years: as the standard library writes them."""
    write(folder, "old.txt", b"hello", seconds)

    assert served(folder, "/s/old.txt").headers["last-modified"] == formatdate(seconds, usegmt=True)


def test_a_fresh_file_has_a_weak_tag(folder):
    """It may change again within the second and look the same (RFC 9110 section 8.8.1)."""
    write(folder, "now.txt", b"hello", time.time())
    write(folder, "future.txt", b"hello", time.time() + 3600)
    tag = served(folder, "/s/now.txt").headers["etag"]
    future = served(folder, "/s/future.txt")

    assert tag.startswith('W/"')
    assert served(folder, "/s/now.txt", {"if-none-match": tag}).status == 304
    assert served(folder, "/s/now.txt", {"if-none-match": tag[2:]}).status == 304
    assert served(folder, "/s/now.txt", {"if-match": tag}).status == 412
    claimed, date = (
        parsedate_to_datetime(future.headers[name]) for name in ("last-modified", "date"))
    assert claimed - date < timedelta(minutes=1), "section 8.8.2.1: not the hour that it is ahead"
    assert future.headers["etag"].startswith("W/")


def test_a_status_of_ones_own_takes_no_part_in_conditions(client):
    """An error page is not what the client has kept."""
    reply = client.get("/gone", headers={"if-none-match": TAG, "range": "bytes=0-1"})

    assert (reply.status, reply.body) == (410, b"hello")
    assert "etag" not in reply.headers
    assert "accept-ranges" not in reply.headers


def test_a_file_that_is_not_there_is_a_404(client):
    """So is a directory; own fields stay with the file."""
    assert client.get("/missing").status == 404
    assert client.get("/folder").status == 404
    assert client.get("/s/nope").status == 404
    assert client.get("/one").headers["x-own"] == "yes"
    assert client.get("/one", headers={"if-none-match": TAG}).headers["x-own"] == "yes"


def test_a_download_has_a_name(client):
    """And the type of that name."""
    reply = client.get("/download")

    assert reply.headers["content-disposition"] == (
        "attachment; filename=\"_bersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf")
    assert reply.headers["content-type"] == "application/pdf"
    assert reply.headers["cache-control"] == "max-age=60"


@pytest.mark.parametrize(("name", "expected"), [
    ("a.txt", 'attachment; filename="a.txt"'),
    ("with space.txt", 'attachment; filename="with space.txt"'),
    ('q"uote.txt', "attachment; filename=\"q_uote.txt\"; filename*=UTF-8''q%22uote.txt"),
    ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
    ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
    ("a\r\nSet-Cookie: x", 'attachment; filename="a__Set-Cookie: x"'),
    ("naïve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
    ("\ud800.txt", "attachment; filename=\"_.txt\"; filename*=UTF-8''%3F.txt"),
])
def test_content_disposition(name, expected):
    """RFC 6266 and RFC 8187; a name from a stranger is no path and no header."""
    assert content_disposition(name) == expected
    assert content_disposition(name, inline=True) == expected.replace("attachment", "inline")


def test_types_are_ours_and_text_is_utf8():
    """Not what the machine's tables say."""
    assert media_type("a/b/app.js") == "text/javascript; charset=utf-8"
    assert media_type("X.HTML") == "text/html; charset=utf-8"
    assert media_type("a.wasm") == "application/wasm"
    assert media_type("a.tar.gz") == "application/gzip"
    assert media_type("a.svg") == "image/svg+xml"
    assert media_type("Makefile") == media_type("a.unknown") == "application/octet-stream"
    assert media_type("dir.html/file") == "application/octet-stream"


@pytest.mark.parametrize(("options", "problem"), [
    ({"directory": "nowhere"}, "cannot be served"), ({"directory": "a.txt"}, "cannot be served"),
    ({"index": "../x"}, "index="), ({"index": "a/b"}, "index="),
    ({"fallback": "/etc/passwd"}, "fallback="),
    ({"max_age_s": -1}, "max_age_s="), ({"max_age_s": 1.5}, "max_age_s="),
    ({"immutable": "("}, "immutable="), ({"headers": {"a b": "c"}}, "a b"), ({"nope": 1}, "nope"),
])
def test_a_mistake_is_told_when_it_is_made(folder, options, problem):
    """A RouteError at registration names the path and the option; nothing was added."""
    app = App()
    directory = folder / options.pop("directory", "")
    with pytest.raises(RouteError, match=problem.replace("(", r"\(")) as told:
        app.static("/s", directory, **options)

    assert "'/s'" in str(told.value)
    assert app.routes == ()


@pytest.mark.parametrize(("arguments", "error"), [
    (("a\0b",), ValueError), ((7,), TypeError), (("a", 99), ValueError),
])
def test_a_file_response_refuses_what_cannot_be_sent(arguments, error):
    """In the handler, not on the wire."""
    with pytest.raises(error):
        FileResponse(*arguments)


def test_static_files_have_names_and_stand_behind_routes(folder):
    """url_for knows them, and a route of the application goes first."""
    app = App()
    app.static("/", folder)
    app.static("/assets", folder, name="files")

    @app.get("/a.txt")
    def own():
        return "mine"

    with TestClient(app) as client:
        assert client.get("/a.txt").text == "mine"
        assert client.get("/").body == b"<h1>home</h1>"
        assert client.get("/docs/").body == b"<h1>docs</h1>"
        assert client.get("/assets/a.txt").body == b"hello"
        assert client.post("/assets/a.txt").status == 405
    assert app.url_for("files", path="docs/x y.txt") == "/assets/docs/x%20y.txt"


def test_middleware_may_change_what_is_sent(folder):
    """And what it changes is not remembered for the next one."""
    app = App()
    app.static("/s", folder)
    count = []

    @app.middleware
    async def mark(request, call_next):
        response = await call_next(request)
        count.append(1)
        response.headers[f"x-{len(count)}"] = "seen"
        return response

    with TestClient(app) as client:
        client.get("/s/a.txt")
        reply = client.get("/s/a.txt")
        large = client.get("/s/large.bin")
    assert [name for name in reply.headers if name.startswith("x-")] == ["x-2"]
    assert len(large.body) == 256 * 4096
    assert large.headers["x-3"] == "seen"


def test_an_exception_handler_makes_the_404(folder):
    """Of files as of anything else."""
    app = App()
    app.static("/s", folder)

    @app.exception_handler(404)
    def page(request, error):
        return "no such page", 404

    with TestClient(app) as client:
        assert client.get("/s/nope").text == "no such page"
