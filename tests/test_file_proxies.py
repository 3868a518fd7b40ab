"""nginx and HAProxy in front of a server with files, over TCP and over its unix socket."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clients_app import MIB, content
from files_app import BROTLI, CHANGED, CONTENTS, GZIPPED, SCRIPT
from proxy_process import ProxyProcess, proxy_in_process
from server_process import ServerProcess, output_of, serve_files

PATHS = ("files", "single")
UPSTREAMS = ("tcp", "unix")
PROXIES = ("nginx", "haproxy")
# a server that keeps idle connections for half a second, and when it has surely closed them
SHORT = ("--keep-alive-timeout-s", "0.5", "--header-timeout-s", "0.5")
OVER_S = 1.0
MIDDLE = CONTENTS["middle.bin"]
LARGE = CONTENTS["large.bin"]


@contextlib.contextmanager
def served_at(kind: str, *flags: str) -> Iterator[ServerProcess]:
    """A server with files, over TCP or over a unix socket."""
    with tempfile.TemporaryDirectory(prefix="files") as directory:
        if kind == "unix":
            flags += ("--uds", f"{directory}/socket")
        with serve_files(Path(directory), *flags) as served:
            yield served


def address_of(served: ServerProcess) -> str:
    """Where a proxy finds it."""
    return served.url.removeprefix("http://")


@pytest.fixture(scope="module", params=UPSTREAMS)
def upstream(request) -> Iterator[str]:
    """Where the proxies find the server."""
    with served_at(request.param) as served:
        yield address_of(served)


@pytest.fixture(params=PROXIES)
def proxy(request, upstream, needs) -> Iterator[ProxyProcess]:
    """Each proxy in turn, which must have nothing to complain of when it is stopped."""
    with proxy_in_process(request.param, needs, upstream) as proxy:
        yield proxy
        proxy.stop()
        assert proxy.complaints() == []


@pytest.fixture
def client(proxy) -> Iterator[httpx.Client]:
    """A client whose requests go through the proxy."""
    with proxy.client() as client:
        yield client


def connections_to(upstream: str) -> set[str]:
    """The inodes of the server's connections on its unix socket."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    path, connected = upstream.removeprefix("unix:"), "03"
    fields = [line.split(maxsplit=7) for line in lines]
    return {f[6] for f in fields if len(f) == 8 and f[5] == connected and f[7] == path}


@pytest.mark.parametrize("prefix", ["", "/unbuffered", "/old"])
def test_files_go_through_whole(client, prefix):
    """Every size, by GET and HEAD, whatever the proxy buffers."""
    client.headers["accept-encoding"] = "identity"
    for name, data in CONTENTS.items():
        for path in PATHS:
            url = f"{prefix}/{path}/{name}"
            head = client.head(url)
            assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
            answer = client.get(url)
            assert answer.content == data
            assert answer.headers["last-modified"] == CHANGED
    assert client.get(f"{prefix}/files/nothing").status_code == 404


@pytest.mark.parametrize("path", PATHS)
def test_ranges_and_conditions_go_through(client, path):
    """206, 304, 412 and 416 come out as they went in, with their fields."""
    url = f"/{path}/middle.bin"
    tag = client.head(url).headers["etag"]
    assert tag.startswith('"')
    for headers, status, body in (
        ({"range": "bytes=1000-1999"}, 206, MIDDLE[1000:2000]),
        ({"range": "bytes=-500", "if-range": tag}, 206, MIDDLE[-500:]),
        ({"range": "bytes=5-9", "if-range": '"another"'}, 200, MIDDLE),
        ({"range": f"bytes={MIB}-"}, 416, None),
        ({"if-none-match": tag}, 304, b""),
        ({"if-modified-since": CHANGED}, 304, b""),
        ({"if-match": '"another"'}, 412, None),
    ):
        answer = client.get(url, headers=headers)
        assert answer.status_code == status, headers
        assert body is None or answer.content == body
        if status == 206:
            assert answer.headers["content-range"].endswith(f"/{MIB}")
    several = client.get(url, headers={"range": "bytes=0-9,500000-599999"})
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert MIDDLE[500_000:600_000] in several.content


def test_siblings_go_through(client):
    """A compressed file is not compressed again, and its length is its own."""
    for accepted, length in (("br", len(BROTLI)), ("gzip", len(GZIPPED)), ("x", len(SCRIPT))):
        answer = client.get("/files/page.js", headers={"accept-encoding": accepted})
        assert answer.content == SCRIPT
        assert answer.headers["content-length"] == str(length)


def test_curl_resumes_through(proxy, needs, tmp_path):
    """-C - completes a file through the proxy."""
    saved = tmp_path / "saved"
    saved.write_bytes(LARGE[:4_000_000])
    report = output_of(
        *(needs("curl"), "-sS", "--unix-socket", proxy.socket_path, "-C", "-", "-o", str(saved)),
        *("-w", "%{http_code}", "http://proxied/files/large.bin"),
    )
    assert report == "206"
    assert saved.read_bytes() == LARGE


@pytest.mark.parametrize("prefix", ["", "/unbuffered"])
def test_forms_and_uploads_go_through(client, prefix):
    """A form with a file of 10 MiB, an upload in pieces, a stream back."""
    digest = hashlib.sha256(LARGE).hexdigest()
    files = {"file": ("ü.bin", LARGE, "application/x-thing")}
    answer = client.post(f"{prefix}/form", data={"text": "a b&c"}, files=files)
    assert answer.json() == {
        "text": ["a b&c"], "file": [["ü.bin", "application/x-thing", len(LARGE), digest]]}
    pieces = (LARGE[i : i + 50_000] for i in range(0, len(LARGE), 50_000))
    assert client.put(f"{prefix}/count", content=pieces).json()["sha256"] == digest
    for stream in ("stream", "stream-sync", "stream-sized", "trailed"):
        assert client.get(f"{prefix}/{stream}/{MIB}").content == content(MIB)


@pytest.mark.parametrize("upstream", ["unix"], indirect=True)
def test_a_connection_over_a_unix_socket_is_kept(proxy, upstream):
    """One is there all along, while several clients ask for everything."""
    samples = []
    for _ in range(5):
        with proxy.client() as client:
            for path in ("/", "/files/small.bin", "/files/large.bin", "/stream/50000", "/teapot"):
                client.get(path)
                client.post("/echo", content=b"x" * 10_000)
                samples.append(connections_to(upstream))
    assert len(set.intersection(*samples)) == 1
    # beside it HAProxy opens one for each of its health checks
    assert proxy.name == "haproxy" or len(set.union(*samples)) == 1


@pytest.mark.parametrize("kind", UPSTREAMS)
@pytest.mark.parametrize("name", PROXIES)
def test_a_server_that_closes_first_makes_no_502(needs, kind, name):
    """Where the server closes what is idle sooner than the proxy, a GET is tried again.

    The proxy is stopped while a request comes and the connection that it keeps ends, so that it
    finds both at once.
    """
    with (
        served_at(kind, *SHORT) as served,
        proxy_in_process(name, needs, address_of(served), retries=3) as proxy,
        client_socket(proxy) as client,
    ):
        send(client)
        assert next_status(client) == 200
        with proxy.stopped():
            send(client)
            time.sleep(OVER_S)
        assert next_status(client) == 200


@contextlib.contextmanager
def client_socket(proxy: ProxyProcess) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(proxy.socket_path)
        yield client


def send(client: socket.socket) -> None:
    client.sendall(b"GET /seen HTTP/1.1\r\nHost: proxied\r\n\r\n")


def next_status(client: socket.socket) -> int:
    """The status of the next answer, which is read to its end."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status
