"""Real command-line and library clients against a real server process."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
from clients_app import MIB, STYLE, content
from server_process import ServerProcess, output_of, serve_in_process


@pytest.fixture(scope="module", params=["native", "httptools"])
def served(request, tmp_path_factory) -> Iterator[ServerProcess]:
    """A server for all the tests of this module; none may make it fail."""
    with serve_in_process(tmp_path_factory.mktemp("served"), "--http", request.param) as served:
        yield served


@pytest.fixture
def server(served) -> str:
    """The server's base URL."""
    return served.url


@pytest.fixture
def upload(tmp_path):
    """upload(size): a file of that many bytes, and what /count says of it."""

    def upload(size: int) -> tuple[str, dict[str, object]]:
        path = tmp_path / f"upload-{size}"
        path.write_bytes(content(size))
        return str(path), counted(size)

    return upload


def counted(size: int) -> dict[str, object]:
    """What /count answers, without the number of pieces."""
    return {"size": size, "sha256": hashlib.sha256(content(size)).hexdigest()}


def without_pieces(answer: dict[str, object]) -> dict[str, object]:
    assert answer.pop("pieces") >= 0
    return answer


# --- curl --------------------------------------------------------------------------------


@pytest.fixture
def curl(needs):
    """curl(arguments, ...): what it prints on success."""
    program = needs("curl")

    def curl(*arguments: str, **keywords: object) -> str:
        return output_of(program, "-sS", "--max-time", "60", *arguments, **keywords)

    return curl


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0", "--raw", "--http2"])
def test_curl_gets_text_json_and_nothing(server, curl, version, tmp_path):
    """Every kind of answer arrives in HTTP/1.0 and 1.1; an offer of h2c is not taken."""
    assert curl(version, server) == "Hello, World!"
    assert curl(version, f"{server}/users/7?page=2") == '{"id":7,"page":"2"}'
    assert curl(version, "-w", "%{http_code} %{http_version}", f"{server}/nothing") == "204 1.1"
    assert curl(version, "-w", " %{http_code}", f"{server}/teapot") == "short and stout 418"
    assert curl(version, "-d", "some bytes", f"{server}/echo") == "some bytes"
    whole = tmp_path / "whole"
    curl(version, "-o", str(whole), f"{server}/large/{5 * MIB}")
    assert whole.read_bytes() == content(5 * MIB)


def test_curl_asks_for_heads_and_options(server, curl):
    """HEAD has the headers of GET and no body; OPTIONS and 405 name the methods."""
    head = curl("-I", f"{server}/large/1000")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "content-length: 1000\r\n" in head.lower()
    assert "HTTP/1.1 404 " in curl("-I", f"{server}/nowhere")
    for method, status in (("OPTIONS", 204), ("POST", 405)):
        answer = curl("-i", "-X", method, server)
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert "\r\nallow: get, head, options\r\n" in answer.lower()


def test_curl_uploads_a_file(server, curl, upload):
    """-T sends a PUT of known length, after an invitation where it is large."""
    for size in (0, 1000, 5 * MIB):
        path, expected = upload(size)
        assert without_pieces(json.loads(curl("-T", path, f"{server}/count"))) == expected


def test_curl_uploads_what_it_is_piped(server, curl):
    """-T - sends a chunked body, whose end only shows when it is there."""
    for size in (0, 1000, 5 * MIB):
        answer = curl("-T", "-", f"{server}/count", stdin=content(size))
        assert without_pieces(json.loads(answer)) == counted(size)


@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"]])
def test_curl_waits_for_the_invitation(server, curl, upload, framing):
    """A large body is sent when 100 Continue came, which it does at once."""
    path, expected = upload(2 * MIB)
    answer = curl(
        *("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "50", *framing),
        *("--data-binary", f"@{path}", f"{server}/count"),
    )
    assert "< HTTP/1.1 100 Continue" in answer
    body = re.search(r"\{.*\}", answer)[0]
    assert without_pieces(json.loads(body)) == expected


def test_curl_is_not_invited_to_what_is_refused(server, curl, upload):
    """A body over the limit is refused before it is sent, where the client asked first."""
    path, _ = upload(2 * MIB)
    answer = curl(
        *("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "50"),
        *("-w", "sent %{size_upload}", "--data-binary", f"@{path}", f"{server}/small"),
    )
    assert "< HTTP/1.1 413 " in answer
    assert "100 Continue" not in answer
    assert "sent 0" in answer


@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"]])
def test_curl_reads_its_refusal_while_it_uploads(server, curl, upload, framing):
    """Who uploads unasked reads the 413 instead of a reset connection."""
    path, _ = upload(200_000)
    answer = curl(
        *("-i", "-H", "Expect:", *framing, "--data-binary", f"@{path}", f"{server}/small"))
    assert answer.startswith("HTTP/1.1 413 ")


def test_curl_unpacks(server, curl):
    """--compressed asks for gzip and gets what was packed; without it, plain."""
    assert curl("--compressed", f"{server}/zipped") == "zipped " * 1000
    assert curl(f"{server}/zipped") == "not zipped"


def test_curl_keeps_its_connection(server, curl):
    """Requests of every kind, one behind the other, take one connection."""
    each = ("-o", "/dev/null", "-w", "%{num_connects} ")
    urls = [f"{server}{path}" for path in ("/", "/large/100000", "/nothing", "/nowhere", "/tagged")]
    arguments: list[str] = []
    for url in urls:
        arguments += [*each, url, "--next", "-sS"]
    arguments += [*each, "-I", f"{server}/large/1000", "--next", "-sS"]
    arguments += [*each, "-d", "x", f"{server}/echo", "--next", "-sS"]
    arguments += [*each, "-H", 'If-None-Match: "a-tag"', f"{server}/tagged", "--next", "-sS"]
    arguments += [*each, server]

    assert curl(*arguments).split() == ["1"] + ["0"] * 8


def test_curl_follows_and_carries_cookies(server, curl, tmp_path):
    """Redirects are followed, a 307 with its body; a cookie jar fills and empties."""
    jar = str(tmp_path / "jar")
    assert curl("-L", f"{server}/redirect/5") == "Hello, World!"
    assert curl("-L", "-d", "kept", f"{server}/moved") == "kept"
    answer = curl("-L", "-c", jar, "-b", jar, f"{server}/cookies/set?a=1&hidden=2")
    assert json.loads(answer) == {"a": "1", "hidden": "2"}
    assert json.loads(curl("-L", "-c", jar, "-b", jar, f"{server}/cookies/delete/a")) == {
        "hidden": "2"}


def test_curl_asks_again_only_for_what_changed(server, curl, tmp_path):
    """--etag-save and --etag-compare: the second answer is an empty 304."""
    tag = str(tmp_path / "tag")
    assert curl("--etag-save", tag, f"{server}/tagged") == "the body behind the tag"
    assert curl("--etag-compare", tag, "-w", "%{http_code}", f"{server}/tagged") == "304"


def test_curl_is_refused_an_upgrade(server, curl):
    """A WebSocket handshake to a plain route is answered as the request that it also is."""
    answer = curl(
        *("-i", "--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
        *("-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "-H", "Sec-WebSocket-Version: 13"),
        server,
    )
    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.endswith("Hello, World!")


def test_curl_asks_for_much_at_once(server, curl):
    """Fifty transfers side by side, all of them whole."""
    answer = curl(
        *("-Z", "--parallel-immediate", "--parallel-max", "50", "-o", "/dev/null"),
        *("-w", "%{http_code} %{size_download}\n", f"{server}/large/[100001-100050]"),
    )
    lines = sorted(re.findall(r"^\d{3} \d+$", answer, re.MULTILINE))
    assert lines == [f"200 {size}" for size in range(100_001, 100_051)]


STREAMS = ("stream", "stream-sync", "stream-sized", "trailed")


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_reads_a_stream_to_its_end(server, curl, version, stream, tmp_path):
    """A body that is made as it is sent arrives whole, chunked or until the connection ends."""
    for size in (0, 1, 100_000, 3 * MIB):
        path = tmp_path / str(size)
        curl(version, "-o", str(path), f"{server}/{stream}/{size}")
        assert path.read_bytes() == content(size)
    head = curl(version, "-I", f"{server}/{stream}/1000").lower()
    assert ("content-length: 1000\r\n" in head) == (stream == "stream-sized")


def test_curl_sees_the_chunks_and_the_trailers(server, curl):
    """--raw shows the framing: chunks, the last one, trailers; -D lists the trailers too."""
    digest = hashlib.sha256(content(100)).hexdigest()
    raw = curl("--raw", f"{server}/trailed/100")
    assert raw.startswith("64\r\n")
    assert raw.endswith(f"\r\n0\r\nx-sha256: {digest}\r\n\r\n")
    assert f"x-sha256: {digest}\r\n" in curl("-D", "-", "-o", "/dev/null", f"{server}/trailed/100")


def test_curl_keeps_its_connection_behind_streams(server, curl):
    """Chunked and sized streams, and HEADs of them, leave the connection in use."""
    each = ("-o", "/dev/null", "-w", "%{num_connects} ")
    arguments: list[str] = []
    for stream in STREAMS * 2:
        arguments += [*each, f"{server}/{stream}/50000", "--next", "-sS"]
        arguments += [*each, "-I", f"{server}/{stream}/50000", "--next", "-sS"]
    assert curl(*arguments, *each, server).split() == ["1"] + ["0"] * 16


def test_curl_tells_a_cut_stream_from_a_whole_one(server, needs):
    """A handler that fails behind its first piece: curl says that the transfer is partial."""
    report = output_of(needs("curl"), "-sS", f"{server}/cut", statuses=(18,))
    assert report.startswith("a beginning")
    assert "not to be seen" not in report


def test_curl_is_told_early_hints(server, curl):
    """103 comes before the answer, and not in HTTP/1.0."""
    answer = curl("-i", f"{server}/hinted")
    assert answer.startswith(f"HTTP/1.1 103 Early Hints\r\nLink: {STYLE}\r\n\r\nHTTP/1.1 200 OK")
    assert answer.endswith("\r\n\r\nat last")
    assert curl("-i", "--http1.0", f"{server}/hinted").startswith("HTTP/1.1 200 OK")


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_gets_each_piece_when_it_is_made(served, needs, curl, version):
    """The first line is there while the handler waits for what the client does next."""
    address = f"{served.url}/gated/curl"
    command = [needs("curl"), "-sSN", version, "--max-time", "60", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline() == b"first\n"
        curl("-d", "", f"{served.url}/release/curl")
        assert reader.stdout.read() == b"second\n"


def test_a_generator_ends_when_curl_leaves(server, needs, curl):
    """An endless stream is closed when nobody reads it any more."""
    for version in ("--http1.1", "--http1.0"):
        name = f"curl{version}"
        command = [needs("curl"), "-sSN", version, f"{server}/endless/{name}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
            assert reader.stdout.read(1)
            reader.terminate()
        until(lambda name=name: curl(f"{server}/left/{name}") == "true")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes about by itself."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


# --- wget --------------------------------------------------------------------------------


@pytest.fixture
def wget(needs):
    """wget(arguments, ...): what it prints, body first, on one of these exit statuses."""
    program = needs("wget")

    def wget(*arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
        return output_of(
            *(program, "-nv", "-O", "-", "--tries=1", "--timeout=60", *arguments),
            statuses=statuses)

    return wget


def test_wget_gets_posts_and_follows(server, wget, upload):
    """wget downloads, follows redirects, posts files, and sees errors as such."""
    path, expected = upload(300_000)
    assert wget("-q", f"{server}/redirect/3") == "Hello, World!"
    assert without_pieces(json.loads(wget("-q", f"--post-file={path}", f"{server}/count"))) == (
        expected)
    assert wget("-q", "--compression=gzip", f"{server}/zipped") == "zipped " * 1000
    assert "200 OK" in wget("-S", "--spider", f"{server}/large/1000")
    assert "404" in wget(f"{server}/nowhere", statuses=(8,))


def test_wget_reads_a_stream(server, wget, tmp_path):
    """Chunked bodies, which wget decodes itself, are whole."""
    for stream in STREAMS:
        path = tmp_path / stream
        wget("-q", "-O", str(path), f"{server}/{stream}/{MIB}")
        assert path.read_bytes() == content(MIB)


def test_wget_reuses_its_connection(server, wget):
    """Several addresses in one call go over one connection."""
    report = wget("--verbose", *[f"{server}/users/{i}" for i in range(5)])
    assert len(re.findall(r"Connecting to", report)) == 1
    assert len(re.findall(r"Reusing existing connection", report)) == 4


def test_wget_fetches_a_page_with_what_it_needs(server, needs, tmp_path):
    """-p takes the page apart and gets its style, its script and its picture."""
    output_of(needs("wget"), "-q", "-p", "-nH", "-P", str(tmp_path), f"{server}/page")
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"dot.png", "page", "page.css", "page.js"}


# --- load generators ---------------------------------------------------------------------


def test_wrk_sees_no_error(server, needs):
    """A second of load on 32 connections: every answer is a 200, no socket error."""
    for path in ("json", "stream/30000"):
        report = output_of(needs("wrk"), "-t1", "-c32", "-d1s", f"{server}/{path}")

        assert int(re.search(r"(\d+) requests in", report)[1]) > 100
        assert "Non-2xx" not in report
        assert "Socket errors" not in report


@pytest.mark.parametrize("path", ["/", "/large/50000", "/stream-sized/50000", "/stream/50000"])
@pytest.mark.parametrize("keep_alive", [[], ["-k"]])
def test_ab_sees_no_error(server, needs, keep_alive, path):
    """ApacheBench speaks HTTP/1.0, with and without keep-alive."""
    report = output_of(
        needs("ab"), "-q", "-n", "500", "-c", "10", *keep_alive, f"{server}{path}")

    assert re.search(r"Failed requests: +0\n", report)
    assert re.search(r"Complete requests: +500\n", report)
    kept = bool(keep_alive) and path != "/stream/50000"  # whose end is that of the connection
    assert bool(re.search(r"Keep-Alive requests: +500\n", report)) == kept


def test_ab_posts_and_asks_for_heads(server, needs, upload):
    """Bodies in HTTP/1.0, and HEAD answers that end where they should."""
    path, _ = upload(5000)
    for options in (["-p", path, "-T", "application/octet-stream"], ["-i"]):
        report = output_of(
            *(needs("ab"), "-q", "-k", "-n", "300", "-c", "5", *options),
            f"{server}/{'count' if '-p' in options else 'large/3000'}",
        )
        assert re.search(r"Complete requests: +300\n", report)
        assert re.search(r"Failed requests: +0\n", report)
        assert "Non-2xx" not in report


def test_h2load_pipelines(server, needs, upload):
    """h2load over HTTP/1.1 with sixteen requests on the way at once, plain, posted, streamed."""
    path, _ = upload(500)
    for options, target in (([], "json"), (["-d", path], "echo"), ([], "stream/2000")):
        report = output_of(
            *(needs("h2load"), "--h1", "-n", "1600", "-c", "10", "-m", "16", *options),
            f"{server}/{target}",
        )
        assert "1600 succeeded, 0 failed, 0 errored" in report
        assert "status codes: 1600 2xx" in report


# --- Python's libraries ------------------------------------------------------------------


def test_httpx_keeps_its_connection(server):
    """Everything that a client asks, error answers included, goes over one connection."""
    with httpx.Client(base_url=server, timeout=60) as client:
        ports = set()
        for path in ("/", "/large/100000", "/nowhere", "/nothing", "/json"):
            client.get(path)
            assert client.head(path).content == b""
            assert client.post("/echo", content=b"x" * 10_000).content == b"x" * 10_000
            ports.add(client.get("/seen").json()["port"])
        assert len(ports) == 1


def test_httpx_speaks_of_everything(server):
    """Parameters, JSON, cookies, redirects, conditions and streams, both ways."""
    with httpx.Client(base_url=server, follow_redirects=True, timeout=60) as client:
        assert client.get("/users/7", params={"page": "ü &"}).json() == {"id": 7, "page": "ü &"}
        assert client.post("/echo", json={"a": [1]}).json() == {"a": [1]}
        assert client.get("/redirect/3").text == "Hello, World!"
        assert client.get("/cookies/set", params={"a": "1"}).json() == {"a": "1"}
        assert client.get("/cookies").json() == {"a": "1"}
        assert client.get("/zipped").text == "zipped " * 1000
        assert client.get("/tagged", headers={"if-none-match": '"a-tag"'}).status_code == 304
        pieces = (content(MIB)[i : i + 10_000] for i in range(0, MIB, 10_000))
        assert without_pieces(client.put("/count", content=pieces).json()) == counted(MIB)
        with client.stream("GET", f"/large/{MIB}") as answer:
            assert b"".join(answer.iter_bytes()) == content(MIB)


def test_httpx_reads_streams_as_they_are_made(server):
    """Pieces arrive one by one, whole bodies whole, and a cut one is an error."""
    given = {"base_url": server, "timeout": 60}
    with httpx.Client(**given) as client, httpx.Client(**given) as other:
        with client.stream("GET", "/gated/httpx") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "first"
            other.post("/release/httpx")
            assert list(lines) == ["second"]
        for stream in STREAMS:
            assert client.get(f"/{stream}/{MIB}").content == content(MIB)
        assert client.get("/hinted").text == "at last"
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/cut")
        assert client.get("/").text == "Hello, World!"


def test_httpx_reads_its_refusal(server):
    """Who uploads too much reads why, and goes on."""
    with httpx.Client(base_url=server, timeout=60) as client:
        assert client.post("/small", content=b"x" * 100_000).status_code == 413
        assert client.get("/").text == "Hello, World!"


def test_httpx_asks_side_by_side(server):
    """A hundred requests at once on ten connections."""

    async def work() -> tuple[set[str], int]:
        limits = httpx.Limits(max_connections=10)
        async with httpx.AsyncClient(base_url=server, limits=limits, timeout=60) as client:
            answers = await asyncio.gather(*[client.get("/slow") for _ in range(100)])
            ports = await asyncio.gather(*[client.get("/seen") for _ in range(100)])
        return {answer.text for answer in answers}, len({a.json()["port"] for a in ports})

    texts, connections = asyncio.run(work())
    assert texts == {"at last"}
    assert connections <= 10


def session() -> requests.Session:
    """A session that waits no longer than a minute; requests itself waits for ever."""
    client = requests.Session()
    client.request = functools.partial(client.request, timeout=60)
    return client


def test_requests_keeps_its_session(server):
    """requests: one connection, cookies, redirects, chunked and sized bodies."""
    with session() as client:
        ports = set()
        for _ in range(10):
            assert client.get(server).text == "Hello, World!"
            assert client.get(f"{server}/nowhere").status_code == 404
            assert client.head(f"{server}/large/1000").headers["content-length"] == "1000"
            assert client.get(f"{server}/nothing").status_code == 204
            ports.add(client.get(f"{server}/seen").json()["port"])
        assert len(ports) == 1
        assert client.get(f"{server}/cookies/set", params={"a": "1"}).json() == {"a": "1"}
        assert client.get(f"{server}/redirect/4").text == "Hello, World!"
        assert client.post(f"{server}/moved", data=b"kept").content == b"kept"
        assert client.post(f"{server}/echo", json={"a": 1}).json() == {"a": 1}
        assert client.get(f"{server}/zipped").text == "zipped " * 1000
        sized = client.put(f"{server}/count", data=content(MIB)).json()
        assert without_pieces(sized) == counted(MIB)
        pieces = (content(MIB)[i : i + 10_000] for i in range(0, MIB, 10_000))
        assert without_pieces(client.post(f"{server}/count", data=pieces).json()) == counted(MIB)
        with client.get(f"{server}/large/{MIB}", stream=True) as answer:
            assert b"".join(answer.iter_content(10_000)) == content(MIB)


def test_requests_reads_streams_as_they_are_made(server):
    """The same for requests, but for the 103, which http.client takes for the answer."""
    with session() as client:
        with client.get(f"{server}/gated/requests", stream=True) as answer:
            lines = answer.iter_lines(chunk_size=1)
            assert next(lines) == b"first"
            requests.post(f"{server}/release/requests", timeout=60)
            assert list(lines) == [b"second"]
        for stream in STREAMS:
            assert client.get(f"{server}/{stream}/{MIB}").content == content(MIB)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            client.get(f"{server}/cut")


def test_aiohttp_reads_streams_as_they_are_made(server):
    """The same for aiohttp."""

    async def work() -> None:
        async with aiohttp.ClientSession(server) as client:
            async with client.get("/gated/aiohttp") as answer:
                assert await answer.content.readline() == b"first\n"
                async with client.post("/release/aiohttp"):
                    pass
                assert await answer.content.read() == b"second\n"
            for stream in STREAMS:
                async with client.get(f"/{stream}/{MIB}") as answer:
                    assert await answer.read() == content(MIB)
            async with client.get("/hinted") as answer:
                assert await answer.text() == "at last"
            with pytest.raises(aiohttp.ClientPayloadError):
                async with client.get("/cut") as answer:
                    await answer.read()

    asyncio.run(work())


def test_aiohttp_does_everything(server):
    """aiohttp's client, whose parser is llhttp: the same things, and many at once."""

    async def work() -> None:
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an IP address too
        async with aiohttp.ClientSession(server, cookie_jar=jar) as client:
            await ask_one_by_one(client)
            answers = await asyncio.gather(*[text_of(client, "/slow") for _ in range(100)])
            assert set(answers) == {"at last"}
            async with client.get("/cookies/set", params={"a": "1"}) as answer:
                assert await answer.json() == {"a": "1"}

    async def text_of(client: aiohttp.ClientSession, path: str) -> str:
        async with client.get(path) as answer:
            return await answer.text()

    async def ask_one_by_one(client: aiohttp.ClientSession) -> None:
        ports = set()
        for _ in range(10):
            assert await text_of(client, "/") == "Hello, World!"
            async with client.head("/large/1000") as answer:
                assert answer.headers["content-length"] == "1000"
            async with client.get("/nothing") as answer:
                assert (answer.status, await answer.read()) == (204, b"")
            async with client.get("/seen") as answer:
                ports.add((await answer.json())["port"])
        assert len(ports) == 1
        assert await text_of(client, "/zipped") == "zipped " * 1000
        assert await text_of(client, "/redirect/4") == "Hello, World!"
        async with client.put("/count", data=content(MIB), expect100=True) as answer:
            assert without_pieces(await answer.json()) == counted(MIB)
        async with client.post("/count", data=in_pieces()) as answer:
            assert without_pieces(await answer.json()) == counted(MIB)
        async with client.get(f"/large/{MIB}") as answer:
            assert await answer.read() == content(MIB)
        async with client.post("/small", data=b"x" * 100_000) as answer:
            assert answer.status == 413

    async def in_pieces():
        for start in range(0, MIB, 10_000):
            yield content(MIB)[start : start + 10_000]

    asyncio.run(work())


def test_the_standard_library_asks(server):
    """http.client, which urllib stands on, keeps its connection and sends chunks."""
    import http.client

    client = http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)
    try:
        ports = set()
        for _ in range(5):
            client.request("POST", "/seen", body=iter([b"in ", b"pieces"]), encode_chunked=True)
            answer = json.loads(client.getresponse().read())
            assert answer["body"] == "in pieces"
            ports.add(answer["port"])
        assert len(ports) == 1
    finally:
        client.close()


# --- over a unix socket ------------------------------------------------------------------


@pytest.fixture(scope="module")
def socket_path() -> Iterator[str]:
    """Where a server listens that has no port; short enough for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="served") as directory:
        path = f"{directory}/socket"
        with serve_in_process(Path(directory), "--uds", path):
            yield path


def test_curl_over_a_unix_socket(socket_path, curl, upload, tmp_path):
    """Answers, streams, uploads with an invitation, and the connection that is kept."""
    over = ("--unix-socket", socket_path)
    assert curl(*over, "http://here/") == "Hello, World!"
    path, expected = upload(2 * MIB)
    answer = curl(*over, "-T", path, "http://here/count")
    assert without_pieces(json.loads(answer)) == expected
    whole = str(tmp_path / "whole")
    report = curl(
        *(*over, "-w", "%{num_connects} ", "-o", whole, "-o", "/dev/null", "-o", "/dev/null"),
        *(f"http://here/stream/{MIB}", "http://here/large/5000000", "http://here/nowhere"),
    )
    assert report.split() == ["1", "0", "0"]
    assert Path(whole).read_bytes() == content(MIB)


def test_libraries_over_a_unix_socket(socket_path):
    """httpx and aiohttp, both ways, whole and in pieces."""
    transport = httpx.HTTPTransport(uds=socket_path)
    with httpx.Client(transport=transport, base_url="http://here", timeout=60) as client:
        for _ in range(5):
            assert client.get("/json").json() == {"message": "Hello, World!"}
            assert client.get(f"/stream/{MIB}").content == content(MIB)
            assert without_pieces(client.put("/count", content=content(MIB)).json()) == (
                counted(MIB))
            assert client.get("/seen").json()["method"] == "GET"

    async def work() -> list[bytes]:
        connector = aiohttp.UnixConnector(socket_path)
        async with aiohttp.ClientSession("http://here", connector=connector) as client:

            async def ask() -> bytes:
                async with client.get("/large/100000") as answer:
                    return await answer.read()

            return await asyncio.gather(*[ask() for _ in range(50)])

    assert set(asyncio.run(work())) == {content(100_000)}


# --- nobody's client ---------------------------------------------------------------------


def test_a_server_sent_nonsense_lives(served):
    """Random bytes are answered or dropped, and the next client is served."""
    noise = random.Random(7)
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
            client.sendall(noise.randbytes(noise.randrange(1, 5000)) + b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(65536):
                    pass
            except ConnectionResetError:
                pass

    assert httpx.get(served.url, timeout=60).text == "Hello, World!"
