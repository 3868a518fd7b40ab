"""Real clients against a real server process: curl, wrk, ab, h2load, httpx."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent


def address_of(process: subprocess.Popen) -> str:
    """The URL that a started server says it listens on."""
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"listening on (http://[\d.]+:\d+)", line):
            return found[1]
    pytest.fail(f"the server did not start: {said}")


@pytest.fixture(scope="module", params=["native", "httptools"])
def server(request):
    """`fastserve run examples/hello.py` on a port of its own; yields its base URL."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fastserve", "run", "examples/hello.py"),
            *("--port", "0", "--http", request.param),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield address_of(process)
    process.terminate()
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def output_of(*command: str) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_curl_gets_posts_and_asks_for_heads(server, needs):
    """curl understands every kind of answer, in HTTP/1.0 too."""
    curl = needs("curl")

    assert output_of(curl, "-sS", server) == "Hello, World!"
    assert output_of(curl, "-sS", "--http1.0", server) == "Hello, World!"
    assert output_of(curl, "-sS", f"{server}/users/7") == '{"id":7}'
    assert output_of(curl, "-sS", "-d", "some bytes", f"{server}/echo") == "some bytes"
    assert "HTTP/1.1 200 OK" in output_of(curl, "-sSI", server)
    assert "HTTP/1.1 404" in output_of(curl, "-sSi", f"{server}/users/x")
    assert "Allow: GET, HEAD, OPTIONS" in output_of(curl, "-sSi", "-X", "POST", server)


def test_curl_uploads_chunked_and_with_an_invitation(server, needs, tmp_path):
    """A body without a length, and one that waits for 100 Continue, arrive whole."""
    curl = needs("curl")
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 3000)
    answer = tmp_path / "answer"
    for header in ("Transfer-Encoding: chunked", "Expect: 100-continue"):
        output_of(
            *(curl, "-sS", "-H", header, "--data-binary", f"@{body}"),
            *("-o", str(answer), f"{server}/echo"),
        )
        assert answer.read_bytes() == body.read_bytes()


def test_wrk_sees_no_error(server, needs):
    """A second of load on 32 connections: every answer is a 200, no socket error."""
    report = output_of(needs("wrk"), "-t1", "-c32", "-d1s", f"{server}/json")

    assert int(re.search(r"(\d+) requests in", report)[1]) > 100
    assert "Non-2xx" not in report
    assert "Socket errors" not in report


@pytest.mark.parametrize("keep_alive", [[], ["-k"]])
def test_ab_sees_no_error(server, needs, keep_alive):
    """ApacheBench speaks HTTP/1.0, with and without keep-alive."""
    report = output_of(needs("ab"), "-q", "-n", "500", "-c", "10", *keep_alive, f"{server}/")

    assert re.search(r"Failed requests: +0\n", report)
    assert re.search(r"Complete requests: +500\n", report)


def test_h2load_pipelines(server, needs):
    """h2load over HTTP/1.1 with sixteen requests on the way at once."""
    report = output_of(
        needs("h2load"), "--h1", "-n", "3200", "-c", "10", "-m", "16", f"{server}/json"
    )

    assert "3200 succeeded, 0 failed, 0 errored" in report


def test_httpx_keeps_its_connection(server):
    """A Python client reuses one connection for everything."""
    with httpx.Client(base_url=server) as client:
        for _ in range(20):
            assert client.get("/").text == "Hello, World!"
        assert client.post("/echo", content=b"x" * 100_000).content == b"x" * 100_000
        assert client.get("/nowhere").status_code == 404
        assert client.post("/echo", content=b"x" * 1_100_000).status_code == 413


def test_a_server_sent_nonsense_lives(server):
    """Random bytes are answered or dropped, and the next client is served."""
    import random
    import socket
    from urllib.parse import urlsplit

    address = urlsplit(server)
    noise = random.Random(7)
    for _ in range(200):
        with socket.create_connection((address.hostname, address.port), timeout=10) as client:
            client.sendall(noise.randbytes(noise.randrange(1, 5000)) + b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(65536):
                    pass
            except ConnectionResetError:
                pass

    assert httpx.get(server).text == "Hello, World!"


@pytest.fixture(scope="module")
def uploads():
    """`fastserve run examples/upload.py --decompress-requests` on a port of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fastserve", "run", "examples/upload.py", "--port", "0"),
            *("--decompress-requests", "--form-memory-bytes", "1000"),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield address_of(process)
    process.terminate()
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def test_curl_sends_forms_and_files(uploads, needs, tmp_path):
    """`curl -F` and `curl -T`, with files on disk on both sides, and compressed by gzip."""
    curl = needs("curl")
    picture = tmp_path / "caf\u00e9 ;.png"
    picture.write_bytes(b"\x89PNG" + random.Random(7).randbytes(10_000_000))
    digest = hashlib.sha256(picture.read_bytes()).hexdigest()
    size = picture.stat().st_size
    form = ("-F", "title=Holiday;type=text/plain", "-F", f'photo=@"{picture}"')
    shown = f'"name":"{picture.name}","bytes":{size},"type":"image/png","is_png":true}}'

    assert output_of(curl, "-sS", *form, f"{uploads}/form") == f'{{"title":"Holiday",{shown}'
    assert f'"photo":"{digest}"' in output_of(curl, "-sS", *form, f"{uploads}/parts")
    assert output_of(curl, "-sS", "-T", str(picture), f"{uploads}/count") == f'{{"bytes":{size}}}'
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(picture.read_bytes()))
    assert output_of(
        *(curl, "-sS", "-H", "Content-Encoding: gzip", "--data-binary", f"@{packed}"),
        f"{uploads}/count",
    ) == f'{{"bytes":{size}}}'


def test_httpx_sends_forms_and_files(uploads):
    """multipart as httpx writes it, and urlencoded, where there is no photo."""
    with httpx.Client(base_url=uploads) as client:
        files = {"photo": ("a.png", b"\x89PNG" * 1000, "image/png")}
        reply = client.post("/form", data={"title": "Holiday"}, files=files)
        assert reply.json() == {
            "title": "Holiday", "name": "a.png", "bytes": 4000, "type": "image/png",
            "is_png": True,
        }
        assert client.post("/form", data={"photo": "x"}).status_code == 400
        assert client.post("/form", content=b"x" * 200_000_000).status_code in (413, 415)
