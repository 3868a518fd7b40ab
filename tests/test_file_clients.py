"""Real clients and files: ranges, conditions, siblings, forms; TCP, TLS and a unix socket."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
from clients_app import MIB, content
from files_app import BROTLI, CHANGED, CHANGED_S, CONTENTS, GZIPPED, SCRIPT
from server_process import ServerProcess, output_of, serve_files, tls_flags

PATHS = ("files", "single")
MIDDLE = CONTENTS["middle.bin"]
LARGE = CONTENTS["large.bin"]
# (Range, status, Content-Range, body) of middle.bin, as RFC 9110 section 14 has them
RANGES = [
    ("bytes=0-0", 206, f"bytes 0-0/{MIB}", MIDDLE[:1]),
    ("bytes=1000-199999", 206, f"bytes 1000-199999/{MIB}", MIDDLE[1000:200_000]),
    ("bytes=1048000-", 206, f"bytes 1048000-{MIB - 1}/{MIB}", MIDDLE[1_048_000:]),
    ("bytes=-500", 206, f"bytes {MIB - 500}-{MIB - 1}/{MIB}", MIDDLE[-500:]),
    (f"bytes={MIB}-", 416, f"bytes */{MIB}", None),
    ("bytes=5-1", 200, None, MIDDLE),
    ("pages=1-2", 200, None, MIDDLE),
]
EARLIER, LATER = "Wed, 31 Dec 2025 23:59:59 GMT", "Thu, 01 Jan 2026 00:00:01 GMT"
SEVERAL = "bytes=0-9,500000-599999,-5"
WANTED = [MIDDLE[:10], MIDDLE[500_000:600_000], MIDDLE[-5:]]


@pytest.fixture(scope="module", params=["tcp", "tls"])
def served(request, tmp_path_factory) -> Iterator[ServerProcess]:
    """A server with files, for all the tests of this module."""
    directory = tmp_path_factory.mktemp("served")
    with serve_files(directory, *(tls_flags(directory) if request.param == "tls" else ())) as it:
        assert it.url.startswith("https:" if request.param == "tls" else "http:")
        yield it


@pytest.fixture
def context(served) -> ssl.SSLContext | bool:
    """What httpx and aiohttp believe; True where there is nothing to be believed."""
    if served.url.startswith("http:"):
        return True
    return ssl.create_default_context(cafile=served.ca_path)


@pytest.fixture
def client(served, context) -> Iterator[httpx.Client]:
    """httpx, with the server as its base."""
    # reading the CA bundle for a TLS that is not there would take longer than the requests
    verify = False if context is True else context
    with httpx.Client(base_url=served.url, verify=verify, timeout=60) as it:
        yield it


@pytest.fixture
def session(served) -> Iterator[requests.Session]:
    """A session of requests that believes in the server's certificate."""
    with requests.Session() as it:
        it.request = functools.partial(it.request, timeout=60)
        it.trust_env = False    # REQUESTS_CA_BUNDLE would win
        if served.url.startswith("https:"):
            it.verify = served.ca_path
        yield it


@pytest.fixture
def curl(needs, served):
    """curl(arguments, ...): what it prints on success."""
    trusted = ("--cacert", served.ca_path) if served.url.startswith("https:") else ()
    program = needs("curl")

    def curl(*arguments: str, **keywords: object) -> str:
        return output_of(program, "-sS", "--max-time", "60", *trusted, *arguments, **keywords)

    return curl


@pytest.fixture
def wget(needs, served):
    """wget(arguments, ...): what it prints on success."""
    trusted = (f"--ca-certificate={served.ca_path}",) if served.url.startswith("https:") else ()
    program = needs("wget")

    def wget(*arguments: str) -> str:
        return output_of(program, "-nv", "--tries=1", "--timeout=60", *trusted, *arguments)

    return wget


def check_several(kind: str, body: bytes) -> None:
    """The answer to SEVERAL has the three ranges, in their order."""
    boundary = re.fullmatch(r'multipart/byteranges; boundary="?([^"]+)"?', kind)[1].encode()
    first, *parts, last = (b"\r\n" + body).split(b"\r\n--" + boundary)
    assert (first, last.strip()) == (b"", b"--")
    ranges = []
    for part, wanted in zip(parts, WANTED, strict=True):
        head, _, data = part.partition(b"\r\n\r\n")
        assert data == wanted
        ranges.append(re.search(rb"(?i)content-range: (.*)", head)[1].strip().decode())
    assert ranges == [
        f"bytes 0-9/{MIB}", f"bytes 500000-599999/{MIB}", f"bytes {MIB - 5}-{MIB - 1}/{MIB}"]


# --- curl --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_downloads_files_whole(served, curl, tmp_path, path, version):
    """Files of every size, by sendfile and over TLS, and their heads."""
    for name, data in CONTENTS.items():
        saved = tmp_path / name
        url = f"{served.url}/{path}/{name}"
        assert curl(version, "-o", str(saved), "-w", "%{http_code}", url) == "200"
        assert saved.read_bytes() == data
    head = curl(version, "-I", f"{served.url}/{path}/large.bin").lower()
    assert f"content-length: {10 * MIB}\r\n" in head
    assert "accept-ranges: bytes\r\n" in head


@pytest.mark.parametrize("path", PATHS)
def test_curl_goes_on_where_it_was(served, curl, tmp_path, path):
    """-C - asks for what is missing; of a file that is whole there is nothing to ask for."""
    saved, url = tmp_path / "saved", f"{served.url}/{path}/large.bin"
    saved.write_bytes(LARGE[:7_000_000])
    report = curl("-C", "-", "-o", str(saved), "-w", "%{http_code} %{size_download}", url)
    assert report == f"206 {len(LARGE) - 7_000_000}"
    assert saved.read_bytes() == LARGE

    assert "416" in curl("-C", "-", "-o", str(saved), "-w", "%{http_code}", url, statuses=(0, 33))
    assert saved.read_bytes() == LARGE


@pytest.mark.parametrize("path", PATHS)
def test_curl_asks_for_ranges(served, curl, tmp_path, path):
    """-r with one range, and with several, which come as multipart/byteranges."""
    url, saved = f"{served.url}/{path}/middle.bin", tmp_path / "saved"
    for asked, status, told, body in RANGES[:5]:
        report = curl(
            "-r", asked.removeprefix("bytes="), "-o", str(saved), "-D", "-",
            "-w", "%{http_code}", url)
        assert report.endswith(f"\r\n\r\n{status}")
        assert f"content-range: {told}\r\n" in report.lower()
        assert body is None or saved.read_bytes() == body

    several = SEVERAL.removeprefix("bytes=")
    kind = curl("-r", several, "-o", str(saved), "-w", "%{content_type}", url)
    check_several(kind, saved.read_bytes())


@pytest.mark.parametrize("path", PATHS)
def test_curl_asks_again_only_for_what_changed(served, curl, tmp_path, path):
    """--etag-compare and -z get an empty 304, or the file where it is another or newer."""
    url, tag = f"{served.url}/{path}/middle.bin", tmp_path / "tag"
    told = ("-o", "/dev/null", "-w", "%{http_code} %{size_download}", url)
    assert curl("--etag-save", str(tag), *told) == f"200 {MIB}"
    assert tag.read_text().startswith('"')
    assert curl("--etag-compare", str(tag), *told) == "304 0"
    assert curl("-H", f'If-None-Match: "x", {tag.read_text().strip()}', *told) == "304 0"
    tag.write_text('"another"\n')
    assert curl("--etag-compare", str(tag), *told) == f"200 {MIB}"

    # "-" asks for what has not changed since. Where the server sends what was not asked for, curl
    # makes a 304 of it by itself, so the head is looked at.
    for condition, status, size in (
        (CHANGED, 304, 0), (LATER, 304, 0), (EARLIER, 200, MIB),
        (f"-{EARLIER}", 412, None), (f"-{LATER}", 200, MIB),
    ):
        report = curl("-D", "-", "-z", condition, *told)
        assert report.startswith(f"HTTP/1.1 {status} "), condition
        assert size is None or report.endswith(f"\r\n\r\n{status} {size}")


def test_curl_takes_the_sibling_that_suits_it(served, curl):
    """--compressed gets the smallest precompressed file and unpacks it; else the plain one."""
    url = f"{served.url}/files/page.js"
    told = ("-o", "/dev/null", "-w", "%{size_download} %header{content-encoding}", url)
    assert curl("--compressed", url).encode() == SCRIPT
    assert curl("--compressed", *told) == f"{len(BROTLI)} br"
    assert curl("-H", "Accept-Encoding: gzip", *told) == f"{len(GZIPPED)} gzip"
    assert curl(*told) == f"{len(SCRIPT)} "
    assert curl("-H", "Accept-Encoding: br;q=0, gzip;q=0.1", "--compressed", url).encode() == SCRIPT


def test_curl_keeps_its_connection(served, curl):
    """Files, ranges, 304, 404, 405 and 416 leave the connection in use."""
    each = ("-o", "/dev/null", "-w", "%{num_connects} ")
    again = ("--next", "-sS")
    if served.url.startswith("https:"):
        again += ("--cacert", served.ca_path)
    arguments: list[str] = []
    for options, name in (
        ((), "large.bin"), (("-r", "5-9"), "middle.bin"), (("-r", "0-1,5-9"), "large.bin"),
        (("-H", f"If-Modified-Since: {CHANGED}"), "small.bin"), ((), "nothing"),
        (("-d", "x"), "small.bin"),
        (("-r", "1000-"), "small.bin"), (("-I",), "large.bin"),
    ):
        arguments += [*each, *options, f"{served.url}/files/{name}", *again]

    assert curl(*arguments, *each, served.url).split() == ["1"] + ["0"] * 8


# --- wget --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_wget_goes_on_where_it_was(served, wget, tmp_path, path):
    """-c completes a file, and leaves one that is complete alone; without it all is fetched."""
    saved, url = tmp_path / "large.bin", f"{served.url}/{path}/large.bin"
    saved.write_bytes(LARGE[:3_000_000])
    for _ in range(2):
        wget("-c", "-P", str(tmp_path), url)
        assert saved.read_bytes() == LARGE
    saved.unlink()
    wget("-P", str(tmp_path), url)
    assert saved.read_bytes() == LARGE


@pytest.mark.parametrize("path", PATHS)
def test_wget_fetches_what_is_newer(served, wget, tmp_path, path):
    """-N keeps the time of the file, and fetches it again only when it differs."""
    saved, url = tmp_path / "middle.bin", f"{served.url}/{path}/middle.bin"
    assert "->" in wget("-N", "-P", str(tmp_path), url)
    assert saved.read_bytes() == MIDDLE
    assert saved.stat().st_mtime == CHANGED_S
    assert "304" in wget("-v", "-N", "-P", str(tmp_path), url)

    os.utime(saved, (CHANGED_S - 100, CHANGED_S - 100))
    assert "->" in wget("-N", "-P", str(tmp_path), url)
    assert saved.stat().st_mtime == CHANGED_S


def test_wget_fetches_a_page_with_what_it_needs(served, wget, tmp_path):
    """-p takes a static page apart and gets its style, its script and its picture."""
    wget("-p", "-nd", "-P", str(tmp_path), f"{served.url}/files/page.html")
    for name in ("page.html", "page.css", "page.js", "dot.png"):
        assert (tmp_path / name).read_bytes() == CONTENTS[name]


# --- Python's libraries ------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_httpx_asks_for_ranges(client, path):
    """One range of every kind, several, what is none, and If-Range."""
    url = f"/{path}/middle.bin"
    for asked, status, told, body in RANGES:
        answer = client.get(url, headers={"range": asked})
        assert (answer.status_code, answer.headers.get("content-range")) == (status, told)
        assert body is None or answer.content == body
    several = client.get(url, headers={"range": SEVERAL})
    check_several(several.headers["content-type"], several.content)

    assert client.get(f"/{path}/large.bin").content == LARGE
    tag = several.headers["etag"]
    for condition, status in ((tag, 206), ('"another"', 200), (CHANGED, 206)):
        answer = client.get(url, headers={"range": "bytes=5-9", "if-range": condition})
        assert (answer.status_code, len(answer.content)) == (status, 5 if status == 206 else MIB)


@pytest.mark.parametrize("path", PATHS)
def test_httpx_asks_on_conditions(client, path):
    """If-None-Match, If-Modified-Since, If-Match, If-Unmodified-Since; for GET and for HEAD."""
    url = f"/{path}/middle.bin"
    tag = client.head(url).headers["etag"]
    for condition, status in (
        ({"if-none-match": tag}, 304), ({"if-none-match": f'"x", W/{tag}'}, 304),
        ({"if-none-match": '"x"'}, 200), ({"if-modified-since": CHANGED}, 304),
        ({"if-match": tag}, 200), ({"if-match": '"x"'}, 412),
        ({"if-modified-since": LATER}, 304), ({"if-modified-since": EARLIER}, 200),
        ({"if-unmodified-since": EARLIER}, 412), ({"if-unmodified-since": CHANGED}, 200),
    ):
        for method in ("GET", "HEAD"):
            answer = client.request(method, url, headers=condition)
            assert answer.status_code == status, (method, condition)
            if status == 304:
                assert (answer.headers["etag"], answer.content) == (tag, b"")


def test_httpx_takes_the_sibling_that_suits_it(client):
    """Each encoding has its own tag; all of them unpack to the same."""
    answers = [
        client.get("/files/page.js", headers={"accept-encoding": accepted})
        for accepted in ("br", "gzip", "identity")
    ]
    assert [a.headers.get("content-encoding") for a in answers] == ["br", "gzip", None]
    assert {a.content for a in answers} == {SCRIPT}
    assert len({a.headers["etag"] for a in answers}) == 3
    assert {a.headers["vary"].lower() for a in answers} == {"accept-encoding"}


@pytest.mark.parametrize("path", PATHS)
def test_requests_asks_for_ranges_and_on_conditions(served, session, path):
    """The same for requests, on one session."""
    url = f"{served.url}/{path}/middle.bin"
    for asked, status, told, body in RANGES:
        answer = session.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.headers.get("content-range")) == (status, told)
        assert body is None or answer.content == body
    several = session.get(url, headers={"Range": SEVERAL})
    check_several(several.headers["content-type"], several.content)
    tag = several.headers["etag"]
    assert session.get(url, headers={"If-None-Match": tag}).status_code == 304
    assert session.get(url, headers={"If-Modified-Since": LATER}).status_code == 304
    assert session.get(f"{served.url}/files/page.js").content == SCRIPT
    assert session.get(f"{served.url}/{path}/large.bin").content == LARGE


@pytest.mark.parametrize("path", PATHS)
def test_aiohttp_asks_for_ranges_and_on_conditions(served, context, path):
    """The same for aiohttp, and a file in twenty ranges at once."""
    url = f"/{path}/middle.bin"

    async def work() -> None:
        connector = aiohttp.TCPConnector(ssl=context, limit=10)
        async with aiohttp.ClientSession(served.url, connector=connector) as client:

            async def ask(url: str, **headers: str) -> tuple[int, aiohttp.ClientResponse, bytes]:
                async with client.get(url, headers=headers) as answer:
                    return answer.status, answer, await answer.read()

            for asked, status, told, body in RANGES:
                got, answer, data = await ask(url, Range=asked)
                assert (got, answer.headers.get("content-range")) == (status, told)
                assert body is None or data == body
            _, answer, data = await ask(url, Range=SEVERAL)
            check_several(answer.headers["content-type"], data)
            tag = answer.headers["etag"]
            assert (await ask(url, **{"If-None-Match": tag}))[0] == 304
            assert (await ask(url, **{"If-Modified-Since": LATER}))[0] == 304
            assert (await ask("/files/page.js"))[2] == SCRIPT
            assert (await ask(f"/{path}/large.bin"))[2] == LARGE
            step = len(LARGE) // 20
            pieces = await asyncio.gather(*[
                ask(f"/{path}/large.bin", Range=f"bytes={i * step}-{i * step + step - 1}")
                for i in range(20)
            ])
            assert {status for status, *_ in pieces} == {206}
            assert b"".join(data for *_, data in pieces) == LARGE

    asyncio.run(work())


# --- forms -------------------------------------------------------------------------------

TEXT = "a b&c=ü\r\n"


def shown(name: str, kind: str, data: bytes) -> list[object]:
    """How /form shows a file."""
    return [name, kind, len(data), hashlib.sha256(data).hexdigest()]


def test_curl_sends_forms(served, curl, tmp_path):
    """-d, --data-urlencode and -F: fields as they are, files byte for byte, by invitation."""
    url = f"{served.url}/form"
    assert json.loads(curl("-d", "a=1&b=%C3%BC+x", "-d", "a=2", url)) == {
        "a": ["1", "2"], "b": ["ü x"]}
    assert json.loads(curl("--data-urlencode", f"text={TEXT}", url)) == {"text": [TEXT]}

    picture = tmp_path / "caf\u00e9 ;.png"
    picture.write_bytes(LARGE)
    small = tmp_path / "small"
    small.write_bytes(b"")
    answer = curl(
        "-v", "-H", "Expect: 100-continue", "--expect100-timeout", "50",
        "--form-string", f"text={TEXT}", "-F", f'file=@"{picture}"',
        "-F", f"file=@{small};filename=empty;type=a/b", "-F", f"read=<{small}", url)
    assert "< HTTP/1.1 100 Continue" in answer
    assert json.loads(re.search(r"^\{.*\}", answer)[0]) == {
        "text": [TEXT],
        "file": [shown(picture.name, "image/png", LARGE), shown("empty", "a/b", b"")],
        "read": [""],
    }


def test_libraries_send_forms(served, client, session, context):
    """Multipart and urlencoded as httpx, requests and aiohttp write them."""
    files = [
        ("file", ("a.bin", MIDDLE, "application/x-thing")), ("file", ("b.bin", b"", "a/b")),
    ]
    expected = {
        "text": [TEXT],
        "file": [shown("a.bin", "application/x-thing", MIDDLE), shown("b.bin", "a/b", b"")],
    }
    assert client.post("/form", data={"text": TEXT}, files=files).json() == expected
    assert client.post("/form", data={"text": [TEXT, "2"]}).json() == {"text": [TEXT, "2"]}
    url = f"{served.url}/form"
    assert session.post(url, data={"text": TEXT}, files=files).json() == expected
    assert session.post(url, data={"text": [TEXT, "2"]}).json() == {"text": [TEXT, "2"]}

    async def work() -> None:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("text", TEXT)
        for _, (name, data, kind) in files:
            form.add_field("file", data, filename=name, content_type=kind)
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(served.url, connector=connector) as third:
            async with third.post("/form", data=form) as answer:
                assert await answer.json() == expected
            async with third.post("/form", data=[("text", TEXT), ("text", "2")]) as answer:
                assert await answer.json() == {"text": [TEXT, "2"]}

    asyncio.run(work())


# --- everything else, over TLS as well ---------------------------------------------------


def test_uploads_and_streams_go_both_ways(served, client, curl, tmp_path):
    """What is streamed up and down is whole, and a connection serves all of it."""
    digest = hashlib.sha256(LARGE).hexdigest()
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    assert json.loads(curl("-T", str(path), f"{served.url}/count"))["sha256"] == digest
    assert json.loads(curl("-T", "-", f"{served.url}/count", stdin=LARGE))["sha256"] == digest
    ports = set()
    for stream in ("stream", "stream-sync", "stream-sized", "trailed", "large"):
        assert client.get(f"/{stream}/{MIB}").content == MIDDLE
        pieces = (MIDDLE[i : i + 10_000] for i in range(0, MIB, 10_000))
        assert client.put("/count", content=pieces).json()["size"] == MIB
        ports.add(client.get("/seen").json()["port"])
    assert len(ports) == 1
    assert content(100) == client.get("/stream/100").content


@pytest.mark.parametrize("path", ["stream/30000", "files/middle.bin"])
def test_load_generators_see_no_error(served, needs, path):
    """wrk and h2load, over TLS too, for a second: every answer is a 200, and whole."""
    report = output_of(needs("wrk"), "-t1", "-c8", "-d1s", f"{served.url}/{path}")
    assert int(re.search(r"(\d+) requests in", report)[1]) > 10
    assert "Non-2xx" not in report
    assert "Socket errors" not in report
    report = output_of(
        needs("h2load"), "--h1", "-n", "100", "-c", "5", "-m", "4", f"{served.url}/{path}")
    assert "100 succeeded, 0 failed, 0 errored" in report
    assert "status codes: 100 2xx" in report


# --- over a unix socket ------------------------------------------------------------------


@pytest.fixture(scope="module")
def socket_path() -> Iterator[str]:
    """Where a server with files listens that has no port."""
    with tempfile.TemporaryDirectory(prefix="files") as directory:
        path = f"{directory}/socket"
        with serve_files(Path(directory), "--uds", path):
            yield path


def test_curl_over_a_unix_socket(socket_path, needs, tmp_path):
    """Files, resumption, ranges, conditions and a form, over a connection that is kept."""
    saved, small = tmp_path / "saved", tmp_path / "small"
    saved.write_bytes(LARGE[:3_000_000])
    small.write_bytes(MIDDLE)
    asked = (
        (("-C", "-", "-o", str(saved)), "files/large.bin"), (("-r", "5-9"), "single/large.bin"),
        (("-H", f"If-Modified-Since: {LATER}"), "files/middle.bin"), (("-I",), "files/large.bin"),
        (("-T", str(small)), "count"), (("-F", f"file=@{small}"), "form"), ((), "files/nothing"),
    )
    arguments: list[str] = []
    for options, path in asked:
        kept = () if "-o" in options else ("-o", "/dev/null")
        arguments += [
            "--next", "-sS", "--unix-socket", socket_path, "--max-time", "60", *kept, *options,
            "-w", "%{http_code} %{num_connects}\n", f"http://here/{path}"]

    report = output_of(needs("curl"), *arguments[1:])
    assert report.splitlines() == ["206 1", "206 0", "304 0", "200 0", "200 0", "200 0", "404 0"]
    assert saved.read_bytes() == LARGE


@pytest.mark.parametrize("path", PATHS)
def test_libraries_over_a_unix_socket(socket_path, path):
    """httpx and aiohttp: whole files, ranges, conditions."""
    url = f"/{path}/middle.bin"
    transport = httpx.HTTPTransport(uds=socket_path, verify=False)
    with httpx.Client(transport=transport, base_url="http://here", timeout=60) as client:
        assert client.get(f"/{path}/large.bin").content == LARGE
        for asked, status, told, body in RANGES:
            answer = client.get(url, headers={"range": asked})
            assert (answer.status_code, answer.headers.get("content-range")) == (status, told)
            assert body is None or answer.content == body
        several = client.get(url, headers={"range": SEVERAL})
        check_several(several.headers["content-type"], several.content)
        assert client.get(url, headers={"if-modified-since": LATER}).status_code == 304

    async def work() -> list[bytes]:
        connector = aiohttp.UnixConnector(socket_path)
        async with aiohttp.ClientSession("http://here", connector=connector) as client:

            async def ask() -> bytes:
                async with client.get(url) as answer:
                    return await answer.read()

            return await asyncio.gather(*[ask() for _ in range(20)])

    assert set(asyncio.run(work())) == {MIDDLE}


def test_h2load_over_a_unix_socket(socket_path, needs):
    """Files and streams, several requests on the way at once."""
    for path in ("files/middle.bin", "single/small.bin", "stream/30000"):
        report = output_of(
            *(needs("h2load"), "--h1", "-n", "100", "-c", "5", "-m", "4"),
            *("-B", f"unix:{socket_path}", f"http://here/{path}"),
        )
        assert "100 succeeded, 0 failed, 0 errored" in report
        assert "status codes: 100 2xx" in report
