"""Forms and uploads as real clients send them, to the example that takes them."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import httpx
import pytest
from server_process import output_of, serve_in_process

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """`fastserve run examples/upload.py --decompress-requests` on a port of its own."""
    with serve_in_process(
        tmp_path_factory.mktemp("uploads"), "--decompress-requests", "--form-memory-bytes", "1000",
        target=str(ROOT / "examples" / "upload.py"),
    ) as served:
        yield served.url


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
