"""nginx and HAProxy in front of a real server: connections to it are kept and used again.

A test ends with what the proxy logged: an upstream that closed early, or any retry, is a
failure even where the proxy hid it from the client.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from clients_app import MIB, content
from proxy_process import KEPT, ProxyProcess, proxy_in_process
from server_process import ServerProcess, output_of, serve_in_process


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServerProcess]:
    """One server for both proxies."""
    with serve_in_process(tmp_path_factory.mktemp("proxied")) as served:
        yield served


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request, served, needs) -> Iterator[ProxyProcess]:
    """Each proxy in turn, which must have nothing to complain of when it is stopped."""
    with proxy_in_process(request.param, needs, f"127.0.0.1:{served.port}") as proxy:
        yield proxy
        proxy.stop()
        assert proxy.complaints() == []


def ports_of(client: httpx.Client, path: str = "/seen", count: int = 20) -> set[int]:
    """The ports that the server sees requests come from: one for each connection to it."""
    return {client.get(path).json()["port"] for _ in range(count)}


def test_one_connection_serves_a_client(proxy):
    """Fifty requests of every kind go to the server over one connection."""
    with proxy.client() as client:
        ports = set()
        for _ in range(10):
            assert client.get("/").text == "Hello, World!"
            assert client.get("/users/7", params={"page": "a/b"}).json()["page"] == "a/b"
            assert client.head("/large/1000").headers["content-length"] == "1000"
            assert client.get("/nothing").status_code == 204
            assert client.get("/teapot").status_code == 418
            assert client.post("/echo", content=b"body").content == b"body"
            assert client.get("/tagged", headers={"if-none-match": '"a-tag"'}).status_code == 304
            ports |= ports_of(client, count=1)
        assert len(ports) == 1


def test_one_connection_serves_many_clients(proxy):
    """Clients that come one behind the other share the connection to the server."""
    ports = set()
    for _ in range(20):
        with proxy.client() as client:
            ports |= ports_of(client, count=2)
    assert len(ports) == 1


def test_many_clients_at_once_share_what_is_kept(proxy):
    """Eight clients at once, fifty requests each: no more connections than the proxy keeps."""

    def work(_: int) -> set[int]:
        with proxy.client() as client:
            for _ in range(25):
                assert client.get("/large/10000").content == content(10_000)
            return ports_of(client, count=25)

    with ThreadPoolExecutor(KEPT) as pool:
        ports = set().union(*pool.map(work, range(KEPT)))
    assert len(ports) <= KEPT


@pytest.mark.parametrize("prefix", ["", "/unbuffered", "/old"])
@pytest.mark.parametrize("size", [0, 1000, 5 * MIB])
def test_bodies_go_through_whole(proxy, prefix, size):
    """Uploads of known and of unknown length, and large answers, whatever the proxy buffers."""
    expected = {"size": size, "sha256": hashlib.sha256(content(size)).hexdigest()}
    with proxy.client() as client:
        for body in (content(size), pieces_of(size)):
            answer = client.put(f"{prefix}/count", content=body).json()
            assert {name: answer[name] for name in expected} == expected
        assert client.get(f"{prefix}/large/{size}").content == content(size)
        assert client.head(f"{prefix}/large/{size}").headers["content-length"] == str(size)


def pieces_of(size: int) -> Iterator[bytes]:
    for start in range(0, size, 50_000):
        yield content(size)[start : start + 50_000]


@pytest.mark.parametrize("prefix", ["", "/unbuffered", "/old"])
def test_streams_go_through_whole(proxy, prefix):
    """Bodies that are made as they are sent, chunked, sized or until the connection ends."""
    with proxy.client() as client:
        for stream in ("stream", "stream-sync", "stream-sized", "trailed"):
            for size in (0, 1000, 2 * MIB):
                assert client.get(f"{prefix}/{stream}/{size}").content == content(size)
            assert client.head(f"{prefix}/{stream}/1000").status_code == 200


def test_streams_leave_the_connection_in_use(proxy):
    """The end of a chunked body does not cost the proxy its connection."""
    with proxy.client() as client:
        ports = ports_of(client, count=1)
        for stream in ("stream", "stream-sized", "trailed"):
            for _ in range(3):
                client.get(f"/{stream}/50000")
                client.head(f"/{stream}/50000")
                ports |= ports_of(client, count=1)
        assert len(ports) == 1


def test_pieces_go_through_when_they_are_made(proxy):
    """The first line reaches the client while the handler waits: X-Accel-Buffering is heeded."""
    with proxy.client() as client, proxy.client() as other:
        for prefix in ("", "/unbuffered"):
            with client.stream("GET", f"{prefix}/gated/{proxy.name}") as answer:
                lines = answer.iter_lines()
                assert next(lines) == "first"
                other.post(f"/release/{proxy.name}")
                assert list(lines) == ["second"]


def test_a_generator_ends_when_the_client_of_a_proxy_leaves(proxy):
    """The proxy closes its connection to the server, and the server the generator."""
    with proxy.client() as client, proxy.client() as other:
        with client.stream("GET", f"/unbuffered/endless/{proxy.name}") as answer:
            next(answer.iter_bytes())
        deadline = time.monotonic() + 30
        while not other.get(f"/left/{proxy.name}").json():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("proxy", ["haproxy"], indirect=True)
def test_early_hints_do_no_harm(proxy):
    """The answer arrives behind a 103. nginx before 1.29 takes the 103 for the answer itself."""
    with proxy.client() as client:
        assert client.get("/hinted").text == "at last"
        assert client.get("/").text == "Hello, World!"


@pytest.mark.parametrize("prefix", ["", "/unbuffered"])
def test_a_refused_upload_is_read_as_refused(proxy, prefix):
    """The 413 that comes while the proxy still sends reaches the client, not a 502."""
    with proxy.client() as client:
        for body in (b"x" * 200_000, pieces_of(200_000)):
            assert client.post(f"{prefix}/small", content=body).status_code == 413
        assert client.get("/").text == "Hello, World!"


def test_the_server_sees_what_the_proxy_says(proxy):
    """Method, target and version as the proxy sends them; the Host it was told to."""
    with proxy.client() as client:
        seen = client.request("PURGE", "/seen?a=%2F&b=1").json()
        assert (seen["method"], seen["target"]) == ("PURGE", "/seen?a=%2F&b=1")
        assert seen["version"] == "1.1"
        assert ["host", "proxied"] in seen["headers"]


def test_redirects_and_cookies_go_through(proxy):
    """Location and several Set-Cookie come out as they went in."""
    with proxy.client() as client:
        answer = client.get("/cookies/set", params={"a": "1", "b": "2"})
        assert answer.headers["location"] == "/cookies"
        assert len(answer.headers.get_list("set-cookie")) == 2
        assert client.get("/cookies").json() == {"a": "1", "b": "2"}


def test_an_upgrade_is_refused(proxy):
    """Asked for WebSocket, a plain route answers what it is, and the connection stays in use."""
    handshake = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    with proxy.client() as client:
        before = ports_of(client, count=1)
        answer = client.get("/seen", headers=handshake)
        assert answer.status_code == 200
        assert ["upgrade", "websocket"] in answer.json()["headers"]
        assert ports_of(client, count=5) == before


def test_curl_pipelines_nothing_through_but_asks_much(proxy, needs):
    """curl over the proxy's socket: a hundred answers, each whole."""
    report = output_of(
        *(needs("curl"), "-sS", "--unix-socket", proxy.socket_path, "-o", "/dev/null"),
        *("-w", "%{http_code} %{size_download}\n", "http://proxied/large/[1001-1100]"),
    )
    assert report.split("\n")[:-1] == [f"200 {size}" for size in range(1001, 1101)]


def test_a_client_that_leaves_costs_the_others_nothing(proxy):
    """Dropped in the middle of an upload or an answer, a client takes no other one along."""
    head = b"Host: proxied\r\nContent-Length: 1000000\r\n\r\n"
    for request in (b"POST /unbuffered/count HTTP/1.1\r\n" + head + b"a beginning",
                    b"GET /unbuffered/large/5000000 HTTP/1.1\r\nHost: proxied\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(proxy.socket_path)
            client.sendall(request)
            time.sleep(0.05)
    with proxy.client() as client:
        assert len(ports_of(client)) == 1
